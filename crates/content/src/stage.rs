//! A directory in which something is being made.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use banger_model::{IoContext, Result};
use rustix::fs::{FlockOperation, flock};

use crate::files::unique_name;
use crate::store::Remove;

/// A private directory under `staging`, removed with everything in it when dropped.
///
/// It is locked as long as its maker lives, so a sweep, in this process or another, tells work
/// in progress from what a crash left behind.
#[derive(Debug)]
pub struct Stage {
    path: PathBuf,
    remove: Remove,
    published: bool,
    /// Held, not used: the lock goes when it is closed.
    _lock: File,
}

impl Stage {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a new directory in `staging`. The caller holds the store's lock.
    pub(crate) fn create(staging: &Path, remove: Remove) -> Result<Stage> {
        let path = staging.join(unique_name("stage-"));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .at("create", &path)?;
        let lock = match lock_dir(&path)? {
            Some(lock) => lock,
            None => {
                return Err(io::Error::from(io::ErrorKind::WouldBlock)).at("lock", &path);
            }
        };
        Ok(Stage {
            path,
            remove,
            published: false,
            _lock: lock,
        })
    }

    /// Moves the directory to its final place. The caller holds the store's lock.
    pub(crate) fn rename_to(&mut self, target: &Path) -> Result<()> {
        fs::rename(&self.path, target).at("publish", target)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        // The next sweep tries again, so this is worth a warning and no more.
        if let Err(error) = (self.remove)(&self.path) {
            tracing::warn!(
                path = %self.path.display(),
                error = %error.chain(),
                "a staging directory stays behind until the next start"
            );
        }
    }
}

/// Removes an entry of `staging` unless its maker lives. One that its maker removes meanwhile
/// is no failure. The caller holds the store's lock.
pub(crate) fn remove_if_abandoned(path: &Path, remove: Remove) -> Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.at("look at", path)?,
    };
    if !metadata.is_dir() {
        return fs::remove_file(path).at("remove", path);
    }
    match lock_dir(path) {
        Ok(Some(_lock)) => remove(path),
        Ok(None) => Ok(()),
        Err(_) if !path.exists() => Ok(()),
        Err(error) => Err(error),
    }
}

fn lock_dir(path: &Path) -> Result<Option<File>> {
    let file = File::open(path).at("open", path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(io::Error::from(error)).at("lock", path),
    }
}
