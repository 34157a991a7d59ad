//! The environment of the person at the keyboard, as far as it is not configuration.
//!
//! Settings (`BANGER_*`, `XDG_*`) are read by `banger_config` and nowhere else. What is here is
//! material: values that `--env NAME` copies into the guest, and what kind of terminal this is.

use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use banger_model::{Code, Error, Result};

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

fn home_of(uid: u32) -> Option<PathBuf> {
    // More than any entry needs.
    let mut buffer = vec![0 as libc::c_char; 64 << 10];
    // SAFETY: `passwd` is plain data, for which zeroes are valid.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid for the call and the length is the buffer's.
    let status = unsafe {
        libc::getpwuid_r(
            uid,
            &mut entry,
            buffer.as_mut_ptr(),
            buffer.len(),
            &mut found,
        )
    };
    if status != 0 || found.is_null() || entry.pw_dir.is_null() {
        return None;
    }
    // SAFETY: the call succeeded, so this is a string in `buffer`, which still lives.
    let home = unsafe { CStr::from_ptr(entry.pw_dir) };
    let home = PathBuf::from(OsStr::from_bytes(home.to_bytes()));
    home.is_absolute().then_some(home)
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
}
