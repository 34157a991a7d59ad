//! pax records: `LENGTH KEY=VALUE\n`, for everything that does not fit into a header.

use banger_model::Result;

use super::Segment;
use super::sparse::Map;
use crate::refuse;

/// More attributes than ext4 has room for.
const MAX_ATTRIBUTES: usize = 256;

/// What the records before an entry say about it.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<i64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) modified: Option<(i64, u32)>,
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// The records of GNU tar's three ways to store a sparse file in a pax archive.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) major: Option<i64>,
    pub(super) minor: Option<i64>,
    pub(super) name: Option<Vec<u8>>,
    /// The length with the holes.
    pub(super) size: Option<i64>,
    /// The map of the two older ways; the newest has it in front of the bytes.
    pub(super) map: Option<Map>,
    /// An offset whose length has not come yet.
    offset: Option<u64>,
}

impl Records {
    /// Reads all records; `limit` bounds the segments of a sparse file.
    pub(super) fn parse(mut bytes: &[u8], limit: usize) -> Result<Self> {
        let mut records = Records::default();
        while !bytes.is_empty() {
            let (key, value, rest) =
                split(bytes).ok_or_else(|| refuse("a pax header is damaged"))?;
            bytes = rest;
            // A record without a value takes the header's.
            if !value.is_empty() {
                records.take(key, value, limit)?;
            }
        }
        if records.sparse.offset.is_some() {
            return Err(refuse("the map of a sparse file is not whole"));
        }
        Ok(records)
    }

    fn take(&mut self, key: &[u8], value: &[u8], limit: usize) -> Result<()> {
        match key {
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.link = Some(name(value)?),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => {
                let time = time(value).ok_or_else(|| refuse("its time is not a number"))?;
                self.modified = Some(time);
            }
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse.name = Some(name(value)?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.size = Some(decimal(value)?);
            }
            b"GNU.sparse.map" => {
                let mut map = Map::new(limit);
                let mut numbers = value.split(|byte| *byte == b',').map(unsigned);
                while let Some(offset) = numbers.next() {
                    let length = numbers
                        .next()
                        .unwrap_or_else(|| Err(refuse("the map of a sparse file is not whole")))?;
                    map.add(offset?, length)?;
                }
                self.sparse.map = Some(map);
            }
            b"GNU.sparse.offset" => self.sparse.offset = Some(unsigned(value)?),
            b"GNU.sparse.numbytes" => {
                let Some(offset) = self.sparse.offset.take() else {
                    return Err(refuse("the map of a sparse file is not whole"));
                };
                self.sparse
                    .map
                    .get_or_insert_with(|| Map::new(limit))
                    .add(offset, unsigned(value)?)?;
            }
            _ => self.take_attribute(key, value)?,
        }
        Ok(())
    }

    fn take_attribute(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let (name, value) = if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            (name.to_vec(), value.to_vec())
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let decoded = from_percent(name).zip(from_base64(value));
            decoded.ok_or_else(|| refuse("an extended attribute is not encoded as it should be"))?
        } else {
            return Ok(());
        };
        // bsdtar writes every attribute both ways.
        let known = self.attributes.iter().position(|known| known.0 == name);
        match known {
            Some(at) => self.attributes[at].1 = value,
            None if self.attributes.len() == MAX_ATTRIBUTES => {
                return Err(refuse(format!(
                    "it has more than {MAX_ATTRIBUTES} extended attributes"
                )));
            }
            None => self.attributes.push((name, value)),
        }
        Ok(())
    }
}

impl Sparse {
    /// Whether the map is in front of the bytes.
    pub(super) fn map_in_data(&self) -> Result<bool> {
        match (self.major, self.minor) {
            (None, None) | (Some(0), Some(0 | 1)) => Ok(false),
            (Some(1), Some(0)) => Ok(true),
            _ => Err(refuse("a sparse file in a format that is not known")),
        }
    }

    /// The segments of the older ways.
    pub(super) fn take_segments(&mut self) -> Option<Vec<Segment>> {
        self.map.take().map(Map::into_segments)
    }
}

/// The first record, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, &bytes[length..]))
}

fn name(value: &[u8]) -> Result<Vec<u8>> {
    if value.contains(&0) {
        return Err(refuse("its name contains a NUL"));
    }
    Ok(value.to_vec())
}

fn decimal(value: &[u8]) -> Result<i64> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| refuse("a pax header has letters where a number belongs"))
}

/// A decimal number that is not negative.
pub(super) fn unsigned(value: &[u8]) -> Result<u64> {
    decimal(value)?
        .try_into()
        .map_err(|_| refuse("a pax header has a negative number where none belongs"))
}

/// Seconds with a fraction, of which nine digits count. Rounds down, as the kernel stores it.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = &fraction[..fraction.len().min(9)];
    let nanoseconds: u32 = format!("{digits:0<9}").parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

fn from_percent(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

/// Base 64, with or without the padding.
fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text
        .iter()
        .rposition(|byte| *byte != b'=')
        .map_or(0, |at| at + 1);
    let mut bytes = Vec::with_capacity(end);
    for group in text[..end].chunks(4) {
        let mut value = 0_u32;
        for byte in group {
            let digit = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            value = value << 6 | u32::from(digit);
        }
        let whole = match group.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        value <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&value.to_be_bytes()[1..=whole]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &str) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        format!("{length} {key}={value}\n").into_bytes()
    }

    #[test]
    fn times_keep_their_nanoseconds_and_round_down() {
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-0.5"), Some((-1, 500_000_000)));
        assert_eq!(time(b"7"), Some((7, 0)));
        for wrong in ["", "x", "1.x", "1.-5", "99999999999999999999"] {
            assert_eq!(time(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn base64_with_and_without_padding() {
        for (text, bytes) in [("", ""), ("YQ==", "a"), ("YWI", "ab"), ("YWJj", "abc")] {
            assert_eq!(from_base64(text.as_bytes()).unwrap(), bytes.as_bytes());
        }
        assert_eq!(from_base64(b"YW!j"), None);
        assert_eq!(from_base64(b"YWJjZ"), None);
        assert_eq!(from_percent(b"a%3Db").unwrap(), b"a=b");
        assert_eq!(from_percent(b"a%3"), None);
    }

    #[test]
    fn damaged_records_are_refused() {
        for wrong in [
            "x",
            "5 a\n",
            "9 path=a",
            "3 =\n",
            "99999 path=a\n",
            "1 a=b\n",
            "-1 a=b\n",
        ] {
            assert!(Records::parse(wrong.as_bytes(), 9).is_err(), "{wrong:?}");
        }
        for (key, value) in [
            ("path", "a\0b"),
            ("size", "x"),
            ("GNU.sparse.numbytes", "5"),
            ("GNU.sparse.offset", "5"),
            ("GNU.sparse.map", "1,2,3"),
            ("LIBARCHIVE.xattr.user.a", "?"),
        ] {
            assert!(Records::parse(&record(key, value), 9).is_err(), "{key}");
        }
    }

    #[test]
    fn the_last_record_counts_and_an_empty_one_does_not() {
        let bytes = [record("path", "a"), record("path", "b"), record("path", "")].concat();
        assert_eq!(Records::parse(&bytes, 9).unwrap().path.unwrap(), b"b");
    }
}
