//! Replacing a file so that a reader sees the old contents or the new and nothing between, and
//! its owner, its mode and the link it is behind stay.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, IoContext, Result};

/// Gives the file these contents. A new one is private, and so is the directory made for it.
///
/// # Errors
/// `io`, or `no_space`, naming the file; the old contents are then untouched.
pub(super) fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    let target = target(path)?;
    let directory = target.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .at("create", directory)?;
    let old = match fs::metadata(&target) {
        Ok(old) if !old.is_file() => {
            return Err(Error::new(
                Code::Io,
                format!("`{}` is not a file", path.display()),
            ));
        }
        Ok(old) => Some(old),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).at("examine", &target),
    };
    let staged = staged_name(&target);
    let written = write(&staged, contents, old.as_ref())
        .and_then(|()| fs::rename(&staged, &target))
        .and_then(|()| File::open(directory)?.sync_all());
    if written.is_err() {
        fs::remove_file(&staged).ok();
    }
    written.at("write", &target)
}

/// The contents; `None` when there is no file.
///
/// # Errors
/// `io` when there is one that cannot be read.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(contents) => Ok(Some(contents)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("read", path),
    }
}

/// Removes the file itself, not a link to it. One that is not there is a success.
///
/// # Errors
/// `io` when it cannot be removed.
pub(super) fn remove(path: &Path) -> Result<()> {
    let target = target(path)?;
    match fs::remove_file(&target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", &target),
        _ => Ok(()),
    }
}

/// The file behind links, which need not exist.
fn target(path: &Path) -> Result<PathBuf> {
    /// As many as Linux follows.
    const LINKS_MAX: usize = 40;
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&target) {
            Ok(next) => {
                let base = target.parent().unwrap_or(Path::new("/"));
                target = base.join(next);
            }
            // Not a link, or not there.
            Err(_) => return Ok(target),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP)).at("open", path)
}

/// Beside the file, so that it can take its place; a name nobody else takes.
fn staged_name(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let now = jiff::Timestamp::now().as_nanosecond();
    target.with_file_name(format!(".{name}.{}-{now}", std::process::id()))
}

fn write(staged: &Path, contents: &[u8], old: Option<&fs::Metadata>) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(staged)?;
    file.write_all(contents)?;
    if let Some(old) = old {
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        // After the owner, whose change takes bits away.
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn mode_and_links_stay() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("dotfiles/config");
        fs::create_dir(dir.path().join("dotfiles")).unwrap();
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o444)).unwrap();
        let link = dir.path().join("config");
        symlink("dotfiles/config", &link).unwrap();
        replace(&link, b"new").unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o7777, 0o444);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let names = fs::read_dir(dir.path().join("dotfiles")).unwrap().count();
        assert_eq!(names, 1, "something staged is left");
    }

    #[test]
    fn what_is_new_is_private_and_a_link_to_nothing_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".ssh/config");
        replace(&path, b"x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777,
            0o700
        );
        let link = dir.path().join("link");
        symlink("elsewhere", &link).unwrap();
        replace(&link, b"y").unwrap();
        assert_eq!(fs::read(dir.path().join("elsewhere")).unwrap(), b"y");
        remove(&link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&link).unwrap(), None);
        remove(&link).unwrap();
    }

    #[test]
    fn a_directory_or_a_circle_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(replace(dir.path(), b"x").is_err());
        let link = dir.path().join("circle");
        symlink("circle", &link).unwrap();
        assert!(replace(&link, b"x").is_err());
    }
}
