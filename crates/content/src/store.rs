//! The store itself: stage, publish, find, sweep.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use banger_model::{ByteSize, Digest, Error, IoContext, Result};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files::{disk_usage, seal, sync_dir, unique_name, write_atomically};
use crate::record::{NameRecord, OBJECT_FILE, ObjectRecord, damaged, encode};
use crate::stage::{Stage, remove_if_abandoned};
use crate::steps::Steps;

/// How a directory of the store is removed. Trees that hold files of other users need more
/// than [`std::fs::remove_dir_all`].
pub type Remove = fn(&Path) -> Result<()>;

/// A directory of immutable objects and the names that point at them.
#[derive(Clone, Debug)]
pub struct ContentStore {
    dir: PathBuf,
    remove: Remove,
    steps: Steps,
}

/// One published object.
#[derive(Clone, Debug)]
pub struct Entry<M> {
    /// The name it was found by, or none.
    pub name: Option<String>,
    /// Its identity.
    pub digest: Digest,
    /// The directory with its files.
    pub path: PathBuf,
    /// What its maker says about it.
    pub manifest: M,
}

impl<M> Entry<M> {
    /// The space the object takes on disk.
    ///
    /// # Errors
    /// `io` when its files cannot be read.
    pub fn disk_usage(&self) -> Result<ByteSize> {
        disk_usage(&self.path)
    }
}

