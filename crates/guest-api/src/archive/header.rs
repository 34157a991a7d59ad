//! The blocks that describe entries: POSIX ustar headers, and pax records for what does not fit
//! into them. Pure functions over bytes.

use std::io;

use super::{MAX_RECORDS, invalid};

/// Everything in an archive comes in blocks of this size, in bytes.
pub(super) const BLOCK: usize = 512;
/// The types of entries we know.
pub(super) const FILE: u8 = b'0';
pub(super) const HARD_LINK: u8 = b'1';
pub(super) const SYMLINK: u8 = b'2';
pub(super) const DIRECTORY: u8 = b'5';
pub(super) const EXTENDED: u8 = b'x';

const NAME: usize = 100;
const MAX_OCTAL_7: u64 = (1 << 21) - 1;
const MAX_OCTAL_11: u64 = (1 << 33) - 1;

pub(super) const KEY_PATH: &[u8] = b"path";
pub(super) const KEY_LINK: &[u8] = b"linkpath";
pub(super) const KEY_SIZE: &[u8] = b"size";
pub(super) const KEY_UID: &[u8] = b"uid";
pub(super) const KEY_GID: &[u8] = b"gid";
pub(super) const KEY_MTIME: &[u8] = b"mtime";
pub(super) const KEY_ATTRIBUTE: &[u8] = b"SCHILY.xattr.";
pub(super) const KEY_SPARSE_MAJOR: &[u8] = b"GNU.sparse.major";
pub(super) const KEY_SPARSE_MINOR: &[u8] = b"GNU.sparse.minor";
pub(super) const KEY_SPARSE_NAME: &[u8] = b"GNU.sparse.name";
pub(super) const KEY_SPARSE_SIZE: &[u8] = b"GNU.sparse.realsize";

/// What every kind of entry has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Permission bits, and set-uid, set-gid and sticky.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since the epoch and nanoseconds above them.
    pub(super) modified: (i64, u32),
}

/// One header as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'a> {
    pub(super) path: &'a [u8],
    pub(super) link: &'a [u8],
    pub(super) kind: u8,
    /// Bytes that follow.
    pub(super) size: u64,
    pub(super) attributes: Attributes,
}

/// pax records, ready to be written.
#[derive(Debug, Default)]
pub(super) struct Records(Vec<u8>);

impl Records {
    /// Adds a record. Its length counts its own digits.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + digits(length) != length {
            length = rest + digits(length);
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        for piece in [b" ", key, b"=", value, b"\n"] {
            self.0.extend_from_slice(piece);
        }
    }
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// Everything that goes before an entry's bytes.
///
/// # Errors
/// `InvalidInput` when there is more to say than readers accept.
pub(super) fn encode(header: &Header<'_>, mut records: Records) -> io::Result<Vec<u8>> {
    let Attributes {
        uid, gid, modified, ..
    } = header.attributes;
    if header.path.len() > NAME {
        records.add(KEY_PATH, header.path);
    }
    if header.link.len() > NAME {
        records.add(KEY_LINK, header.link);
    }
    if header.size > MAX_OCTAL_11 {
        records.add(KEY_SIZE, header.size.to_string().as_bytes());
    }
    for (key, id) in [(KEY_UID, uid), (KEY_GID, gid)] {
        if u64::from(id) > MAX_OCTAL_7 {
            records.add(key, id.to_string().as_bytes());
        }
    }
    let whole = u64::try_from(modified.0).ok();
    if modified.1 != 0 || whole.is_none_or(|seconds| seconds > MAX_OCTAL_11) {
        records.add(KEY_MTIME, decimal(modified).as_bytes());
    }
    if records.0.len() as u64 > MAX_RECORDS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "its attributes are too large to be copied",
        ));
    }
    let mut blocks = Vec::with_capacity(BLOCK);
    if !records.0.is_empty() {
        let extended = Header {
            path: b"pax",
            link: b"",
            kind: EXTENDED,
            size: records.0.len() as u64,
            attributes: Attributes::default(),
        };
        blocks.extend_from_slice(&block(&extended));
        blocks.extend_from_slice(&records.0);
        blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    }
    blocks.extend_from_slice(&block(header));
    Ok(blocks)
}

