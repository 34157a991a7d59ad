//! What the record of a workspace must be, checked by whoever writes one and by the daemon.

use banger_model::{Code, Error, Result};

use crate::Workspace;

/// The longest path, in bytes: what Linux takes.
const PATH_MAX: usize = 4096;
/// The longest name of a file, in bytes.
const NAME_MAX: usize = 255;
/// The longest name of a branch or revision, in bytes.
const REVISION_MAX: usize = 1024;
/// The longest fingerprint, in bytes.
const FINGERPRINT_MAX: usize = 256;

impl Workspace {
    /// Checks every value.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`], naming the first value that makes no sense.
    pub fn validate(&self) -> Result<()> {
        check_repository(&self.repository)?;
        check_guest_path(&self.guest_path)?;
        for (what, value) in [("branch", &self.branch), ("revision", &self.from)] {
            let Some(value) = value else { continue };
            let sane = !value.is_empty() && value.len() <= REVISION_MAX;
            if !sane || value.contains(char::is_control) {
                return Err(invalid(what, value, "is empty, too long, or not printable"));
            }
        }
        if let Some(base) = &self.base
            && !is_hex(base, &[40, 64])
        {
            return Err(invalid(
                "base commit",
                base,
                "is not 40 or 64 hexadecimal digits",
            ));
        }
        if let Some(exported) = &self.exported
            && !is_hex(exported, &[64])
        {
            return Err(invalid("digest", exported, "is not 64 hexadecimal digits"));
        }
        let printable = self.fingerprint.bytes().all(|byte| byte.is_ascii_graphic());
        if !printable || self.fingerprint.len() > FINGERPRINT_MAX {
            let why = "is too long or not printable";
            return Err(invalid("fingerprint", &self.fingerprint, why));
        }
        if !is_time(&self.copied_at) {
            return Err(invalid("time", &self.copied_at, "is not RFC 3339 in UTC"));
        }
        Ok(())
    }
}

/// Checks where a workspace may be in a guest: below `/root`, or below the home of a user.
///
/// # Errors
/// [`Code::InvalidArgument`].
pub fn check_guest_path(path: &str) -> Result<()> {
    let place = || {
        invalid("guest path", path, "is not below `/root` or `/home/USER`")
            .hint("choose a directory such as `/root/repo`")
    };
    let rest = path.strip_prefix('/').ok_or_else(place)?;
    if path.len() > PATH_MAX || path.contains('\0') {
        return Err(invalid(
            "guest path",
            path,
            "is too long, or has a zero byte in it",
        ));
    }
    let names: Vec<&str> = rest.split('/').collect();
    let plain = |name: &&str| !matches!(*name, "" | "." | "..") && name.len() <= NAME_MAX;
    if !names.iter().all(plain) {
        return Err(invalid(
            "guest path",
            path,
            "has `.`, `..`, nothing, or too much as a name",
        )
        .hint("write the path without detours, such as `/root/repo`"));
    }
    match names.as_slice() {
        ["root", _, ..] | ["home", _, _, ..] => Ok(()),
        _ => Err(place()),
    }
}

fn check_repository(path: &str) -> Result<()> {
    if path.starts_with('/') && path.len() <= PATH_MAX && !path.contains('\0') {
        return Ok(());
    }
    Err(invalid(
        "repository",
        path,
        "is not the absolute path of a directory",
    ))
}

fn is_hex(text: &str, lengths: &[usize]) -> bool {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    lengths.contains(&text.len()) && text.bytes().all(digit)
}

/// Whether this has the form `2026-01-01T00:00:00Z`, with or without a fraction.
fn is_time(text: &str) -> bool {
    let Some(text) = text.strip_suffix('Z') else {
        return false;
    };
    let (time, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let form = b"dddd-dd-ddTdd:dd:dd";
    let fits = |(byte, form): (u8, &u8)| match form {
        b'd' => byte.is_ascii_digit(),
        other => byte == *other,
    };
    let digits = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|b| b.is_ascii_digit());
    digits && time.len() == form.len() && time.bytes().zip(form).all(fits)
}

fn invalid(what: &str, value: &str, why: &str) -> Error {
    // Whatever it is, it is not printed whole or raw.
    let shown: String = value.chars().take(80).collect();
    let message = format!("the {what} `{}` {why}", shown.escape_debug());
    Error::new(Code::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkspaceMode;

    fn good() -> Workspace {
        Workspace {
            repository: "/srv/repo".into(),
            guest_path: "/root/repo".into(),
            mode: WorkspaceMode::Overlay,
            include_untracked: false,
            branch: Some("work".into()),
            from: Some("HEAD~1".into()),
            base: Some("0a".repeat(20)),
            fingerprint: "tracked:00".into(),
            copied_at: "2026-01-01T00:00:00.123Z".into(),
            complete: true,
            exported: Some("f0".repeat(32)),
        }
    }

    #[test]
    fn a_guest_path_is_plain_and_below_a_home() {
        let long = format!("/root/{}", "a".repeat(256));
        let longer = format!("/root{}", "/ab".repeat(2000));
        for path in [
            "/root/repo",
            "/root/a b/..c",
            "/home/dev/repo",
            "/home/dev/a/b",
        ] {
            check_guest_path(path).unwrap();
        }
        for path in [
            "",
            "/",
            "root/repo",
            "/root",
            "/root/",
            "/root/../etc",
            "/root/./a",
            "/root//a",
            "/root/a/",
            "/home/dev",
            "/home",
            "/home/../root/a",
            "/etc/a",
            "/rooted/a",
            "//root/a",
            "/root/a\0b",
            &long,
            &longer,
        ] {
            let error = check_guest_path(path).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{path:?}");
        }
    }

    #[test]
    fn each_value_is_checked() {
        good().validate().unwrap();
        type Spoil = fn(&mut Workspace);
        let spoils: [Spoil; 14] = [
            |w| w.repository = "repo".into(),
            |w| w.repository = "/a\0".into(),
            |w| w.repository = format!("/{}", "a".repeat(PATH_MAX)),
            |w| w.guest_path = "/etc/repo".into(),
            |w| w.branch = Some(String::new()),
            |w| w.branch = Some("a\nb".into()),
            |w| w.from = Some("a".repeat(REVISION_MAX + 1)),
            |w| w.base = Some("xyz".into()),
            |w| w.base = Some("--all".into()),
            |w| w.exported = Some("0a".repeat(20)),
            |w| w.fingerprint = "a b".into(),
            |w| w.fingerprint = "a".repeat(FINGERPRINT_MAX + 1),
            |w| w.copied_at = "yesterday".into(),
            |w| w.copied_at = "2026-01-01T00:00:00.Z".into(),
        ];
        for (number, spoil) in spoils.into_iter().enumerate() {
            let mut workspace = good();
            spoil(&mut workspace);
            let error = workspace.validate().unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{number}");
            assert!(!error.message().contains(char::is_control), "{error}");
            assert!(error.message().len() < 300, "{error}");
        }
    }
}
