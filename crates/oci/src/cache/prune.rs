//! Making room: what nothing references goes, the longest unused first.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use banger_model::{ByteSize, Digest, IoContext, Result};

use super::{BlobCache, lock};

/// What a `prune` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Blobs and starts of downloads that were removed.
    pub removed: usize,
    /// What they had on disk.
    pub freed: ByteSize,
    /// What the cache has left.
    pub left: ByteSize,
}

struct Item {
    path: PathBuf,
    /// None for a file that is no blob, which nobody can be using.
    digest: Option<Digest>,
    whole: bool,
    size: u64,
    used: SystemTime,
}

impl BlobCache {
    /// Removes blobs and abandoned downloads, the longest unused first, until the cache has at
    /// most `limit`. Blobs in `keep`, blobs of an [`Image`](crate::Image) somebody holds and
    /// downloads in progress stay, even when they are more than that. A limit of 0 leaves
    /// nothing else.
    ///
    /// Blocks for as long as the removal takes. Goes on after a failure and reports the first.
    ///
    /// # Errors
    /// `io`, naming what cannot be listed or removed.
    pub fn prune(&self, keep: &HashSet<Digest>, limit: ByteSize) -> Result<Pruned> {
        let mut items = list(&self.blobs(), true)?;
        items.extend(list(&self.partials(), false)?);
        items.sort_by_key(|item| item.used);
        let mut left: u64 = items.iter().map(|item| item.size).sum();
        let (mut removed, mut freed) = (0, 0);
        let mut problem = None;
        for item in items {
            if left <= limit.as_bytes() {
                break;
            }
            if item.whole
                && item
                    .digest
                    .as_ref()
                    .is_some_and(|digest| keep.contains(digest))
            {
                continue;
            }
            match self.remove_unless_used(&item) {
                Ok(false) => {}
                Ok(true) => {
                    removed += 1;
                    freed += item.size;
                    left -= item.size;
                }
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        match problem {
            Some(error) => Err(error),
            None => Ok(Pruned {
                removed,
                freed: ByteSize::bytes(freed),
                left: ByteSize::bytes(left),
            }),
        }
    }

    /// The bytes of all blobs and starts of downloads.
    ///
    /// # Errors
    /// `io` when the directories cannot be listed.
    pub fn size(&self) -> Result<ByteSize> {
        let items = list(&self.blobs(), true)?.into_iter();
        let items = items.chain(list(&self.partials(), false)?);
        Ok(ByteSize::bytes(items.map(|item| item.size).sum()))
    }

    /// The tables stay locked over the removal: nobody can begin to use what is going.
    fn remove_unless_used(&self, item: &Item) -> Result<bool> {
        let pins = lock(&self.0.pins);
        let slots = lock(&self.0.slots);
        if let Some(digest) = &item.digest {
            let fetched = slots
                .get(digest)
                .is_some_and(|slot| slot.strong_count() > 0);
            if fetched || (item.whole && pins.contains_key(digest)) {
                return Ok(false);
            }
        }
        match fs::remove_file(&item.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error).at("remove", &item.path),
        }
    }
}

fn list(dir: &Path, whole: bool) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        let path = entry.path();
        let metadata = match entry.metadata() {
            // Published or removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.at("look at", &path)?,
        };
        let name = entry.file_name();
        items.push(Item {
            digest: name
                .to_str()
                .and_then(|hex| format!("sha256:{hex}").parse().ok()),
            whole,
            size: metadata.len(),
            used: metadata.modified().at("look at", &path)?,
            path,
        });
    }
    Ok(items)
}