impl ContentStore {
    /// Opens the store in `dir`, which is made if it is missing.
    ///
    /// # Errors
    /// `io` when the directories cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        let store = ContentStore {
            dir: dir.to_owned(),
            remove: |path| match fs::remove_dir_all(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other.at("remove", path),
            },
            steps: Steps::default(),
        };
        for dir in [
            store.dir.clone(),
            store.staging(),
            store.objects_dir(),
            store.names(),
        ] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .at("create", &dir)?;
        }
        Ok(store)
    }

    /// The same store with another way to remove directories.
    #[must_use]
    pub fn remove_with(mut self, remove: Remove) -> Self {
        self.remove = remove;
        self
    }

    /// The same store, with somebody who is told of each change.
    #[must_use]
    pub fn with_steps(mut self, steps: Steps) -> Self {
        self.steps = steps;
        self
    }

    /// Those who are told of each change.
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// The directory of the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new private directory to make something in.
    ///
    /// # Errors
    /// `io` or `no_space`.
    pub fn stage(&self) -> Result<Stage> {
        self.steps.pass("make a staging directory")?;
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        Stage::create(&self.staging(), self.remove)
    }

    /// Publishes what is in `stage` as the object `digest` and points `name` at it.
    ///
    /// When that object is there already, it stays and `stage` is removed.
    ///
    /// # Errors
    /// `io` or `no_space`; nothing is published then, and an earlier meaning of the name holds.
    pub fn publish<M: Serialize + DeserializeOwned>(
        &self,
        mut stage: Stage,
        digest: &Digest,
        name: &str,
        manifest: &M,
    ) -> Result<Entry<M>> {
        let pointer = self.name_path(name)?;
        let record = encode(&ObjectRecord::new(digest, manifest))?;
        self.steps.pass("write the manifest")?;
        write_atomically(&stage.path().join(OBJECT_FILE), &record)?;
        self.steps.pass("seal the object")?;
        seal(stage.path())?;

        let object = self.object_path(digest);
        let lock = self.lock(FlockOperation::LockExclusive)?;
        let mut replaced = None;
        // A whole object with this digest has the same content by definition, even when its
        // manifest was written by another version: only a damaged one is replaced.
        if ObjectRecord::<M>::read(&object, digest).is_err() {
            replaced = self.set_aside(&object)?;
            self.steps.pass("publish the object")?;
            stage.rename_to(&object)?;
            sync_dir(&self.objects_dir())?;
        }
        self.steps.pass("point the name at the object")?;
        let name_record = encode(&NameRecord::new(name, digest))?;
        write_atomically(&pointer, &name_record)?;
        let published = ObjectRecord::<M>::read(&object, digest)?;
        drop(lock);

        if let Some(replaced) = replaced
            && let Err(error) = (self.remove)(&replaced)
        {
            tracing::warn!(error = %error.chain(), "a damaged object stays until the next sweep");
        }
        // Removes what another publisher of the same object was faster with.
        drop(stage);
        Ok(Entry {
            name: Some(name.to_owned()),
            digest: digest.clone(),
            path: object,
            manifest: published.manifest,
        })
    }

    /// The object `name` points at.
    ///
    /// # Errors
    /// `io`, naming the file, when the name or its object is damaged.
    pub fn get<M: DeserializeOwned>(&self, name: &str) -> Result<Option<Entry<M>>> {
        let pointer = self.name_path(name)?;
        // Otherwise the object might go between the two reads and look like damage.
        let _lock = self.lock(FlockOperation::LockShared)?;
        if !exists(&pointer)? {
            return Ok(None);
        }
        let record = NameRecord::read(&pointer, name)?;
        let mut entry = self
            .by_digest::<M>(&record.digest)?
            .ok_or_else(|| damaged(&pointer, "its content is missing"))?;
        entry.name = Some(name.to_owned());
        Ok(Some(entry))
    }

    /// The object `digest`, named or not.
    ///
    /// # Errors
    /// `io`, naming the file, when the object is damaged.
    pub fn by_digest<M: DeserializeOwned>(&self, digest: &Digest) -> Result<Option<Entry<M>>> {
        let path = self.object_path(digest);
        if !exists(&path)? {
            return Ok(None);
        }
        let record = ObjectRecord::<M>::read(&path, digest)?;
        Ok(Some(Entry {
            name: None,
            digest: digest.clone(),
            path,
            manifest: record.manifest,
        }))
    }

    /// Every named object, in the order of the names.
    ///
    /// # Errors
    /// `io`, naming the file, when a name or an object is damaged.
    pub fn list<M: DeserializeOwned>(&self) -> Result<Vec<Entry<M>>> {
        let mut entries = Vec::new();
        for name in self.all_names()? {
            // A name that goes while we read is no error.
            entries.extend(self.get(&name)?);
        }
        Ok(entries)
    }

    /// Whether there is such a name; its object may be damaged.
    ///
    /// # Errors
    /// `io` when the name cannot be looked at.
    pub fn has(&self, name: &str) -> Result<bool> {
        exists(&self.name_path(name)?)
    }

    /// Every object, named or not.
    ///
    /// # Errors
    /// `io`, naming the file, when one is damaged.
    pub fn objects<M: DeserializeOwned>(&self) -> Result<Vec<Entry<M>>> {
        let _lock = self.lock(FlockOperation::LockShared)?;
        let mut entries = Vec::new();
        for path in children(&self.objects_dir())? {
            if let Some(digest) = digest_of(&path) {
                entries.extend(self.by_digest(&digest)?);
            }
        }
        Ok(entries)
    }

    /// Removes a name; its object stays until a sweep. Says whether there was one.
    ///
    /// # Errors
    /// `io` when the name cannot be removed.
    pub fn unlink(&self, name: &str) -> Result<bool> {
        let pointer = self.name_path(name)?;
        self.steps.pass("remove the name")?;
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        match fs::remove_file(&pointer) {
            Ok(()) => sync_dir(&self.names()).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).at("remove", &pointer),
        }
    }

    /// Removes what a crash left behind, and every object that has no name and is not in
    /// `keep`. Work in progress is left alone. Goes on after a failure and reports the first.
    ///
    /// # Errors
    /// `io` when something cannot be removed; nothing that may be needed is ever removed.
    pub fn sweep(&self, keep: &HashSet<Digest>) -> Result<()> {
        let lock = self.lock(FlockOperation::LockExclusive)?;
        // A name that cannot be read might mean any object: then no object is removed.
        let named = self.named_objects();
        let mut problems = Vec::new();
        if let Ok(named) = &named {
            for path in children(&self.objects_dir())? {
                let wanted = digest_of(&path)
                    .as_ref()
                    .is_some_and(|digest| keep.contains(digest) || named.contains(digest));
                if !wanted && let Err(error) = self.set_aside(&path) {
                    problems.push(error);
                }
            }
        }
        for path in children(&self.names())? {
            if is_temporary(&path)
                && let Err(error) = fs::remove_file(&path).at("remove", &path)
            {
                problems.push(error);
            }
        }
        for path in children(&self.staging())? {
            if let Err(error) = remove_if_abandoned(&path, self.remove) {
                problems.push(error);
            }
        }
        drop(lock);
        named?;
        match problems.into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }

    /// Moves a directory out of `objects` in one step, to be removed at leisure: a removal cut
    /// short must not leave half an object under its digest.
    fn set_aside(&self, object: &Path) -> Result<Option<PathBuf>> {
        if !exists(object)? {
            return Ok(None);
        }
        let aside = self.staging().join(unique_name("old-"));
        self.steps.pass("set an object aside")?;
        fs::rename(object, &aside).at("set aside", object)?;
        sync_dir(&self.objects_dir())?;
        Ok(Some(aside))
    }

    fn named_objects(&self) -> Result<HashSet<Digest>> {
        let mut digests = HashSet::new();
        for name in self.all_names()? {
            let pointer = self.name_path(&name)?;
            digests.insert(NameRecord::read(&pointer, &name)?.digest);
        }
        Ok(digests)
    }

    fn all_names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for path in children(&self.names())? {
            if is_temporary(&path) {
                continue;
            }
            match path.file_name().and_then(|name| name.to_str()) {
                Some(name) => names.push(name.to_owned()),
                None => return Err(damaged(&path, "its name is not text")),
            }
        }
        names.sort();
        Ok(names)
    }

    /// One lock for all stores of this directory, in every process; held for moments.
    fn lock(&self, how: FlockOperation) -> Result<File> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .at("open", &path)?;
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(io::Error::from(error)).at("lock", &path),
            }
        }
    }

    fn staging(&self) -> PathBuf {
        self.dir.join("staging")
    }

    fn objects_dir(&self) -> PathBuf {
        self.dir.join("objects")
    }

    fn names(&self) -> PathBuf {
        self.dir.join("names")
    }

    fn object_path(&self, digest: &Digest) -> PathBuf {
        self.objects_dir().join(digest.hex())
    }

    /// Names come from validated types; this only makes sure that none leaves the directory.
    fn name_path(&self, name: &str) -> Result<PathBuf> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(Error::internal(format!(
                "`{}` cannot name an object",
                name.escape_debug()
            )));
        }
        Ok(self.names().join(name))
    }
}

fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("look at", path),
    }
}

fn children(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).at("list", dir)? {
        paths.push(entry.at("list", dir)?.path());
    }
    Ok(paths)
}

/// The digest of the object in this directory.
fn digest_of(path: &Path) -> Option<Digest> {
    let hex = path.file_name()?.to_str()?;
    format!("sha256:{hex}").parse().ok()
}

fn is_temporary(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

#[cfg(test)]
mod tests;
