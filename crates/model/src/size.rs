//! Sizes in bytes, as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Code, Error};

/// A number of bytes. Text forms are `512M`, `2G`, `1536MiB`; units are powers of 1024.
///
/// In JSON it is a plain number of bytes; on input, text is accepted as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// A size in bytes.
    pub const fn bytes(bytes: u64) -> Self {
        ByteSize(bytes)
    }

    /// A size in mebibytes.
    pub const fn mib(mib: u64) -> Self {
        ByteSize(mib << 20)
    }

    /// A size in gibibytes.
    pub const fn gib(gib: u64) -> Self {
        ByteSize(gib << 30)
    }

    /// The size in bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0
    }

    /// The size in whole mebibytes, rounded down.
    pub const fn as_mib(self) -> u64 {
        self.0 >> 20
    }
}

const UNITS: [(&str, u32); 5] = [("T", 40), ("G", 30), ("M", 20), ("K", 10), ("", 0)];

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fail = |why: &str| {
            Error::new(
                Code::InvalidArgument,
                format!("`{}` is not a size: {why}", text.escape_debug()),
            )
            .hint("write a whole number and a unit, such as `512M` or `2G`")
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, suffix) = text.split_at(digits);
        let number: u64 = number
            .parse()
            .map_err(|_| fail("it does not start with a number"))?;
        let suffix = suffix.trim_start().to_ascii_uppercase();
        let unit = suffix
            .strip_suffix("IB")
            .or(suffix.strip_suffix('B'))
            .unwrap_or(&suffix);
        let shift = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, shift)| *shift)
            .ok_or_else(|| fail("the unit is not one of K, M, G, T"))?;
        number
            .checked_mul(1 << shift)
            .map(ByteSize)
            .ok_or_else(|| fail("it is too large"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return f.pad(&format!("{}{unit}", self.0 >> shift));
            }
        }
        f.pad(&self.0.to_string())
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(bytes) => Ok(ByteSize(bytes)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_print() {
        for (text, bytes, printed) in [
            ("512M", 512 << 20, "512M"),
            ("512m", 512 << 20, "512M"),
            ("2G", 2 << 30, "2G"),
            ("2GiB", 2 << 30, "2G"),
            ("2GB", 2 << 30, "2G"),
            ("1024M", 1 << 30, "1G"),
            ("1536MiB", 1536 << 20, "1536M"),
            ("1000", 1000, "1000"),
            ("1 G", 1 << 30, "1G"),
            ("0", 0, "0"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.as_bytes(), bytes, "{text}");
            assert_eq!(size.to_string(), printed, "{text}");
        }
        for bad in [
            "",
            "G",
            "-1G",
            "1.5G",
            "1X",
            "99999999999999T",
            "1GG",
            "ten",
        ] {
            assert_eq!(
                bad.parse::<ByteSize>().unwrap_err().code(),
                Code::InvalidArgument,
                "{bad}"
            );
        }
    }

    #[test]
    fn json_is_a_number_of_bytes() {
        assert_eq!(serde_json::to_string(&ByteSize::mib(1)).unwrap(), "1048576");
        assert_eq!(
            serde_json::from_str::<ByteSize>("\"1M\"").unwrap(),
            ByteSize::mib(1)
        );
    }
}
