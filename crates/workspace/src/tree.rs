//! Looking at and reading the files of a tree without leaving it, neither upwards nor through a
//! symbolic link.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_model::{Error, IoContext, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// What a file is to git.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A regular file that its owner may execute.
    Executable,
    /// A symbolic link.
    Symlink,
}

/// One thing of a tree, as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    /// Bytes of content, or of the link's target.
    pub(crate) size: u64,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) modified: (i64, u32),
}

/// A tree, and the directory that was last used.
#[derive(Debug)]
pub(crate) struct Tree {
    top: PathBuf,
    root: OwnedFd,
    last: Option<(Vec<u8>, Option<OwnedFd>)>,
}

impl Tree {
    pub(crate) fn open(top: &Path) -> Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(top, flags, Mode::empty())
            .map_err(std::io::Error::from)
            .at("open", top)?;
        Ok(Tree {
            top: top.to_owned(),
            root,
            last: None,
        })
    }

    /// What is at `path`; nothing also when it is no file and no link, or when a directory on the
    /// way is none: git says then that it was deleted.
    pub(crate) fn look(&mut self, path: &[u8]) -> Result<Option<Seen>> {
        let at = self.full(path);
        let Some((parent, name)) = self.parent(path)? else {
            return Ok(None);
        };
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(seen(&stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Error::io("look at", &at, error.into())),
        }
    }

    /// Opens the file at `path`, which must be one.
    pub(crate) fn read(&mut self, path: &[u8]) -> Result<(File, Option<Seen>)> {
        let at = self.full(path);
        let fail = |error: Errno| Error::io("open", &at, error.into());
        let (parent, name) = self.parent(path)?.ok_or_else(|| fail(Errno::NOENT))?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(fail)?;
        let stat = rustix::fs::fstat(&fd).map_err(fail)?;
        Ok((File::from(fd), seen(&stat)))
    }

    /// The target of the link at `path`.
    pub(crate) fn link(&mut self, path: &[u8]) -> Result<Vec<u8>> {
        let at = self.full(path);
        let fail = |error: Errno| Error::io("read the link", &at, error.into());
        let (parent, name) = self.parent(path)?.ok_or_else(|| fail(Errno::NOENT))?;
        let target = rustix::fs::readlinkat(parent, name, Vec::new()).map_err(fail)?;
        Ok(target.into_bytes())
    }

    /// Permission bits and time of the directory at `path`, if it still is one.
    pub(crate) fn directory(&mut self, path: &[u8]) -> Result<Option<(u32, (i64, u32))>> {
        let at = self.full(path);
        let inside = [path, b"/."].concat();
        let inside = if path.is_empty() {
            b".".as_slice()
        } else {
            &inside
        };
        let Some((parent, _)) = self.parent(inside)? else {
            return Ok(None);
        };
        let stat =
            rustix::fs::fstat(parent).map_err(|error| Error::io("look at", &at, error.into()))?;
        Ok(Some((stat.st_mode & 0o777, modified(&stat))))
    }

    pub(crate) fn full(&self, path: &[u8]) -> PathBuf {
        self.top.join(OsStr::from_bytes(path))
    }

    fn parent<'a>(&mut self, path: &'a [u8]) -> Result<Option<(BorrowedFd<'_>, &'a OsStr)>> {
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else {
            return Ok(Some((self.root.as_fd(), OsStr::from_bytes(path))));
        };
        let (directory, name) = (&path[..slash], OsStr::from_bytes(&path[slash + 1..]));
        if self.last.as_ref().is_none_or(|(last, _)| last != directory) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let at = OsStr::from_bytes(directory);
            let fd = match rustix::fs::openat2(&self.root, at, flags, Mode::empty(), resolve) {
                Ok(fd) => Some(fd),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
                Err(error) => return Err(Error::io("open", &self.full(directory), error.into())),
            };
            self.last = Some((directory.to_vec(), fd));
        }
        let open = self.last.as_ref().and_then(|(_, fd)| fd.as_ref());
        Ok(open.map(|fd| (fd.as_fd(), name)))
    }
}

pub(crate) fn seen(stat: &Stat) -> Option<Seen> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_mode & 0o100 != 0 => Kind::Executable,
        FileType::RegularFile => Kind::File,
        FileType::Symlink => Kind::Symlink,
        _ => return None,
    };
    Some(Seen {
        kind,
        size: stat.st_size.unsigned_abs(),
        mode: stat.st_mode & 0o777,
        modified: modified(stat),
    })
}

fn modified(stat: &Stat) -> (i64, u32) {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
    (stat.st_mtime, nanoseconds)
}
