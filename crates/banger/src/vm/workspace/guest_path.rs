//! Where a workspace may be in a guest.

use std::fmt;
use std::str::FromStr;

use banger_api::check_guest_path;
use banger_model::{Code, Error, Result};

/// A directory below `/root` or `/home/USER`, written in the one way there is to write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestPath(String);

impl GuestPath {
    /// The path.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for GuestPath {
    fn default() -> Self {
        GuestPath("/root/repo".to_owned())
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for GuestPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<GuestPath> {
        check_guest_path(text)?;
        // Git in the guest names its directories a line each.
        if text.chars().any(char::is_control) {
            let message = format!(
                "the guest path `{}` has control characters in it",
                text.escape_debug()
            );
            return Err(Error::new(Code::InvalidArgument, message)
                .hint("choose a directory such as `/root/repo`"));
        }
        Ok(GuestPath(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_in_somebodys_home() {
        for good in ["/root/a/b c", "/home/dev/repo", "/root/zwölf"] {
            assert_eq!(good.parse::<GuestPath>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "repo",
            "/etc/x",
            "/root/../etc/x",
            "/root/a\nb",
            "/root/\u{1b}[2J",
        ] {
            let error = bad.parse::<GuestPath>().unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{bad:?}");
            assert!(!error.message().contains(char::is_control), "{error}");
        }
        assert_eq!(
            GuestPath::default(),
            GuestPath::default().to_string().parse().unwrap()
        );
    }
}
