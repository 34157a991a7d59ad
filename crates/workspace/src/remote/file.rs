//! Files that are made of what a guest says.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, IoContext, Result};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::run::Output;

/// The largest file that is made of it, in bytes.
const MAX: u64 = 4 << 30;

/// How much was written, and the digest of it.
#[derive(Default)]
struct Written {
    hasher: Sha256,
    size: u64,
}

impl Written {
    fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// The size in bytes, and SHA-256 in hexadecimal digits.
    fn told(self) -> (u64, String) {
        let digest = self.hasher.finalize();
        let digits = digest.iter().map(|byte| format!("{byte:02x}"));
        (self.size, digits.collect())
    }
}

/// What a command in the guest writes, as a new file.
pub(super) struct OutputFile {
    path: PathBuf,
    file: tokio::fs::File,
    written: Written,
    what: &'static str,
}

impl OutputFile {
    /// `what` is what an error says is too large.
    pub(super) fn create(path: &Path, what: &'static str) -> Result<OutputFile> {
        Ok(OutputFile {
            path: path.to_owned(),
            file: tokio::fs::File::from_std(create(path)?),
            written: Written::default(),
            what,
        })
    }

    /// The size in bytes, and SHA-256 in hexadecimal digits.
    pub(super) async fn finish(mut self) -> Result<(u64, String)> {
        self.file.flush().await.at("write", &self.path)?;
        Ok(self.written.told())
    }
}

impl Output for OutputFile {
    async fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.written.add(bytes);
        if self.written.size > MAX {
            let message = format!("{} take more than {} GiB", self.what, MAX >> 30);
            return Err(Error::new(Code::NoSpace, message)
                .hint("copy large files out with `banger vm cp` and delete them in the guest"));
        }
        self.file.write_all(bytes).await.at("write", &self.path)
    }
}

/// What is written on this host, as a new file.
pub(super) struct HashedFile {
    file: io::BufWriter<File>,
    written: Written,
}

impl HashedFile {
    pub(super) fn create(path: &Path) -> Result<HashedFile> {
        Ok(HashedFile {
            file: io::BufWriter::new(create(path)?),
            written: Written::default(),
        })
    }

    /// The size in bytes, and SHA-256 in hexadecimal digits; after a flush.
    pub(super) fn told(self) -> (u64, String) {
        self.written.told()
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written.add(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn create(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .at("create", path)
}

/// Copies a patch or another kind of file to one of its own in `directory`, whole and on the disk.
pub(super) fn keep_file(
    patch: &Path,
    directory: &Path,
    vm_name: &str,
    kind: &str,
) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .at("create", directory)?;
    let mut staged = tempfile::Builder::new()
        .prefix(".banger-")
        .tempfile_in(directory)
        .at("create a file in", directory)?;
    let mut source = File::open(patch).at("open", patch)?;
    io::copy(&mut source, &mut staged).at("write into", directory)?;
    staged.as_file().sync_all().at("write into", directory)?;
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let mut number = 1;
    loop {
        let name = match number {
            1 => format!("{vm_name}-{now}.{kind}"),
            number => format!("{vm_name}-{now}-{number}.{kind}"),
        };
        let file = directory.join(name);
        match staged.persist_noclobber(&file) {
            Ok(_) => {
                let directory_file = File::open(directory).at("open", directory)?;
                directory_file.sync_all().at("write", directory)?;
                return Ok(file);
            }
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                staged = error.file;
                number += 1;
            }
            Err(error) => return Err(Error::io("create", &file, error.error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_patches_never_take_each_others_place() {
        let place = tempfile::tempdir().unwrap();
        let patch = place.path().join("p");
        fs::write(&patch, "x").unwrap();
        let kept = place.path().join("a/saved");
        let one = keep_file(&patch, &kept, "box", "patch").unwrap();
        let two = keep_file(&patch, &kept, "box", "patch").unwrap();
        assert_ne!(one, two);
        for file in [one, two] {
            assert_eq!(fs::read(file).unwrap(), b"x");
        }
    }

    #[tokio::test]
    async fn a_guest_that_writes_without_end_is_cut_off() {
        let place = tempfile::tempdir().unwrap();
        let mut file = OutputFile::create(&place.path().join("p"), "the changes").unwrap();
        file.take(b"abc").await.unwrap();
        file.written.size = MAX;
        let error = file.take(b"d").await.unwrap_err();
        assert_eq!(error.code(), Code::NoSpace);
        assert!(
            error.message().contains("take more than 4 GiB"),
            "{error:?}"
        );
    }
}
