//! Names that people choose: VMs, images and kernels.
//!
//! A name is checked where it enters and never rewritten: handing back something other than
//! what was typed would be worse than refusing it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Code, Error};

/// Declares a validated string: one parser for text and JSON alike.
macro_rules! validated_string {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                $check(text)?;
                Ok($name(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                $check(&text)?;
                Ok($name(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}
pub(crate) use validated_string;

validated_string! {
    /// The name of a VM: 1 to 63 of `a-z 0-9 -`, with no `-` at either end.
    ///
    /// The rule is that of a DNS label (RFC 1123, lower case), because the name becomes the
    /// guest's host name and a label under `.vm`.
    VmName, check_vm_name
}

validated_string! {
    /// The name of an image: 1 to 128 of `a-z 0-9 . _ -`, starting with a letter or digit.
    ImageName, check_image_name
}

validated_string! {
    /// The name of a kernel: 1 to 128 of `a-z 0-9 . _ -`, starting with a letter or digit.
    KernelName, check_kernel_name
}

fn check_vm_name(text: &str) -> Result<(), Error> {
    let fail = |why: &str| {
        Err(Error::new(
            Code::InvalidArgument,
            format!("`{}` is not a valid VM name: {why}", text.escape_debug()),
        )
        .hint("use 1 to 63 lower-case letters, digits and `-`, with no `-` at either end"))
    };
    if text.is_empty() {
        return fail("it is empty");
    }
    if text.len() > 63 {
        return fail("it is longer than 63 characters");
    }
    if let Some(c) = text
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-'))
    {
        return fail(&format!("`{}` is not allowed", c.escape_debug()));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return fail("it starts or ends with `-`");
    }
    Ok(())
}

fn check_image_name(text: &str) -> Result<(), Error> {
    check_artifact_name("image", text)
}

fn check_kernel_name(text: &str) -> Result<(), Error> {
    check_artifact_name("kernel", text)
}

fn check_artifact_name(noun: &str, text: &str) -> Result<(), Error> {
    let ok = !text.is_empty()
        && text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text
            .chars()
            .all(|c| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-'));
    if ok {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!("`{}` is not a valid {noun} name", text.escape_debug()),
    )
    .hint("use 1 to 128 lower-case letters, digits, `.`, `_` and `-`, starting with a letter or digit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vm_names_follow_the_rule() {
        let longest = "a".repeat(63);
        for good in ["a", "0", "a-b", "box1", "1-2-3", &longest] {
            assert_eq!(good.parse::<VmName>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(64);
        for bad in [
            "", "-a", "a-", "A", "a b", "a.b", "a/b", "a:b", "a=b", "a\nb", "ä", "a_b", "box/../x",
            "\u{0}", "'a'", &too_long,
        ] {
            let error = bad.parse::<VmName>().unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{bad:?}");
            assert!(error.hint_text().is_some(), "{bad:?}");
        }
    }

    #[test]
    fn json_goes_through_the_same_parser() {
        assert!(serde_json::from_str::<VmName>("\"ok\"").is_ok());
        assert!(serde_json::from_str::<VmName>("\"Not OK\"").is_err());
    }

    #[test]
    fn artifact_names_cannot_leave_their_directory() {
        for bad in ["", ".", "..", "a/b", "../a", ".hidden", "A", "a b"] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
            assert!(bad.parse::<KernelName>().is_err(), "{bad:?}");
        }
        assert!("debian-bookworm".parse::<ImageName>().is_ok());
        assert!("debian-6.1".parse::<KernelName>().is_ok());
    }
}
