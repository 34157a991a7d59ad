//! Lists of permissions (POSIX ACLs): the system calls and ext4 write them differently.

/// The version of the form that the system calls use.
const VERSION: u32 = 2;
/// The version of ext4's form.
const VERSION_ON_DISK: u32 = 1;
/// The tags of entries that name a user or a group; only these have an id on disk.
const NAMED: [u16; 2] = [0x02, 0x08];
const TAGS: [u16; 6] = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20];

/// The list as ext4 stores it; `None` when `value` is none.
pub(crate) fn encode(value: &[u8]) -> Option<Vec<u8>> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
        return None;
    }
    let mut list = VERSION_ON_DISK.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        if !TAGS.contains(&tag) {
            return None;
        }
        let length = if NAMED.contains(&tag) { 8 } else { 4 };
        list.extend_from_slice(&entry[..length]);
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_entries_keep_an_id() {
        let list = |entries: &[(u16, u16, u32)]| {
            let mut bytes = VERSION.to_le_bytes().to_vec();
            for (tag, permissions, id) in entries {
                bytes.extend_from_slice(&tag.to_le_bytes());
                bytes.extend_from_slice(&permissions.to_le_bytes());
                bytes.extend_from_slice(&id.to_le_bytes());
            }
            bytes
        };
        let encoded = encode(&list(&[
            (1, 7, u32::MAX),
            (2, 5, 1000),
            (0x20, 4, u32::MAX),
        ]));
        assert_eq!(
            encoded.unwrap(),
            [
                1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 5, 0, 0xe8, 3, 0, 0, 0x20, 0, 4, 0
            ]
        );
        assert_eq!(encode(&list(&[(3, 7, 0)])), None);
        assert_eq!(encode(b""), None);
        assert_eq!(encode(&list(&[(1, 7, 0)])[..9]), None);
    }
}
