//! The two small JSON files of the store, and what makes one of them untrustworthy.

use std::fs;
use std::path::Path;

use banger_model::{Code, Digest, Error, IoContext, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The layout of both files. A file with another number was not written by this version.
const FORMAT: u32 = 1;
/// Larger files are not ours.
const MAX_RECORD: u64 = 1 << 20;

/// `object.json`: what an object is.
#[derive(Serialize, Deserialize)]
pub(crate) struct ObjectRecord<M> {
    format: u32,
    digest: Digest,
    pub(crate) manifest: M,
}

/// A file below `names`: which object the name means.
#[derive(Serialize, Deserialize)]
pub(crate) struct NameRecord {
    format: u32,
    name: String,
    pub(crate) digest: Digest,
}

impl<M> ObjectRecord<M> {
    pub(crate) fn new(digest: &Digest, manifest: M) -> Self {
        ObjectRecord {
            format: FORMAT,
            digest: digest.clone(),
            manifest,
        }
    }
}

impl<M: DeserializeOwned> ObjectRecord<M> {
    /// Reads the record of the object in `dir`, whose directory name must be its digest.
    pub(crate) fn read(dir: &Path, digest: &Digest) -> Result<Self> {
        let path = dir.join(OBJECT_FILE);
        let record: Self = read(&path)?;
        if record.format != FORMAT {
            return Err(damaged(&path, "it was written by another version"));
        }
        if record.digest != *digest {
            return Err(damaged(&path, "it describes another object"));
        }
        Ok(record)
    }
}

impl NameRecord {
    pub(crate) fn new(name: &str, digest: &Digest) -> Self {
        NameRecord {
            format: FORMAT,
            name: name.to_owned(),
            digest: digest.clone(),
        }
    }

    pub(crate) fn read(path: &Path, name: &str) -> Result<Self> {
        let record: Self = read(path)?;
        if record.format != FORMAT {
            return Err(damaged(path, "it was written by another version"));
        }
        if record.name != name {
            return Err(damaged(path, "it describes another name"));
        }
        Ok(record)
    }
}

/// The name of the record in an object's directory.
pub(crate) const OBJECT_FILE: &str = "object.json";

/// The bytes of a record.
pub(crate) fn encode(record: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(record)
        .map_err(|error| Error::internal("cannot encode a manifest").because(error))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(damaged(path, "it is missing"));
        }
        other => other.at("read", path)?,
    };
    if !metadata.is_file() {
        return Err(damaged(path, "it is not a file"));
    }
    if metadata.len() > MAX_RECORD {
        return Err(damaged(path, "it is too large"));
    }
    let bytes = fs::read(path).at("read", path)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| damaged(path, "it is not complete").because(error))
}

/// An error for a file that cannot be trusted.
pub(crate) fn damaged(path: &Path, why: &str) -> Error {
    Error::new(
        Code::Io,
        format!("`{}` cannot be used: {why}", path.display()),
    )
    .hint(format!(
        "remove `{}` and pull again",
        path.parent()
            .filter(|_| path.ends_with(OBJECT_FILE))
            .unwrap_or(path)
            .display()
    ))
}
