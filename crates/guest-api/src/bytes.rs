//! Byte strings in JSON.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::{Deserialize, Serialize};

/// Bytes that are usually text: arguments, environment values, paths.
///
/// In JSON a string when they are UTF-8, else `{"hex": "…"}`, so that any argument reaches
/// the guest exactly.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct ByteString(Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Form {
    Text(String),
    Raw { hex: String },
}

impl ByteString {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as the operating system's string.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The bytes as the operating system's string.
    pub fn into_os_string(self) -> OsString {
        OsString::from_vec(self.0)
    }
}

impl From<&str> for ByteString {
    fn from(text: &str) -> Self {
        ByteString(text.as_bytes().to_vec())
    }
}

impl From<String> for ByteString {
    fn from(text: String) -> Self {
        ByteString(text.into_bytes())
    }
}

impl From<OsString> for ByteString {
    fn from(text: OsString) -> Self {
        ByteString(text.into_vec())
    }
}

impl From<Vec<u8>> for ByteString {
    fn from(bytes: Vec<u8>) -> Self {
        ByteString(bytes)
    }
}

impl From<ByteString> for Form {
    fn from(bytes: ByteString) -> Form {
        match String::from_utf8(bytes.0) {
            Ok(text) => Form::Text(text),
            Err(error) => Form::Raw {
                hex: error
                    .as_bytes()
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect(),
            },
        }
    }
}

impl TryFrom<Form> for ByteString {
    type Error = &'static str;

    fn try_from(form: Form) -> Result<Self, Self::Error> {
        let hex = match form {
            Form::Text(text) => return Ok(text.into()),
            Form::Raw { hex } => hex.into_bytes(),
        };
        let digit = |b: u8| (b as char).to_digit(16).ok_or("not hexadecimal");
        if hex.len() % 2 != 0 {
            return Err("an odd number of hexadecimal digits");
        }
        hex.chunks_exact(2)
            .map(|pair| Ok((digit(pair[0])? * 16 + digit(pair[1])?) as u8))
            .collect::<Result<Vec<u8>, _>>()
            .map(ByteString)
    }
}

impl fmt::Debug for ByteString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_stays_readable() {
        assert_eq!(
            serde_json::to_string(&ByteString::from("a b")).unwrap(),
            "\"a b\""
        );
        let raw = ByteString::from(vec![0xff, 0x00]);
        assert_eq!(serde_json::to_string(&raw).unwrap(), "{\"hex\":\"ff00\"}");
        assert!(serde_json::from_str::<ByteString>("{\"hex\":\"f\"}").is_err());
        assert!(serde_json::from_str::<ByteString>("{\"hex\":\"zz\"}").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_survive(bytes: Vec<u8>) {
            let original = ByteString::from(bytes);
            let json = serde_json::to_string(&original).unwrap();
            prop_assert_eq!(serde_json::from_str::<ByteString>(&json).unwrap(), original);
        }
    }
}
