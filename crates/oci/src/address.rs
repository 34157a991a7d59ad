//! Where a single file is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use banger_model::{Code, Error, Result};
use hyper::Uri;
use serde::Deserialize;

use crate::text::shown;

/// The address of a file: `https://…`, `http://…` or an absolute path on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Address(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Web(Uri),
    File(PathBuf),
}

impl Address {
    pub(crate) fn place(&self) -> &Place {
        &self.0
    }

    fn parse(text: &str) -> std::result::Result<Self, &'static str> {
        if text.contains('\0') {
            return Err("it contains a NUL");
        }
        if text.starts_with('/') {
            return Ok(Address(Place::File(Path::new(text).to_owned())));
        }
        let uri: Uri = text.parse().map_err(|_| "it is no URL")?;
        if !matches!(uri.scheme_str(), Some("https" | "http")) {
            return Err("it begins with neither `https://` nor `http://` nor `/`");
        }
        match uri.authority() {
            // It would be in error messages and in what is stored about an image.
            Some(authority) if authority.as_str().contains('@') => {
                Err("it contains a user name or password")
            }
            Some(authority) if !authority.host().is_empty() => Ok(Address(Place::Web(uri))),
            _ => Err("it names no server"),
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Address::parse(text).map_err(|why| {
            Error::new(
                Code::InvalidArgument,
                format!("`{}` cannot be used as an address: {why}", shown(text)),
            )
            .hint("write `https://HOST/PATH`, or the absolute path of a file")
        })
    }
}

impl TryFrom<String> for Address {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Web(uri) => write!(f, "{}", shown(&uri.to_string())),
            Place::File(path) => write!(f, "{}", shown(&path.to_string_lossy())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_or_a_path() {
        for good in [
            "https://example.com/a/b.tar.zst?c=d",
            "http://127.0.0.1:8000/b",
            "/srv/b.tar.zst",
        ] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "b.tar.zst",
            "./b",
            "ftp://example.com/b",
            "https://",
            "https:///b",
            "https://u:p@example.com/b",
            "/a\0b",
        ] {
            let error = bad.parse::<Address>().unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{bad}");
        }
    }
}
