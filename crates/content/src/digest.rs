//! SHA-256 of files and byte streams.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use banger_model::{Digest, IoContext, Result};
use sha2::{Digest as _, Sha256};

/// How much is read at once: large enough that the system calls cost nothing.
const CHUNK: usize = 1 << 20;

/// Computes a SHA-256 from pieces.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Hasher(Sha256::new())
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        Digest::from_sha256(&self.0.finalize().into())
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The SHA-256 of the file at `path`; `progress` receives the number of bytes read so far and
/// ends the reading when it returns an error.
///
/// # Errors
/// `io` when the file cannot be read, and whatever `progress` returns.
pub fn digest_file(path: &Path, mut progress: impl FnMut(u64) -> Result<()>) -> Result<Digest> {
    let mut file = File::open(path).at("open", path)?;
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK];
    let mut done = 0;
    loop {
        let read = match file.read(&mut chunk) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).at("read", path),
        };
        hasher.update(&chunk[..read]);
        done += read as u64;
        progress(done)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_model::{Code, Error};

    #[test]
    fn digests_match_the_standard_and_do_not_depend_on_the_pieces() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Hasher::new().finish().hex(), empty);
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut hasher = Hasher::new();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish().hex(), abc);
    }

    #[test]
    fn files_longer_than_a_chunk_are_read_whole_and_may_be_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let bytes = vec![7; CHUNK * 2 + 5];
        std::fs::write(&path, &bytes).unwrap();
        let mut seen = 0;
        let digest = digest_file(&path, |done| {
            seen = done;
            Ok(())
        })
        .unwrap();
        let mut hasher = Hasher::new();
        hasher.update(&bytes);
        assert_eq!(digest, hasher.finish());
        assert_eq!(seen, bytes.len() as u64);
        let stopped = digest_file(&path, |_| Err(Error::new(Code::Cancelled, "stop")));
        assert_eq!(stopped.unwrap_err().code(), Code::Cancelled);
    }
}
