//! Where an entry of an archive goes, and the name it has until it is whole.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::{at, shown};

/// Where one entry goes.
pub(super) struct Place<'a> {
    pub(super) parent: Rc<OwnedFd>,
    pub(super) name: &'a OsStr,
    pub(super) path: &'a [u8],
    pub(super) shown: &'a Path,
    /// How much of `path` is the copy's own name.
    pub(super) top: usize,
}

impl Place<'_> {
    pub(super) fn known(&self) -> String {
        shown(&known(self.shown, self.path, self.top))
    }

    pub(super) fn at(&self, act: &str, error: impl Into<io::Error>) -> io::Error {
        at(act, &known(self.shown, self.path, self.top), error)
    }
}

/// The path a person knows an entry by; `name` is how much of `path` is the copy's own name.
pub(super) fn known(top: &Path, path: &[u8], name: usize) -> Vec<u8> {
    let below = path.get(name..).unwrap_or_default();
    [top.as_os_str().as_bytes(), below].concat()
}

/// A file that is not yet under its own name, and is removed unless it gets there.
pub(super) struct Temporary<'a> {
    parent: &'a OwnedFd,
    name: String,
    published: bool,
}

impl<'a> Temporary<'a> {
    pub(super) fn new(parent: &'a OwnedFd, name: String) -> Self {
        Temporary {
            parent,
            name,
            published: false,
        }
    }

    /// The name it has now.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Gives it its own name, in place of what has it.
    pub(super) fn publish(mut self, place: &Place<'_>) -> io::Result<()> {
        match rustix::fs::renameat(self.parent, self.name.as_str(), self.parent, place.name) {
            Ok(()) => {
                self.published = true;
                Ok(())
            }
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::BUSY | Errno::INVAL | Errno::EXIST) => {
                let message = format!("`{}` exists and is a directory", place.known());
                Err(io::Error::new(io::ErrorKind::IsADirectory, message))
            }
            Err(error) => Err(place.at("create", error)),
        }
    }

    /// As [`publish`](Self::publish), of a further name: the kernel leaves two names of one file
    /// as they are, and then this one is still there.
    pub(super) fn publish_link(self, place: &Place<'_>) -> io::Result<()> {
        let (parent, name) = (self.parent, self.name.clone());
        self.publish(place)?;
        match rustix::fs::unlinkat(parent, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(place.at("finish", error)),
        }
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        // After an error, and there is nobody better to tell of another.
        let name = self.name.as_str();
        match rustix::fs::unlinkat(self.parent, name, AtFlags::empty()) {
            Ok(()) | Err(_) => {}
        }
    }
}
