//! The block of 512 bytes before every entry.

use banger_model::Result;

use crate::refuse;

/// Everything in an archive comes in blocks of this size, in bytes.
pub(super) const BLOCK: usize = 512;

/// One header block.
pub(super) struct Header([u8; BLOCK]);

/// The dialects that differ in what follows the old fields.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Old,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Takes a block whose checksum is right.
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Self> {
        let header = Header(block);
        let bad = || refuse("a header is damaged, or this is no tar archive");
        let told = octal(header.field(148, 8)).ok_or_else(bad)?;
        let (mut unsigned, mut signed) = (0_u64, 0_i64);
        for (at, byte) in header.0.iter().enumerate() {
            // The checksum counts itself as spaces; some old programs summed signed bytes.
            let byte = if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            };
            unsigned += u64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if told != unsigned && i64::try_from(told) != Ok(signed) {
            return Err(bad());
        }
        Ok(header)
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the prefix that two of the dialects have.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(self.field(0, 100));
        let prefix = match self.dialect() {
            Dialect::Ustar => text(self.field(345, 155)),
            Dialect::Star => text(self.field(345, 131)),
            Dialect::Old | Dialect::Gnu => b"",
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(self.field(157, 100)).to_vec()
    }

    pub(super) fn mode(&self) -> Result<i64> {
        self.number(100, 8, "mode")
    }

    pub(super) fn uid(&self) -> Result<i64> {
        self.number(108, 8, "owner")
    }

    pub(super) fn gid(&self) -> Result<i64> {
        self.number(116, 8, "group")
    }

    pub(super) fn size(&self) -> Result<i64> {
        self.number(124, 12, "size")
    }

    pub(super) fn modified(&self) -> Result<i64> {
        self.number(136, 12, "time")
    }

    pub(super) fn device(&self) -> Result<(i64, i64)> {
        if self.dialect() == Dialect::Old {
            return Ok((0, 0));
        }
        Ok((
            self.number(329, 8, "device")?,
            self.number(337, 8, "device")?,
        ))
    }

    /// The real length of an old GNU sparse file.
    pub(super) fn sparse_size(&self) -> Result<i64> {
        self.number(483, 12, "length")
    }

    /// The part of an old GNU header that lists segments, and whether more blocks follow.
    pub(super) fn sparse_list(&self) -> Result<(&[u8], bool)> {
        if self.dialect() != Dialect::Gnu {
            return Err(refuse("a sparse file in an archive that is not of GNU tar"));
        }
        Ok((self.field(386, 96), self.0[482] != 0))
    }

    fn dialect(&self) -> Dialect {
        match self.field(257, 8) {
            b"ustar  \0" => Dialect::Gnu,
            [b'u', b's', b't', b'a', b'r', 0, ..] if self.field(508, 4) == b"tar\0" => {
                Dialect::Star
            }
            [b'u', b's', b't', b'a', b'r', 0, ..] => Dialect::Ustar,
            _ => Dialect::Old,
        }
    }

    fn field(&self, at: usize, length: usize) -> &[u8] {
        &self.0[at..at + length]
    }

    fn number(&self, at: usize, length: usize, what: &str) -> Result<i64> {
        number(self.field(at, length))
            .ok_or_else(|| refuse(format!("the {what} in its header is not a number")))
    }
}

/// A number as GNU writes it: octal digits, or, marked by the highest bit, plain binary.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field).and_then(|value| value.try_into().ok());
    }
    let mut value: i128 = if first & 0x40 != 0 { -1 } else { 0 };
    value = value << 6 | i128::from(first & 0x3f);
    for byte in &field[1..] {
        value = value << 8 | i128::from(*byte);
    }
    value.try_into().ok()
}

/// Octal digits between spaces and NULs; nothing at all is zero.
fn octal(field: &[u8]) -> Option<u64> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte));
    let Some(start) = start else { return Some(0) };
    let digits = &field[start..];
    let digits = &digits[..digits.iter().position(blank).unwrap_or(digits.len())];
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// Up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    &field[..field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_all_dialects_write_them() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777"), Some(0o77_777_777));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(
            number(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]),
            Some(0xffff_fffe)
        );
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[0xbf; 12]), None, "beyond 64 bits");
        assert_eq!(number(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
