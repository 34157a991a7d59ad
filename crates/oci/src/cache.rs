//! The blobs on disk: layers and configs by their digest, shared by all images.
//!
//! ```text
//! DIR/blobs/<hex>      whole and verified, 0444; appears by one rename
//! DIR/partial/<hex>    the start of a download, to be gone on with
//! DIR/staging/…        archives being read; emptied at every start
//! ```
//!
//! One process uses a cache at a time (the daemon, which holds its state directory's lock), and
//! opens it once: who downloads what, and what is in use, is known in memory only.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use banger_content::{digest_file, sync_dir};
use banger_model::{Digest, IoContext, Result};
use tokio::sync::watch;

mod partial;
mod prune;

pub(crate) use partial::Partial;
pub use prune::Pruned;

/// A directory of verified blobs. Clones are the same cache.
#[derive(Clone, Debug)]
pub struct BlobCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// How many hold each blob that is in use.
    pins: Mutex<HashMap<Digest, usize>>,
    /// Blobs that somebody is fetching or waiting for.
    slots: Mutex<HashMap<Digest, Weak<Slot>>>,
}

/// The place where all who want one blob meet: one of them fetches it, the others wait.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Held by the one who fetches.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    /// How many of its bytes are there.
    pub(crate) done: watch::Sender<u64>,
}

/// Keeps blobs from being pruned for as long as it lives.
#[derive(Debug)]
pub(crate) struct Pins {
    cache: BlobCache,
    digests: Vec<Digest>,
}

impl BlobCache {
    /// Opens the cache in `dir`, which is made if it is missing, and removes what a crash left
    /// of archives. Starts of downloads stay.
    ///
    /// # Errors
    /// `io`, naming the path.
    pub fn open(dir: &Path) -> Result<Self> {
        let cache = BlobCache(Arc::new(Inner {
            dir: dir.to_owned(),
            pins: Mutex::default(),
            slots: Mutex::default(),
        }));
        match fs::remove_dir_all(cache.staging()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).at("empty", &cache.staging());
            }
            _ => {}
        }
        for dir in [cache.blobs(), cache.partials(), cache.staging()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .at("create", &dir)?;
        }
        Ok(cache)
    }

    /// The directory of the cache.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Where the blob `digest` is once it is there.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Keeps `digests` from being pruned, also those that are not there yet.
    pub(crate) fn pin(&self, digests: impl IntoIterator<Item = Digest>) -> Pins {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let mut pins = lock(&self.0.pins);
        for digest in &digests {
            *pins.entry(digest.clone()).or_default() += 1;
        }
        drop(pins);
        Pins {
            cache: self.clone(),
            digests,
        }
    }

    /// The meeting place for `digest`.
    pub(crate) fn slot(&self, digest: &Digest) -> Arc<Slot> {
        let mut slots = lock(&self.0.slots);
        if let Some(slot) = slots.get(digest).and_then(Weak::upgrade) {
            return slot;
        }
        slots.retain(|_, slot| slot.strong_count() > 0);
        let slot = Arc::new(Slot {
            turn: Arc::default(),
            done: watch::Sender::new(0),
        });
        slots.insert(digest.clone(), Arc::downgrade(&slot));
        slot
    }

    /// Whether the blob is there with the right length and content; one that is not as it
    /// should be is removed. Reads the whole blob: the disk is not believed.
    pub(crate) fn verify(&self, digest: &Digest, size: u64) -> Result<bool> {
        let path = self.blob(digest);
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.at("look at", &path)?,
        };
        let whole = metadata.is_file()
            && metadata.len() == size
            && digest_file(&path, |_| Ok(()))? == *digest;
        if whole {
            // The time of last use, by which `prune` chooses. Who unpacks the blob at this moment
            // would take it for a change; as long as somebody does, it is not pruned anyway.
            if !self.is_shared(digest) {
                File::open(&path)
                    .and_then(|file| file.set_modified(SystemTime::now()))
                    .at("touch", &path)?;
            }
        } else {
            tracing::warn!(path = %path.display(), "a damaged blob is removed");
            fs::remove_file(&path).at("remove", &path)?;
        }
        Ok(whole)
    }

    /// Whether somebody beside the one who asks holds the blob.
    fn is_shared(&self, digest: &Digest) -> bool {
        lock(&self.0.pins)
            .get(digest)
            .is_some_and(|holders| *holders > 1)
    }

    /// Moves the finished file at `from` to its place among the blobs. It must be on disk.
    pub(crate) fn publish(&self, from: &Path, digest: &Digest) -> Result<()> {
        let to = self.blob(digest);
        fs::rename(from, &to).at("publish", &to)?;
        sync_dir(&self.blobs())
    }

    /// The directory for archives being read.
    pub(crate) fn staging(&self) -> PathBuf {
        self.0.dir.join("staging")
    }

    /// Where the start of the blob `digest` is kept.
    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.partials().join(digest.hex())
    }

    fn blobs(&self) -> PathBuf {
        self.0.dir.join("blobs")
    }

    fn partials(&self) -> PathBuf {
        self.0.dir.join("partial")
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut pins = lock(&self.cache.0.pins);
        for digest in &self.digests {
            if let Some(count) = pins.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(digest);
                }
            }
        }
    }
}

/// No holder of these locks can leave the tables half-changed, so a panic spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
