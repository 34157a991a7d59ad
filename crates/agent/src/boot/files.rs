//! Writing files of the VM's root so that no symbolic link of the image leads elsewhere.
//!
//! Called after the root has been switched. Parent directories are opened without leaving the
//! root or crossing links to processes; the file itself is written beside and renamed, which
//! replaces a link instead of following it and never leaves half a file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Files that are read back to be merged are small.
pub(super) const MAX_FILE: u64 = 1 << 20;
const TEMPORARY: &str = ".banger-new";

/// An open directory of the root.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

impl Directory {
    /// Opens a directory by absolute path; `None` when it does not exist.
    pub(super) fn open(path: &str) -> io::Result<Option<Directory>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let root = rustix::fs::open("/", flags | OFlags::PATH, Mode::empty())?;
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(directory) => Ok(Some(Directory(directory))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a real directory in this one, replacing whatever else has its name; owned by root
    /// and with exactly this mode.
    pub(super) fn subdirectory(&self, name: &str, mode: u32) -> io::Result<Directory> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::LOOP) => {
                rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?;
                Err(Errno::NOENT)
            }
            other => other,
        };
        let directory = match opened {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&self.0, name, Mode::from(mode))?;
                rustix::fs::openat(&self.0, name, flags, Mode::empty())?
            }
            other => other?,
        };
        own(&directory, mode)?;
        Ok(Directory(directory))
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> io::Result<bool> {
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether anything has this name, even a link that leads nowhere.
    pub(super) fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// The content of a regular file; `None` when there is none or it is something else.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Makes `name` a file with this content and mode, owned by root. Left alone when it is
    /// already so, which spares a copy on the writable layer.
    pub(super) fn write(&self, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
        if self.is_already(name, content, mode)? {
            return Ok(());
        }
        self.remove(TEMPORARY)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(
            &self.0,
            TEMPORARY,
            flags,
            Mode::from(0o600),
        )?);
        file.write_all(content)?;
        own(&file, mode)?;
        rustix::fs::renameat(&self.0, TEMPORARY, &self.0, name)?;
        Ok(())
    }

    /// What `name` is, itself if it is a link; `None` when there is nothing.
    pub(super) fn kind(&self, name: &str) -> io::Result<Option<(FileType, u64)>> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((
                FileType::from_raw_mode(stat.st_mode),
                stat.st_size.unsigned_abs(),
            ))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a file or link; that there is none is fine.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn is_already(&self, name: &str, content: &[u8], mode: u32) -> io::Result<bool> {
        let Ok(stat) = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) else {
            return Ok(false);
        };
        Ok(stat.st_uid == 0
            && stat.st_gid == 0
            && stat.st_mode == libc::S_IFREG | mode
            && self.read(name)?.is_some_and(|old| old == content))
    }
}

impl std::os::fd::AsFd for Directory {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn own(file: &impl std::os::fd::AsFd, mode: u32) -> io::Result<()> {
    rustix::fs::fchown(
        file,
        Some(rustix::fs::Uid::ROOT),
        Some(rustix::fs::Gid::ROOT),
    )?;
    Ok(rustix::fs::fchmod(file, Mode::from(mode))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    /// Everything here sets owners.
    fn am_root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: only root may give files to root");
        }
        root
    }

    #[test]
    fn a_link_is_replaced_and_its_target_left_alone() {
        if !am_root() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let victim = place.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let etc = place.path().join("etc");
        fs::create_dir(&etc).unwrap();
        symlink(&victim, etc.join("hostname")).unwrap();
        symlink(place.path(), etc.join("ssh")).unwrap();

        let directory = Directory::open(etc.to_str().unwrap()).unwrap().unwrap();
        assert_eq!(
            directory.read("hostname").unwrap(),
            None,
            "not through a link"
        );
        directory.write("hostname", b"box\n", 0o644).unwrap();
        let ssh = directory.subdirectory("ssh", 0o700).unwrap();
        ssh.write("key", b"secret", 0o600).unwrap();

        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read(etc.join("hostname")).unwrap(), b"box\n");
        assert!(!place.path().join("key").exists());
        let mode = |path: &str| fs::symlink_metadata(etc.join(path)).unwrap().mode() & 0o7777;
        assert_eq!(
            (mode("hostname"), mode("ssh"), mode("ssh/key")),
            (0o644, 0o700, 0o600)
        );
    }

    #[test]
    fn what_is_already_so_is_left_alone() {
        if !am_root() {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(place.path().to_str().unwrap())
            .unwrap()
            .unwrap();
        let inode = || fs::metadata(place.path().join("file")).unwrap().ino();
        directory.write("file", b"1", 0o644).unwrap();
        let first = inode();
        directory.write("file", b"1", 0o644).unwrap();
        assert_eq!(inode(), first);
        directory.write("file", b"1", 0o600).unwrap();
        assert_ne!(inode(), first);
    }
}
