//! The ssh keys that banger makes: one for the user's client, one for each VM's host.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use banger_model::{Code, Error, IoContext, Result};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};

use crate::failpoint;

/// A key pair in the forms in which it is used.
#[derive(Clone)]
pub(crate) struct SshKey {
    /// The private key in OpenSSH's format.
    pub(crate) private: String,
    /// The public key line.
    pub(crate) public: String,
}

impl std::fmt::Debug for SshKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SshKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

/// The key pair at `path`, made when there is none. One that is there is never replaced; the
/// public half beside it is written when it is missing.
///
/// # Errors
/// `unsafe_permissions` when somebody else may read or replace it; `io` when it is not an
/// ed25519 key.
pub(crate) fn load_or_make(path: &Path, comment: &str) -> Result<SshKey> {
    let pair = match load(path)? {
        Some(pair) => pair,
        None => {
            let pair = generate(comment)?;
            write_private(path, pair.private.as_bytes())?;
            pair
        }
    };
    let public = path.with_added_extension("pub");
    if !public.exists() {
        write_private(&public, format!("{}\n", pair.public).as_bytes())?;
    }
    Ok(pair)
}

/// The key pair at `path`, if there is one.
///
/// # Errors
/// As [`load_or_make`].
pub(crate) fn load(path: &Path) -> Result<Option<SshKey>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc_nofollow())
        .open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    let meta = file.metadata().at("look at", path)?;
    let mine = meta.uid() == rustix::process::geteuid().as_raw();
    if !meta.is_file() || !mine || meta.mode() & 0o077 != 0 {
        return Err(Error::new(
            Code::Unsafe,
            format!("the ssh key `{}` is open to others", path.display()),
        )
        .hint(format!(
            "make it yours alone: `chmod 600 {}`",
            path.display()
        )));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).at("read", path)?;
    let key = PrivateKey::from_openssh(&text)
        .ok()
        .filter(|key| key.algorithm() == Algorithm::Ed25519 && !key.is_encrypted());
    let Some(key) = key else {
        return Err(Error::new(
            Code::Io,
            format!("`{}` is not an ed25519 key", path.display()),
        )
        .hint(
            "put the key back, or move the file away; VMs know only the key they were made with",
        ));
    };
    Ok(Some(SshKey {
        public: public_line(&key)?,
        private: text,
    }))
}

/// A new key pair.
///
/// # Errors
/// `internal` when it cannot be written down.
pub(crate) fn generate(comment: &str) -> Result<SshKey> {
    let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519)
        .map_err(|error| Error::internal("cannot make an ssh key").because(error))?;
    key.set_comment(comment);
    let private = key
        .to_openssh(LineEnding::LF)
        .map_err(|error| Error::internal("cannot write an ssh key down").because(error))?;
    Ok(SshKey {
        private: private.to_string(),
        public: public_line(&key)?,
    })
}

/// Writes a file only this user can read, so that it is either absent or complete.
///
/// # Errors
/// `io` or `no_space`.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let staged = path.with_added_extension("part");
    failpoint::hit("write a private file")?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc_nofollow())
        .open(&staged)
        .at("create", &staged)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .at("write", &staged)?;
    failpoint::hit("rename a private file")?;
    fs::rename(&staged, path).at("create", path)
}

fn public_line(key: &PrivateKey) -> Result<String> {
    key.public_key()
        .to_openssh()
        .map_err(|error| Error::internal("cannot write an ssh key down").because(error))
}

/// `O_NOFOLLOW` as the standard library wants it.
fn libc_nofollow() -> i32 {
    rustix::fs::OFlags::NOFOLLOW.bits() as i32
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_kept() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("id_ed25519");
        let made = load_or_make(&path, "banger").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(made.public.starts_with("ssh-ed25519 ") && made.public.ends_with(" banger"));
        let again = load_or_make(&path, "other").unwrap();
        assert_eq!((again.private, again.public), (made.private, made.public));
        // OpenSSH agrees, when it is here.
        match std::process::Command::new("ssh-keygen")
            .arg("-yf")
            .arg(&path)
            .output()
        {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => eprintln!("ssh-keygen is not here ({error}): not compared"),
        }
    }

    #[test]
    fn a_damaged_open_or_linked_key_is_an_error_and_stays() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("id_ed25519");
        write_private(&path, b"nonsense").unwrap();
        let error = load_or_make(&path, "banger").unwrap_err();
        assert_eq!(error.code(), Code::Io);
        assert_eq!(fs::read(&path).unwrap(), b"nonsense");
        let good = generate("x").unwrap();
        write_private(&path, good.private.as_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(
            load_or_make(&path, "banger").unwrap_err().code(),
            Code::Unsafe
        );
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(load_or_make(&link, "banger").is_err());
    }
}
