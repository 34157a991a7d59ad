//! A copy that takes the place of what is there: unpacked beside it, exchanged at once.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::RenameFlags;
use rustix::io::Errno;

/// The names that a copy is being prepared under: device and inode of the directory, and name.
static TAKEN: Mutex<Option<HashSet<(u64, u64, String)>>> = Mutex::new(None);

/// A name beside the destination, ours alone while this lives. What is under it at the end is
/// removed: an unfinished copy, or what the copy has replaced.
pub(crate) struct Beside<'a> {
    parent: &'a OwnedFd,
    name: String,
    key: (u64, u64, String),
    /// It was removed, with a result that somebody read.
    removed: bool,
}

impl<'a> Beside<'a> {
    /// Reserves the name that belongs to `destination` in `parent`, and removes what an agent
    /// that was killed has left under it. One copy at a time may replace one thing.
    pub(crate) fn reserve(
        parent: &'a OwnedFd,
        destination: &OsStr,
        shown: &Path,
    ) -> io::Result<Beside<'a>> {
        let mut hasher = DefaultHasher::new();
        destination.hash(&mut hasher);
        let name = format!(".banger-copy-{:016x}", hasher.finish());
        let stat = rustix::fs::fstat(parent)?;
        let key = (stat.st_dev, stat.st_ino, name.clone());
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        if !taken.get_or_insert_default().insert(key.clone()) {
            let message = format!("another copy is replacing `{}`", shown.display());
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        drop(taken);
        let beside = Beside {
            parent,
            name,
            key,
            removed: false,
        };
        beside.clear().map_err(|error| {
            let message = format!(
                "cannot remove what an earlier copy left beside `{}`: {error}",
                shown.display()
            );
            io::Error::new(error.kind(), message)
        })?;
        Ok(beside)
    }

    /// The name to unpack under.
    pub(crate) fn name(&self) -> &OsStr {
        OsStr::new(&self.name)
    }

    /// Puts the whole copy in the place of `destination`, and removes what was there.
    pub(crate) fn take_place(mut self, destination: &OsStr, shown: &Path) -> io::Result<()> {
        self.exchange(destination).map_err(|error| {
            let message = format!("cannot replace `{}`: {error}", shown.display());
            io::Error::new(io::Error::from(error).kind(), message)
        })?;
        self.removed = true;
        self.clear().map_err(|error| {
            let message = format!(
                "the copy is in its place, but what was at `{}` before, now `{}`, cannot be \
                 removed: {error}",
                shown.display(),
                self.name
            );
            io::Error::new(error.kind(), message)
        })
    }

    fn exchange(&self, destination: &OsStr) -> rustix::io::Result<()> {
        let (parent, name) = (self.parent.as_fd(), self.name.as_str());
        let rename = |flags| rustix::fs::renameat_with(parent, name, parent, destination, flags);
        // Whatever appears or disappears meanwhile, one of the two is possible soon.
        for _ in 0..100 {
            match rename(RenameFlags::EXCHANGE) {
                Err(Errno::NOENT) => {}
                result => return result,
            }
            match rename(RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                result => return result,
            }
        }
        Err(Errno::BUSY)
    }

    fn clear(&self) -> io::Result<()> {
        // Through the descriptor: the directory may have been moved meanwhile.
        let directory = format!("/proc/self/fd/{}", self.parent.as_raw_fd());
        let path = PathBuf::from(directory).join(&self.name);
        let removed = match std::fs::symlink_metadata(&path) {
            Ok(stat) if stat.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        if !self.removed {
            // After an error that says more; the next copy tries again.
            match self.clear() {
                Ok(()) | Err(_) => {}
            }
        }
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        taken.get_or_insert_default().remove(&self.key);
    }
}
