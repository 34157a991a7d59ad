//! The environment of the person at the keyboard, as far as it is not configuration.
//!
//! Settings (`BANGER_*`, `XDG_*`) are read by `banger_config` and nowhere else. What is here is
//! material: values that `--env NAME` copies into the guest, and what kind of terminal this is.

use std::ffi::{OsStr, OsString};

/// The value that `--env NAME` or an environment file hands on.
pub(crate) fn value_to_hand_on(name: &OsStr) -> Option<OsString> {
    std::env::var_os(name)
}

/// The kind of terminal, for programs in the guest.
pub(crate) fn terminal_kind() -> Option<OsString> {
    std::env::var_os("TERM").filter(|term| !term.is_empty())
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
}
