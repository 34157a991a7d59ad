//! The host keys of machines, as OpenSSH reads them.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use banger_config::ensure_private_dir;
use banger_model::{Code, Error, IoContext, Result};

use super::Files;
use super::user_file::replace;

/// More hosts than anybody has, so that the file cannot grow without end. The oldest go first.
const HOSTS_MAX: usize = 4096;

/// Makes `key` the only key of `host`, a name as OpenSSH looks it up.
///
/// # Errors
/// `internal` when the key is not one line of two words; `io` and others when the file cannot
/// be written.
pub(super) fn pin(files: &Files, host: &str, key: &str) -> Result<()> {
    let key = checked(key)?;
    ensure_private_dir(&files.directory)?;
    let path = files.known_hosts();
    // Others may be connecting to other machines.
    let directory = File::open(&files.directory).at("open", &files.directory)?;
    directory.lock().at("lock", &files.directory)?;
    let old = read(&path)?;
    match with_key(&old, host, &key) {
        Some(new) => replace(&path, new.as_bytes()),
        None => Ok(()),
    }
}

/// The new contents; `None` when the key is there already.
fn with_key(old: &str, host: &str, key: &str) -> Option<String> {
    let line = format!("{host} {key}");
    let of_others = |old: &&str| old.split(' ').next() != Some(host);
    let lines_of_host: Vec<_> = old.lines().filter(|old| !of_others(old)).collect();
    if lines_of_host == [line.as_str()] {
        return None;
    }
    let mut lines: Vec<_> = old.lines().filter(of_others).collect();
    let surplus = (lines.len() + 1).saturating_sub(HOSTS_MAX);
    lines.drain(..surplus);
    lines.push(&line);
    Some(lines.join("\n") + "\n")
}

/// A key as the daemon says it: its kind and itself. A comment is dropped.
fn checked(key: &str) -> Result<String> {
    let is_word =
        |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
    let words: Vec<_> = key.trim_end().split(' ').collect();
    match words[..] {
        [kind, value, ..] if is_word(&kind) && is_word(&value) && !kind.starts_with(['@', '#']) => {
            Ok(format!("{kind} {value}"))
        }
        _ => Err(Error::internal(
            "the daemon's ssh host key of the machine is not a key",
        )),
    }
}

fn read(path: &Path) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| {
            Error::new(Code::Io, format!("`{}` is damaged", path.display()))
                .hint("remove it: it is made again from what the daemon knows")
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).at("read", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_key_and_others_keep_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files {
            directory: dir.path().join("ssh"),
        };
        let contents = || fs::read_to_string(files.known_hosts()).unwrap();
        pin(&files, "box.vm", "ssh-ed25519 AAAA1 root@box\n").unwrap();
        pin(&files, "bo.vm", "ssh-ed25519 AAAA1").unwrap();
        pin(&files, "box.vm", "ssh-ed25519 AAAA2").unwrap();
        assert_eq!(
            contents(),
            "bo.vm ssh-ed25519 AAAA1\nbox.vm ssh-ed25519 AAAA2\n"
        );
        let before = fs::metadata(files.known_hosts()).unwrap();
        pin(&files, "box.vm", "ssh-ed25519 AAAA2").unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(
            fs::metadata(files.known_hosts()).unwrap().ino(),
            before.ino()
        );
        assert_eq!(before.mode() & 0o777, 0o600);
    }

    #[test]
    fn the_file_does_not_grow_without_end() {
        let mut text = String::new();
        for number in 0..HOSTS_MAX + 3 {
            text = with_key(&text, &format!("h{number}.vm"), "k v").unwrap_or(text);
        }
        assert_eq!(text.lines().count(), HOSTS_MAX);
        assert!(text.starts_with("h3.vm "));
    }

    #[test]
    fn a_key_cannot_bring_lines_of_its_own() {
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 A\n* ssh-rsa B",
            "@cert-authority * k",
            "a  b",
        ] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
    }
}