fn block(header: &Header<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let attributes = &header.attributes;
    text(&mut block[..NAME], header.path);
    octal(&mut block[100..108], attributes.mode.into(), MAX_OCTAL_7);
    octal(&mut block[108..116], attributes.uid.into(), MAX_OCTAL_7);
    octal(&mut block[116..124], attributes.gid.into(), MAX_OCTAL_7);
    octal(&mut block[124..136], header.size, MAX_OCTAL_11);
    let modified = u64::try_from(attributes.modified.0).unwrap_or_default();
    octal(&mut block[136..148], modified, MAX_OCTAL_11);
    block[156] = header.kind;
    text(&mut block[157..257], header.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum = checksum(&block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// What does not fit is said in full by a record.
fn text(field: &mut [u8], value: &[u8]) {
    let count = value.len().min(field.len());
    field[..count].copy_from_slice(&value[..count]);
}

fn octal(field: &mut [u8], value: u64, max: u64) {
    let width = field.len() - 1;
    let digits = format!("{:0width$o}", value.min(max));
    field[..width].copy_from_slice(digits.as_bytes());
}

/// The sum of all bytes, those of the sum itself taken as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..])
}

fn decimal((seconds, nanoseconds): (i64, u32)) -> String {
    if seconds < 0 && nanoseconds > 0 {
        // The fraction counts away from zero in decimal, towards the future in the kernel.
        return format!(
            "-{}.{:09}",
            (seconds + 1).unsigned_abs(),
            1_000_000_000 - nanoseconds
        );
    }
    format!("{seconds}.{nanoseconds:09}")
}

/// A header as it was read; what the fields say, before any record.
#[derive(Clone, Debug)]
pub(super) struct Parsed {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: u8,
    pub(super) size: u64,
    pub(super) attributes: Attributes,
}

/// Parses a block; `None` when it is all zeros, as at the end of an archive.
///
/// # Errors
/// `InvalidData` when it is not a header.
pub(super) fn parse(block: &[u8; BLOCK]) -> io::Result<Option<Parsed>> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    if &block[257..262] != b"ustar" || number(&block[148..156])? != u64::from(checksum(block)) {
        return Err(invalid("this is not an archive"));
    }
    let mut path = until_nul(&block[..NAME]).to_vec();
    let prefix = until_nul(&block[345..500]);
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        path = [prefix, b"/", &path].concat();
    }
    let small = |field: &[u8]| u32::try_from(number(field)?).map_err(|_| bad_number());
    let modified = i64::try_from(number(&block[136..148])?).map_err(|_| bad_number())?;
    Ok(Some(Parsed {
        path,
        link: until_nul(&block[157..257]).to_vec(),
        kind: match block[156] {
            0 | b'7' => FILE,
            kind => kind,
        },
        size: number(&block[124..136])?,
        attributes: Attributes {
            mode: small(&block[100..108])? & 0o7777,
            uid: small(&block[108..116])?,
            gid: small(&block[116..124])?,
            modified: (modified, 0),
        },
    }))
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

fn bad_number() -> io::Error {
    invalid("the archive holds a number that is none")
}

fn number(field: &[u8]) -> io::Result<u64> {
    let digits = until_nul(field).trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    let text = std::str::from_utf8(digits).map_err(|_| bad_number())?;
    if text.starts_with('+') {
        return Err(bad_number());
    }
    u64::from_str_radix(text, 8).map_err(|_| bad_number())
}

/// Takes the first record off `bytes`: its key, its value.
///
/// # Errors
/// `InvalidData` when there is none.
pub(super) fn take_record<'a>(bytes: &mut &'a [u8]) -> io::Result<(&'a [u8], &'a [u8])> {
    let bad = || invalid("the archive holds a record that is none");
    let space = bytes.iter().take(8).position(|byte| *byte == b' ');
    let space = space.ok_or_else(bad)?;
    let length = usize::try_from(decimal_number(&bytes[..space])?).map_err(|_| bad())?;
    let record = bytes.get(space + 1..length).ok_or_else(bad)?;
    let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
    let equals = record.iter().position(|byte| *byte == b'=');
    let equals = equals.filter(|at| *at > 0).ok_or_else(bad)?;
    *bytes = &bytes[length..];
    Ok((&record[..equals], &record[equals + 1..]))
}

