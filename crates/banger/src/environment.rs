//! The environment of the person at the keyboard, as far as it is not configuration.
//!
//! Settings (`BANGER_*`, `XDG_*`) are read by `banger_config` and nowhere else. What is here is
//! material: values that `--env NAME` copies into the guest, and what kind of terminal this is.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use banger_model::{Code, Error, Result};

/// The accounts of this machine itself.
const ACCOUNTS: &str = "/etc/passwd";

/// The value that `--env NAME` or an environment file hands on.
pub(crate) fn value_to_hand_on(name: &OsStr) -> Option<OsString> {
    std::env::var_os(name)
}

/// The kind of terminal, for programs in the guest.
pub(crate) fn terminal_kind() -> Option<OsString> {
    std::env::var_os("TERM").filter(|term| !term.is_empty())
}

/// The command with which this person looks at long text.
pub(crate) fn pager() -> Option<OsString> {
    std::env::var_os("PAGER").filter(|pager| !pager.is_empty())
}

/// Whether the terminal shows UTF-8, by the rule of the C library: the first of these variables
/// that is set decides.
pub(crate) fn terminal_is_utf8() -> bool {
    locale_is_utf8(["LC_ALL", "LC_CTYPE", "LANG"].map(std::env::var_os))
}

fn locale_is_utf8(values: [Option<OsString>; 3]) -> bool {
    values
        .into_iter()
        .flatten()
        .find(|value| !value.is_empty())
        .is_some_and(|value| {
            let value = value.to_string_lossy().to_ascii_lowercase();
            value.contains("utf-8") || value.contains("utf8")
        })
}

/// The home directory in which OpenSSH looks for its files: that of the user's account, whatever
/// `HOME` says.
///
/// # Errors
/// `invalid_config` when the user has no account.
pub(crate) fn home_for_ssh() -> Result<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    home_of(uid).ok_or_else(|| {
        Error::new(
            Code::InvalidConfig,
            format!("user {uid} has no account with a home directory here"),
        )
        .hint("name your ssh configuration with `--file`")
    })
}

/// From the file of accounts, or from whatever else this machine asks about them.
///
/// Not by the C library's own function: this program is linked statically, and would have to load
/// the modules of another C library for accounts that come over the network.
fn home_of(uid: u32) -> Option<PathBuf> {
    let file = std::fs::read(ACCOUNTS).unwrap_or_default();
    home_in(&file, uid).or_else(|| {
        let mut getent = Command::new("getent");
        getent.arg("passwd").arg(uid.to_string());
        let output = getent.stdin(Stdio::null()).output().ok()?;
        home_in(&output.stdout, uid)
    })
}

/// In lines of `name:password:uid:gid:comment:home:shell`, passwd(5).
fn home_in(accounts: &[u8], uid: u32) -> Option<PathBuf> {
    let uid = uid.to_string();
    let mut lines = accounts.split(|byte| *byte == b'\n');
    lines.find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let [_, _, number, _, _, home, _] = fields[..] else {
            return None;
        };
        let home = PathBuf::from(OsStr::from_bytes(home));
        (number == uid.as_bytes() && home.is_absolute()).then_some(home)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_locale_variable_decides() {
        let values = |all: &str, ctype: &str, lang: &str| {
            [all, ctype, lang].map(|text| (text != "-").then(|| OsString::from(text)))
        };
        assert!(locale_is_utf8(values("-", "-", "en_GB.UTF-8")));
        assert!(locale_is_utf8(values("", "C.utf8", "C")));
        assert!(!locale_is_utf8(values("C", "en_GB.UTF-8", "en_GB.UTF-8")));
        assert!(!locale_is_utf8(values("-", "-", "-")));
    }

    #[test]
    fn accounts_have_homes() {
        assert!(home_of(0).is_some_and(|home| home.is_absolute()));
        assert_eq!(home_of(u32::MAX - 7), None);
    }

    #[test]
    fn a_home_is_that_of_the_first_whole_line_about_the_user() {
        let accounts = b"# a remark\nold:x:1000:1000::relative:/bin/sh\nhalf:x:1000:1000\n\
            +::::::\nann:x:1000:1000:Ann, of \xff:/home/ann:/bin/sh\nbob:x:1000:1000::/home/bob:\n";
        assert_eq!(home_in(accounts, 1000), Some("/home/ann".into()));
        assert_eq!(home_in(accounts, 100), None);
        assert_eq!(home_in(b"", 0), None);
    }
}
