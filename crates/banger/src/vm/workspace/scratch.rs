//! A directory for what is made on the way: objects to be copied, patches.

use std::fs::File;
use std::path::{Path, PathBuf};

use banger_config::{Paths, ensure_private_dir};
use banger_model::{IoContext, Result};
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

/// A private directory beside the machines' disks, where there is room. It is removed when this
/// is dropped; one that a killed process left behind, by the next that makes one.
#[derive(Debug)]
pub(super) struct Scratch {
    directory: TempDir,
    /// Held, not used: says to others that its maker lives.
    _lock: File,
}

impl Scratch {
    /// Makes one.
    pub(super) fn new(paths: &Paths) -> Result<Scratch> {
        ensure_private_dir(&paths.state_dir)?;
        let parent = paths.state_dir.join("scratch");
        ensure_private_dir(&parent)?;
        loop {
            sweep(&parent)?;
            let directory = tempfile::Builder::new()
                .prefix("cli-")
                .tempdir_in(&parent)
                .at("create a directory in", &parent)?;
            let path = directory.path();
            // Between the two somebody else's sweep may have taken it for abandoned.
            match lock(path) {
                Ok(Some(lock)) if path.exists() => {
                    return Ok(Scratch {
                        directory,
                        _lock: lock,
                    });
                }
                Err(error) if path.exists() => return Err(error).at("lock", path),
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path in it.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

/// Removes what nobody holds any more.
fn sweep(parent: &Path) -> Result<()> {
    for entry in std::fs::read_dir(parent).at("read", parent)? {
        let path = entry.at("read", parent)?.path();
        if let Ok(Some(_lock)) = lock(&path) {
            // Whoever sweeps next tries again.
            std::fs::remove_dir_all(&path).ok();
        }
    }
    Ok(())
}

/// Locks a directory; nothing when another process has.
fn lock(path: &Path) -> std::io::Result<Option<File>> {
    let file = File::open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(state: &Path) -> Paths {
        Paths {
            config_file: state.join("config"),
            state_dir: state.join("state"),
            runtime_dir: state.join("run"),
            home: None,
            search_path: None,
            firecracker: None,
            log_level: None,
            credentials: Default::default(),
            proxies: Default::default(),
        }
    }

    #[test]
    fn what_a_killed_process_left_is_swept_and_what_is_in_use_is_not() {
        let place = tempfile::tempdir().unwrap();
        let paths = paths(place.path());
        let one = Scratch::new(&paths).unwrap();
        std::fs::write(one.file("x"), "x").unwrap();
        let left = paths.state_dir.join("scratch/cli-left");
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join("pack"), "x").unwrap();
        let two = Scratch::new(&paths).unwrap();
        assert!(!left.exists());
        assert!(one.file("x").exists());
        let path = two.path().to_owned();
        drop(two);
        assert!(!path.exists());
    }
}