/// A number in a record.
pub(super) fn decimal_number(value: &[u8]) -> io::Result<u64> {
    let all_digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| all_digits);
    text.and_then(|text| text.parse().ok())
        .ok_or_else(bad_number)
}

/// A time in a record: seconds with a fraction, perhaps negative.
pub(super) fn decimal_time(value: &[u8]) -> io::Result<(i64, u32)> {
    const NANOSECONDS: u32 = 1_000_000_000;
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let dot = value.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match dot {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    let seconds = i64::try_from(decimal_number(whole)?).map_err(|_| bad_number())?;
    let mut nanoseconds = 0;
    for at in 0..9 {
        let digit = fraction.get(at).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return Err(bad_number());
        }
        nanoseconds = nanoseconds * 10 + u32::from(digit - b'0');
    }
    Ok(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, NANOSECONDS - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Pair = (Vec<u8>, Vec<u8>);

    fn read_back(bytes: &[u8]) -> (Parsed, Vec<Pair>) {
        let first = parse(bytes.first_chunk().unwrap()).unwrap().unwrap();
        if first.kind != EXTENDED {
            return (first, Vec::new());
        }
        let size = first.size as usize;
        let mut records = &bytes[BLOCK..BLOCK + size];
        let mut pairs = Vec::new();
        while !records.is_empty() {
            let (key, value) = take_record(&mut records).unwrap();
            pairs.push((key.to_vec(), value.to_vec()));
        }
        let second = &bytes[BLOCK + size.next_multiple_of(BLOCK)..];
        assert_eq!(second.len(), BLOCK);
        (
            parse(second.first_chunk().unwrap()).unwrap().unwrap(),
            pairs,
        )
    }

    proptest! {
        #[test]
        fn a_header_says_everything(
            path in proptest::collection::vec(1u8.., 1..300),
            size: u64,
            uid: u32,
            mode in 0u32..0o10000,
            seconds in -10_000_000_000i64..10_000_000_000,
            nanoseconds in 0u32..1_000_000_000,
        ) {
            let attributes = Attributes { mode, uid, gid: 7, modified: (seconds, nanoseconds) };
            let header = Header { path: &path, link: b"", kind: FILE, size, attributes };
            let bytes = encode(&header, Records::default()).unwrap();
            prop_assert_eq!(bytes.len() % BLOCK, 0);
            let (mut parsed, records) = read_back(&bytes);
            for (key, value) in &records {
                match key.as_slice() {
                    KEY_PATH => parsed.path = value.clone(),
                    KEY_SIZE => parsed.size = decimal_number(value).unwrap(),
                    KEY_UID => parsed.attributes.uid = decimal_number(value).unwrap() as u32,
                    KEY_MTIME => parsed.attributes.modified = decimal_time(value).unwrap(),
                    other => panic!("{other:?}"),
                }
            }
            prop_assert_eq!(parsed.path, path);
            prop_assert_eq!(parsed.size, size);
            prop_assert_eq!(parsed.attributes, attributes);
        }

        #[test]
        fn a_record_survives(key in "[a-zA-Z.]{1,20}", value in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut records = Records::default();
            records.add(key.as_bytes(), &value);
            let mut bytes = records.0.as_slice();
            prop_assert_eq!(take_record(&mut bytes).unwrap(), (key.as_bytes(), value.as_slice()));
            prop_assert!(bytes.is_empty());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), BLOCK)) {
            let mut block: [u8; BLOCK] = bytes.try_into().unwrap();
            assert!(parse(&block).is_err());
            // With the right sum it gets further.
            block[257..265].copy_from_slice(b"ustar\x0000");
            let sum = checksum(&block);
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            drop(parse(&block));
            drop(take_record(&mut &block[..]));
            drop(decimal_time(&block));
        }
    }

    #[test]
    fn records_that_lie_are_refused() {
        for bytes in [
            &b""[..],
            b"5",
            b"99 a=b\n",
            b"0 a=b\n",
            b"3 a=b\n",
            b"6 a=bc",
            b"5 ab\n",
            b"5 =b\n",
            b"-1 a=b\n",
            b"18446744073709551615 a=b\n",
        ] {
            assert!(
                take_record(&mut &*bytes).is_err(),
                "{}",
                bytes.escape_ascii()
            );
        }
    }
}
