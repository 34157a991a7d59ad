//! For which kind of machine an image is.

use std::fmt;
use std::str::FromStr;

use banger_model::{Code, Error, Result};
use serde::{Deserialize, Serialize};

/// An operating system, an architecture and perhaps a variant of it, in the words of Go.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Default for Platform {
    fn default() -> Self {
        Platform {
            os: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            variant: None,
        }
    }
}

impl Platform {
    /// The architecture in the words of Go, such as `amd64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Whether an image that says these things about itself runs here. What an image does not
    /// say is taken for right: old tools left it out.
    pub(crate) fn accepts(&self, os: &str, architecture: &str, variant: Option<&str>) -> bool {
        let same = |said: &str, wanted: &str| said.is_empty() || said == wanted;
        same(os, &self.os)
            && same(&normal(architecture), &self.architecture)
            && match (&self.variant, variant) {
                (Some(wanted), Some(said)) => said.is_empty() || said == wanted,
                _ => true,
            }
    }
}

/// Other words for the same architectures.
fn normal(architecture: &str) -> String {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
    .to_owned()
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `OS/ARCHITECTURE[/VARIANT]`.
    fn from_str(text: &str) -> Result<Self> {
        let word = |part: &str| {
            (1..=32).contains(&part.len())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(|part| word(part)) {
            return Err(Error::new(
                Code::InvalidArgument,
                format!("`{}` is not a platform", text.escape_debug()),
            )
            .hint("write `OS/ARCHITECTURE[/VARIANT]`, such as `linux/amd64`"));
        }
        Ok(Platform {
            os: parts[0].to_ascii_lowercase(),
            architecture: normal(&parts[1].to_ascii_lowercase()),
            variant: parts.get(2).map(|variant| variant.to_ascii_lowercase()),
        })
    }
}

impl TryFrom<String> for Platform {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> String {
        platform.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_round_trip_and_know_other_words() {
        assert_eq!(Platform::default().to_string(), "linux/amd64");
        assert_eq!(
            "Linux/x86_64".parse::<Platform>().unwrap(),
            Platform::default()
        );
        assert_eq!(
            "linux/arm/v7".parse::<Platform>().unwrap().to_string(),
            "linux/arm/v7"
        );
        for bad in ["", "amd64", "a/b/c/d", "linux/", "linux/a b", "li\u{1b}/x"] {
            let error = bad.parse::<Platform>().unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn what_an_image_does_not_say_is_no_obstacle() {
        let amd64 = Platform::default();
        assert!(amd64.accepts("linux", "amd64", None));
        assert!(amd64.accepts("linux", "x86_64", Some("v2")));
        assert!(amd64.accepts("", "", None));
        assert!(!amd64.accepts("windows", "amd64", None));
        assert!(!amd64.accepts("linux", "arm64", None));
        assert!(!amd64.accepts("unknown", "unknown", None));
        let v7: Platform = "linux/arm/v7".parse().unwrap();
        assert!(v7.accepts("linux", "arm", Some("v7")));
        assert!(!v7.accepts("linux", "arm", Some("v6")));
    }
}
