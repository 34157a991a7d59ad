//! Who makes commits in this VM: the host user's name and address, as a default.
//!
//! They go into `/etc/gitconfig`, where every user of the guest finds them and where git lets
//! everything else win: `~/.gitconfig`, a repository's own configuration, the environment. They
//! are the first lines of that file, so that what the image says after them wins too. A home
//! directory is left alone: it is the user's, and a file sync may write there.

use std::io;

use banger_guest_api::GitIdentity;
use rustix::fs::FileType;

use super::files::{Directory, MAX_FILE};
use super::identity::{fenced, outside};

const NAME: &str = "gitconfig";
/// Only at the beginning of a file does git skip it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Writes the identity into `gitconfig` in `etc`, or takes an earlier one back. What is no
/// ordinary file there is the image's matter and left alone.
pub(super) fn write(etc: &Directory, identity: Option<&GitIdentity>) -> io::Result<()> {
    match etc.kind(NAME)? {
        None => {}
        Some((FileType::RegularFile, size)) if size < MAX_FILE => {}
        Some(_) => {
            eprintln!("banger: /etc/gitconfig is left alone: it is no small file");
            return Ok(());
        }
    }
    let old = etc.read(NAME)?;
    match merge(old.as_deref().unwrap_or_default(), identity) {
        Some(new) => etc.write(NAME, &new, 0o644),
        // It was ours alone.
        None if old.is_some_and(|old| !old.is_empty()) => etc.remove(NAME),
        None => Ok(()),
    }
}

/// The new text; `None` when nothing would be in it.
fn merge(old: &[u8], identity: Option<&GitIdentity>) -> Option<Vec<u8>> {
    let kept = outside(old);
    let ours = section(identity.unwrap_or(&GitIdentity::default()));
    let new = match ours.is_empty() {
        true => kept,
        false => {
            let rest = kept.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&kept);
            [fenced(&ours).as_slice(), rest].concat()
        }
    };
    (!new.is_empty()).then_some(new)
}

fn section(identity: &GitIdentity) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in [("name", &identity.name), ("email", &identity.email)] {
        let Some(value) = value else { continue };
        if text.is_empty() {
            text.extend_from_slice(b"[user]\n");
        }
        text.extend_from_slice(format!("\t{key} = \"").as_bytes());
        text.extend(value.as_bytes().iter().copied().flat_map(escaped));
        text.extend_from_slice(b"\"\n");
    }
    text
}

/// A byte of a value between quotes.
fn escaped(byte: u8) -> Vec<u8> {
    match byte {
        b'"' | b'\\' => vec![b'\\', byte],
        b'\n' => b"\\n".to_vec(),
        b'\t' => b"\\t".to_vec(),
        0x08 => b"\\b".to_vec(),
        // Git's own values have none.
        0 => Vec::new(),
        byte => vec![byte],
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn identity(name: &[u8], email: &[u8]) -> GitIdentity {
        GitIdentity {
            name: Some(name.to_vec().into()),
            email: Some(email.to_vec().into()),
        }
    }

    /// What git itself reads in a file.
    fn git(file: &Path, key: &str) -> Option<Vec<u8>> {
        let output = Command::new("git")
            .args(["config", "-z", "--file"])
            .arg(file)
            .args(["--get", key])
            .output()
            .expect("run git: scripts/install-deps installs it");
        let mut said = output.stdout;
        match output.status.code() {
            Some(0) => assert_eq!(said.pop(), Some(0)),
            Some(1) => return None,
            _ => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        }
        Some(said)
    }

    #[test]
    fn git_reads_exactly_what_was_given() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("config");
        for name in [
            &b"Ada Lovelace"[..],
            b" spaces at both ends ",
            b"\"quoted\" \\ 'and' \\n",
            b"two\nlines\tand\x08 a tab",
            b"[user] # not a comment ; nor this",
            b"\r\n\r",
            b"latin \xe9",
            b"x\\",
            b"",
            "Łukasz 日本 🦀".as_bytes(),
        ] {
            let text = merge(b"", Some(&identity(name, name))).unwrap();
            fs::write(&file, text).unwrap();
            for key in ["user.name", "user.email"] {
                let said = git(&file, key).map(std::ffi::OsString::from_vec);
                let given = std::ffi::OsString::from_vec(name.to_vec());
                assert_eq!(said, Some(given));
            }
        }
    }

    #[test]
    fn what_was_there_is_kept_and_wins() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("config");
        let image = b"\xef\xbb\xbf[core]\n\teditor = vim\n[user]\n\temail = image@localhost";
        let first = merge(image, Some(&identity(b"One", b"one@localhost"))).unwrap();
        let second = merge(&first, Some(&identity(b"Two", b"two@localhost"))).unwrap();
        assert_eq!(
            merge(&second, Some(&identity(b"Two", b"two@localhost"))).as_ref(),
            Some(&second)
        );
        fs::write(&file, &second).unwrap();
        assert_eq!(git(&file, "user.name").unwrap(), b"Two");
        assert_eq!(git(&file, "user.email").unwrap(), b"image@localhost");
        assert_eq!(git(&file, "core.editor").unwrap(), b"vim");
        // Without an identity nothing but the image's own is left.
        assert_eq!(merge(&second, None).unwrap(), image[3..]);
        let half = GitIdentity {
            name: None,
            email: Some("x@localhost".into()),
        };
        fs::write(&file, merge(b"", Some(&half)).unwrap()).unwrap();
        assert_eq!(git(&file, "user.name"), None);
        assert_eq!(git(&file, "user.email").unwrap(), b"x@localhost");
        let ours = merge(b"", Some(&half)).unwrap();
        assert_eq!(merge(&ours, None), None);
        assert_eq!(merge(b"", Some(&GitIdentity::default())), None);
    }

    #[test]
    fn only_ordinary_files_are_touched() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may give files to root");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let etc = Directory::open(place.path().to_str().unwrap())
            .unwrap()
            .unwrap();
        let path = place.path().join("gitconfig");
        let one = identity(b"One", b"one@localhost");

        write(&etc, None).unwrap();
        assert!(!path.exists());
        write(&etc, Some(&one)).unwrap();
        assert_eq!(git(&path, "user.name").unwrap(), b"One");
        write(&etc, None).unwrap();
        assert!(!path.exists(), "it was ours alone");

        let elsewhere = place.path().join("elsewhere");
        fs::write(&elsewhere, "[core]\n").unwrap();
        symlink(&elsewhere, &path).unwrap();
        write(&etc, Some(&one)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"[core]\n");
        assert!(path.is_symlink());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        write(&etc, Some(&one)).unwrap();
        assert!(path.is_dir());
        fs::remove_dir(&path).unwrap();
        fs::write(&path, vec![b'#'; MAX_FILE as usize + 1]).unwrap();
        write(&etc, Some(&one)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), MAX_FILE + 1);
    }
}
