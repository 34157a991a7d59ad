//! Extended attributes, in the form in which ext4 names them, each different set kept once.

use std::hash::{BuildHasher, RandomState};

use banger_model::Result;
use hashbrown::HashTable;

use super::NONE;
use crate::ext4::acl;
use crate::name::shown;
use crate::refuse;

/// ext4's numbers for the beginnings of names. What has no number Linux cannot store.
const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
const ACL_ACCESS: (&[u8], u8) = (b"system.posix_acl_access", 2);
const ACL_DEFAULT: (&[u8], u8) = (b"system.posix_acl_default", 3);
/// What one block has room for, its header and its end mark apart.
const MAX_SPACE: usize = 4096 - 32 - 4;

/// One attribute as ext4 has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attribute<'a> {
    /// The number that stands for the beginning of the name.
    pub(crate) index: u8,
    /// The rest of the name.
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl Attribute<'_> {
    /// The bytes it takes in an inode or a block.
    pub(crate) fn space(&self) -> usize {
        16 + self.name.len().next_multiple_of(4) + self.value.len().next_multiple_of(4)
    }
}

/// All attributes of one inode, in the order in which ext4 wants them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Set<'a>(&'a [u8]);

impl<'a> Set<'a> {
    /// The attributes.
    pub(crate) fn iter(self) -> impl Iterator<Item = Attribute<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (head, tail) = rest.split_at_checked(4)?;
            let name_length = usize::from(head[1]);
            let value_length = usize::from(u16::from_le_bytes([head[2], head[3]]));
            let (name, tail) = tail.split_at_checked(name_length)?;
            let (value, tail) = tail.split_at_checked(value_length)?;
            rest = tail;
            Some(Attribute {
                index: head[0],
                name,
                value,
            })
        })
    }

    /// The bytes that all of them take.
    pub(crate) fn space(self) -> usize {
        self.iter().map(|attribute| attribute.space()).sum()
    }
}

/// Every different set, once: most files have none, and many have the same.
#[derive(Default)]
pub(crate) struct Attributes {
    bytes: Vec<u8>,
    table: HashTable<u32>,
    hasher: RandomState,
}

impl Attributes {
    /// Keeps a set and returns its number; `None` when that takes more than `room` bytes.
    pub(super) fn add(&mut self, set: &[u8], room: usize) -> Option<u32> {
        let hash = self.hasher.hash_one(set);
        if let Some(at) = self
            .table
            .find(hash, |at| at_offset(&self.bytes, *at) == set)
        {
            return Some(*at);
        }
        let at = self.bytes.len() as u32;
        self.bytes
            .extend_from_slice(&u16::try_from(set.len()).ok()?.to_le_bytes());
        self.bytes.extend_from_slice(set);
        let (bytes, hasher) = (&self.bytes, &self.hasher);
        self.table
            .insert_unique(hash, at, |at| hasher.hash_one(at_offset(bytes, *at)));
        (self.bytes.len() <= room).then_some(at)
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The set with the number that [`Attributes::add`] gave it; empty for [`NONE`].
    pub(super) fn get(&self, number: u32) -> Set<'_> {
        match number {
            NONE => Set(&[]),
            _ => Set(at_offset(&self.bytes, number)),
        }
    }
}

fn at_offset(bytes: &[u8], at: u32) -> &[u8] {
    let at = at as usize;
    let length = usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    &bytes[at + 2..at + 2 + length]
}

/// The attributes of an entry in ext4's names and order; `None` when there are none.
pub(super) fn encode(attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<Option<Vec<u8>>> {
    let mut found: Vec<(u8, &[u8], Vec<u8>)> = Vec::new();
    for (name, value) in attributes {
        let Some((index, rest)) = split(name) else {
            // What macOS writes into its archives. The kernel would not take it either.
            tracing::debug!(name = %shown(name), "an extended attribute is no Linux attribute");
            continue;
        };
        let wrong = |why: &str| refuse(format!("its extended attribute `{}` {why}", shown(name)));
        if rest.len() > 255 || rest.contains(&0) || (rest.is_empty() && index != 2 && index != 3) {
            return Err(wrong("has a name that is not valid"));
        }
        let value = match index {
            2 | 3 => acl::encode(value).ok_or_else(|| wrong("is not a list of permissions"))?,
            _ => value.clone(),
        };
        if value.len() > MAX_SPACE {
            return Err(wrong("is larger than ext4 can store"));
        }
        found.push((index, rest, value));
    }
    if found.is_empty() {
        return Ok(None);
    }
    found.sort_by(|a, b| (a.0, a.1.len(), a.1).cmp(&(b.0, b.1.len(), b.1)));
    let mut set = Vec::new();
    for (index, name, value) in &found {
        set.extend_from_slice(&[*index, name.len() as u8]);
        set.extend_from_slice(&(value.len() as u16).to_le_bytes());
        set.extend_from_slice(name);
        set.extend_from_slice(value);
    }
    if Set(&set).space() > MAX_SPACE {
        return Err(refuse(
            "its extended attributes together are larger than ext4 can store",
        ));
    }
    Ok(Some(set))
}

/// ext4's number for the beginning of a name, and the rest of it.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    for (whole, index) in [ACL_ACCESS, ACL_DEFAULT] {
        if name == whole {
            return Some((index, b""));
        }
    }
    PREFIXES
        .iter()
        .find_map(|(prefix, index)| Some((*index, name.strip_prefix(*prefix)?)))
}
