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
    /// The name of an image: one of the catalog, one that somebody gave it, or a reference to
    /// a registry such as `debian:12` or `localhost:5000/team/app@sha256:…`.
    ///
    /// Parts between `/` are `a-z 0-9 . _ -` and start with a letter or digit; a port may follow
    /// the first of several, a tag and a digest the last. At most 200 characters.
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

/// The longest name of an image: with what a temporary file adds it is still a file name.
const MAX_IMAGE_NAME: usize = 200;

fn check_image_name(text: &str) -> Result<(), Error> {
    if text.len() <= MAX_IMAGE_NAME && is_image_name(text) {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!("`{}` is not a valid image name", text.escape_debug()),
    )
    .hint(
        "use at most 200 lower-case letters, digits, `.`, `_` and `-`, or a reference such as \
         `debian:12` or `registry.example.com/team/app:1.0`",
    ))
}

fn is_image_name(text: &str) -> bool {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let hex = |digest: &str| {
        digest.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    if !digest.is_none_or(hex) {
        return false;
    }
    // What follows the last `:` is a tag, unless a `/` follows that: then it is a port.
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (rest, None),
    };
    let mut parts: Vec<&str> = path.split('/').collect();
    if parts.len() > 1
        && let Some((host, port)) = parts[0].split_once(':')
    {
        if !is_port(port) {
            return false;
        }
        parts[0] = host;
    }
    tag.is_none_or(is_tag) && parts.into_iter().all(is_plain_name)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_plain_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text
            .chars()
            .all(|c| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-'))
}

fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

fn check_kernel_name(text: &str) -> Result<(), Error> {
    if text.len() <= 128 && is_plain_name(text) {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!("`{}` is not a valid kernel name", text.escape_debug()),
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
        for bad in [
            "", ".", "..", "../a", ".hidden", "A", "a b", "a/../b", "a/", "/a", "a//b",
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
            assert!(bad.parse::<KernelName>().is_err(), "{bad:?}");
        }
        assert!("a/b".parse::<KernelName>().is_err());
        assert!("debian-bookworm".parse::<ImageName>().is_ok());
        assert!("debian-6.1".parse::<KernelName>().is_ok());
    }

    #[test]
    fn images_may_be_called_by_their_reference() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for good in [
            "alpine:3.20",
            "a/b",
            "localhost:5000/x",
            "localhost:5000/x/y:T_1.0",
            "registry.example.com/team/app",
            &format!("alpine@{digest}"),
            &format!("r.example:1/a/b:1@{digest}"),
        ] {
            assert_eq!(good.parse::<ImageName>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(201);
        for bad in [
            "a:",
            "a:b:c",
            "a:/b",
            "a:0/b",
            "a:+1/b",
            "a:70000/b",
            "a:x/b",
            "a@sha256:00",
            "a@b",
            "@",
            "a:b c",
            "a:-x",
            "a/b:1/c",
            "A/b",
            "a+b",
            "a%2fb",
            "a\nb",
            &too_long,
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
    }
}
