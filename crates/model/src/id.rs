//! Identifiers that banger chooses: VM ids and content digests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::validated_string;
use crate::{Code, Error};

validated_string! {
    /// The identity of one VM, never reused: 12 lower-case hexadecimal digits.
    ///
    /// Short on purpose: it is part of socket paths, which Linux limits to 107 bytes.
    VmId, check_vm_id
}

impl VmId {
    /// An id made of six random bytes.
    pub fn from_bytes(bytes: [u8; 6]) -> Self {
        bytes
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>()
            .try_into()
            .unwrap_or_else(|_| unreachable!("twelve hexadecimal digits are a valid id"))
    }
}

validated_string! {
    /// The SHA-256 of an immutable file: `sha256:` and 64 lower-case hexadecimal digits.
    Digest, check_digest
}

impl Digest {
    /// The digest for the 32 bytes of a SHA-256.
    pub fn from_sha256(bytes: &[u8; 32]) -> Self {
        let mut text = String::from("sha256:");
        for byte in bytes {
            text.push_str(&format!("{byte:02x}"));
        }
        text.try_into()
            .unwrap_or_else(|_| unreachable!("64 hexadecimal digits are a digest"))
    }

    /// The hexadecimal digits alone, for file names.
    pub fn hex(&self) -> &str {
        &self.as_str()["sha256:".len()..]
    }

    /// The first 12 digits, for people.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn check_vm_id(text: &str) -> Result<(), Error> {
    if text.len() == 12 && is_lower_hex(text) {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!("`{}` is not a VM id", text.escape_debug()),
    ))
}

fn check_digest(text: &str) -> Result<(), Error> {
    match text.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && is_lower_hex(hex) => Ok(()),
        _ => Err(Error::new(
            Code::InvalidArgument,
            format!("`{}` is not a SHA-256 digest", text.escape_debug()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_digests_round_trip() {
        let id = VmId::from_bytes([0, 1, 2, 0xab, 0xcd, 0xef]);
        assert_eq!(id.as_str(), "000102abcdef");
        assert_eq!(id.as_str().parse::<VmId>().unwrap(), id);
        let digest = Digest::from_sha256(&[7; 32]);
        assert_eq!(digest.hex().len(), 64);
        assert_eq!(digest.short(), "070707070707");
        assert!("sha256:xyz".parse::<Digest>().is_err());
        assert!("../etc".parse::<VmId>().is_err());
    }
}
