//! The start of a blob on disk, hashed as it grows.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use banger_content::Hasher;
use banger_model::{Digest, IoContext, Result};
use tokio::sync::OwnedMutexGuard;

use super::{BlobCache, Slot};

/// How much is read at once from what an earlier download left.
const CHUNK: usize = 1 << 20;

/// A blob that is being downloaded. Its methods block.
///
/// It holds the turn of its slot for as long as the file is open, so that nobody else writes
/// to the file, not even while a cancelled download is still writing its last piece.
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    len: u64,
    size: u64,
    slot: Arc<Slot>,
    _turn: OwnedMutexGuard<()>,
}

impl Partial {
    /// Opens what an earlier download left of the blob, or an empty file. What is longer than
    /// the blob cannot be the start of it and is thrown away.
    pub(crate) fn open(
        cache: &BlobCache,
        digest: &Digest,
        size: u64,
        slot: Arc<Slot>,
        turn: OwnedMutexGuard<()>,
    ) -> Result<Self> {
        let path = cache.partial(digest);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .at("open", &path)?;
        let mut partial = Partial {
            path,
            file,
            hasher: Hasher::new(),
            len: 0,
            size,
            slot,
            _turn: turn,
        };
        if partial.file.metadata().at("look at", &partial.path)?.len() > size {
            partial.restart()?;
        } else {
            partial.take_up()?;
        }
        Ok(partial)
    }

    /// How much of the blob is there.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is as much as the blob is long.
    pub(crate) fn is_full(&self) -> bool {
        self.len == self.size
    }

    /// Throws everything away.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).at("empty", &self.path)?;
        self.file.rewind().at("rewind", &self.path)?;
        self.hasher = Hasher::new();
        self.grow_to(0);
        Ok(())
    }

    /// Adds `bytes`, of which there must not be more than the blob has left.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).at("write", &self.path)?;
        self.hasher.update(bytes);
        self.grow_to(self.len + bytes.len() as u64);
        Ok(())
    }

    /// Publishes the blob when it is `digest`, else returns what it is and removes the file.
    pub(crate) fn publish(self, cache: &BlobCache, digest: &Digest) -> Result<Option<Digest>> {
        let found = self.hasher.clone().finish();
        if found != *digest {
            fs::remove_file(&self.path).at("remove", &self.path)?;
            self.slot.done.send_replace(0);
            return Ok(Some(found));
        }
        self.file
            .set_permissions(Permissions::from_mode(0o444))
            .at("set the mode of", &self.path)?;
        self.file.sync_all().at("sync", &self.path)?;
        cache.publish(&self.path, digest)?;
        Ok(None)
    }

    /// Hashes what is there already.
    fn take_up(&mut self) -> Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            match self.file.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => {
                    self.hasher.update(&chunk[..read]);
                    self.len += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).at("read", &self.path),
            }
        }
        self.file
            .seek(SeekFrom::Start(self.len))
            .at("seek in", &self.path)?;
        self.grow_to(self.len);
        Ok(())
    }

    fn grow_to(&mut self, len: u64) {
        self.len = len;
        self.slot.done.send_replace(len);
    }
}
