//! The files of an archive while it is read: in a directory of their own, under numbers.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use banger_content::{Hasher, ensure_space};
use banger_model::{ByteSize, Digest, IoContext, Result};

use super::Fault;
use super::source::reading;
use crate::cache::BlobCache;
use crate::manifest::Descriptor;
use crate::pull::read_small;
use crate::text::shown;

const CHUNK: usize = 256 << 10;
/// Links to links, as `docker save` makes them; more is a loop.
const MAX_LINKS: usize = 16;
/// From this size on, the free space is looked at before an entry is written.
const LARGE: u64 = 16 << 20;

/// Everything that was in an archive. Its directory goes with it.
pub(super) struct Stage {
    dir: PathBuf,
    files: HashMap<String, Staged>,
    links: HashMap<String, String>,
    /// How many more bytes may be staged.
    room: u64,
    limit: ByteSize,
}

/// One file of an archive.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Stage {
    pub(super) fn new(cache: &BlobCache, limit: ByteSize) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = cache.staging().join(format!("load-{number}"));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .at("create", &dir)?;
        Ok(Stage {
            dir,
            files: HashMap::new(),
            links: HashMap::new(),
            room: limit.as_bytes(),
            limit,
        })
    }

    /// Stages the next `size` bytes of `tar` as `name`.
    pub(super) fn file(&mut self, name: &str, size: u64, tar: &mut impl Read) -> Result<(), Fault> {
        if size > self.room {
            return Err(Fault::Theirs(format!(
                "entry `{}` says it has {size} bytes, and with it there would be more than {} MiB",
                shown(name),
                self.limit.as_mib()
            )));
        }
        if size >= LARGE {
            ensure_space(&self.dir, ByteSize::bytes(size), "reading the archive")?;
        }
        let path = self.dir.join(self.files.len().to_string());
        let digest = write(&path, size, tar)?;
        self.room -= size;
        if let Some(hex) = name.strip_prefix("blobs/sha256/")
            && hex != digest.hex()
        {
            return Err(Fault::Theirs(format!(
                "the content of entry `{}` is `{digest}`",
                shown(name)
            )));
        }
        let staged = Staged { path, digest, size };
        // The same again does no harm; two contents under one name would be read differently
        // by different tools.
        if let Some(earlier) = self.files.get(name)
            && earlier.digest != staged.digest
        {
            return Err(twice(name));
        }
        if self.links.contains_key(name) {
            return Err(twice(name));
        }
        if !self.files.contains_key(name) {
            self.files.insert(name.to_owned(), staged);
        }
        Ok(())
    }

    /// Notes that `name` stands for `target`.
    pub(super) fn link(&mut self, name: &str, target: String) -> Result<(), Fault> {
        let other = self
            .links
            .get(name)
            .is_some_and(|earlier| *earlier != target);
        if other || self.files.contains_key(name) {
            return Err(twice(name));
        }
        self.links.insert(name.to_owned(), target);
        Ok(())
    }

    /// The file that `name` stands for.
    pub(super) fn get(&self, name: &str) -> Option<&Staged> {
        let mut name = name.strip_prefix("./").unwrap_or(name);
        for _ in 0..MAX_LINKS {
            match self.links.get(name) {
                Some(target) => name = target,
                None => return self.files.get(name),
            }
        }
        None
    }

    /// The blob that `descriptor` names, with the right length.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<&Staged, Fault> {
        let name = format!("blobs/sha256/{}", descriptor.digest.hex());
        let found = self
            .get(&name)
            .filter(|staged| staged.digest == descriptor.digest)
            .or_else(|| {
                // Archives of `docker save` keep blobs under other names.
                let mut all = self.files.values();
                all.find(|staged| staged.digest == descriptor.digest)
            });
        match found {
            None => Err(Fault::Theirs(format!("it lacks `{name}`"))),
            Some(staged) if staged.size != descriptor.size => Err(Fault::Theirs(format!(
                "`{name}` has {} bytes, not {}",
                staged.size, descriptor.size
            ))),
            Some(staged) => Ok(staged),
        }
    }

    /// The content of a file that must not have more than `limit` bytes.
    pub(super) fn read(&self, staged: &Staged, limit: u64) -> Result<Vec<u8>, Fault> {
        if staged.size > limit {
            return Err(Fault::Theirs(format!(
                "`{}` has {} bytes; at most {limit} are read",
                staged.digest, staged.size
            )));
        }
        Ok(read_small(&staged.path, limit)?)
    }

    /// Makes a file a blob of the cache. Doing it twice is no error.
    pub(super) fn publish(&self, cache: &BlobCache, staged: &Staged) -> Result<()> {
        let file = match File::open(&staged.path) {
            // The same content was published already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.at("open", &staged.path)?,
        };
        file.set_permissions(Permissions::from_mode(0o444))
            .at("set the mode of", &staged.path)?;
        file.sync_all().at("sync", &staged.path)?;
        cache.publish(&staged.path, &staged.digest)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The next start tries again, so this is worth a warning and no more.
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "a staged archive stays behind");
        }
    }
}

fn write(path: &std::path::Path, size: u64, tar: &mut impl Read) -> Result<Digest, Fault> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .at("create", path)?;
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK.min(size as usize)];
    let mut left = size;
    while left > 0 {
        let part = &mut chunk[..CHUNK.min(left as usize)];
        tar.read_exact(part).map_err(reading)?;
        hasher.update(part);
        file.write_all(part).at("write", path)?;
        left -= part.len() as u64;
    }
    Ok(hasher.finish())
}

fn twice(name: &str) -> Fault {
    Fault::Theirs(format!("entry `{}` is there twice", shown(name)))
}
