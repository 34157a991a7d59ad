//! Writing an archive entry by entry, for trees that are put together from several places.

use std::io::{self, BufWriter, Read, Write};

use super::header::{self, Attributes, BLOCK, Header, Records};
use super::{BUFFER, Copied, MAX_DEPTH, MAX_NAME, at, shown};
use crate::COPY_ROOT;

/// What every entry has. The owner is root: the receiver says who it will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// The time of modification: seconds since the epoch, and nanoseconds above them.
    pub modified: (i64, u32),
}

/// An archive that is being written, in the form [`archive_out`](super::archive_out) has.
///
/// Entries are named from the archive's top, which is the empty name and comes first; a
/// directory comes before what is in it, and what is in it before everything else. Nothing checks
/// that but [`unpack()`](super::unpack()).
#[derive(Debug)]
pub struct Builder<W: Write> {
    writer: BufWriter<W>,
    buffer: Box<[u8]>,
    copied: Copied,
}

impl<W: Write> Builder<W> {
    /// An archive without entries.
    pub fn new(writer: W) -> Self {
        Builder {
            writer: BufWriter::with_capacity(BUFFER, writer),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            copied: Copied::default(),
        }
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// Those of the writer, unchanged; `InvalidInput` when `path` is too long or too deep.
    pub fn directory(&mut self, path: &[u8], meta: Meta) -> io::Result<()> {
        self.describe(path, b"", header::DIRECTORY, 0, meta)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// As [`directory`](Self::directory).
    pub fn symlink(&mut self, path: &[u8], target: &[u8], meta: Meta) -> io::Result<()> {
        self.describe(path, target, header::SYMLINK, 0, meta)
    }

    /// Adds a file of exactly `size` bytes, as many as `content` must have.
    ///
    /// # Errors
    /// As [`directory`](Self::directory); those of `content`, with a message that names the file;
    /// `UnexpectedEof` when there is less in it. The archive is then of no use.
    pub fn file(
        &mut self,
        path: &[u8],
        mut content: impl Read,
        size: u64,
        meta: Meta,
    ) -> io::Result<()> {
        self.describe(path, b"", header::FILE, size, meta)?;
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let most = most.min(self.buffer.len());
            match content.read(&mut self.buffer[..most]) {
                Ok(0) => {
                    let message = format!(
                        "cannot read `{}`: it became shorter while it was copied",
                        shown(path)
                    );
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
                Ok(count) => {
                    self.writer.write_all(&self.buffer[..count])?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(at("read", path, error)),
            }
        }
        let padding = size.wrapping_neg() % BLOCK as u64;
        self.writer.write_all(&[0; BLOCK][..padding as usize])?;
        self.copied.bytes = self.copied.bytes.saturating_add(size);
        Ok(())
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Those of the writer, unchanged.
    pub fn finish(mut self) -> io::Result<Copied> {
        self.writer.write_all(&[0; 2 * BLOCK])?;
        self.writer.flush()?;
        Ok(self.copied)
    }

    fn describe(
        &mut self,
        path: &[u8],
        link: &[u8],
        kind: u8,
        size: u64,
        meta: Meta,
    ) -> io::Result<()> {
        let mut name = COPY_ROOT.as_bytes().to_vec();
        if !path.is_empty() {
            name.push(b'/');
            name.extend_from_slice(path);
        }
        let depth = name.iter().filter(|byte| **byte == b'/').count();
        if name.len() > MAX_NAME || depth >= MAX_DEPTH {
            let message = format!("`{}` is too deep to be copied", shown(path));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let header = Header {
            path: &name,
            link,
            kind,
            size,
            attributes: Attributes {
                mode: meta.mode & 0o7777,
                modified: meta.modified,
                ..Attributes::default()
            },
        };
        let blocks =
            header::encode(&header, Records::default()).map_err(|error| at("copy", path, error))?;
        self.writer.write_all(&blocks)?;
        self.copied.entries += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::super::{Owner, Unpack, unpack};
    use super::*;

    const META: Meta = Meta {
        mode: 0o755,
        modified: (1_000_000_000, 500),
    };

    #[test]
    fn what_is_built_can_be_unpacked() {
        let mut bytes = Vec::new();
        let mut builder = Builder::new(&mut bytes);
        let long = [b"d/".as_slice(), &[b'n'; 200], b"\n\xff"].concat();
        builder.directory(b"", META).unwrap();
        builder.directory(b"d", META).unwrap();
        builder.file(&long, b"content".as_slice(), 7, META).unwrap();
        builder.symlink(b"link", b"d/nowhere", META).unwrap();
        let copied = builder.finish().unwrap();
        assert_eq!((copied.entries, copied.bytes), (4, 7));

        let place = tempfile::tempdir().unwrap();
        let parent = fs::File::open(place.path()).unwrap();
        let to = Unpack {
            parent: parent.as_fd(),
            name: "copy".as_ref(),
            shown: place.path(),
            owner: Owner::Caller,
            only_directory: false,
        };
        assert_eq!(unpack(bytes.as_slice(), &to).unwrap(), copied);
        let copy = place.path().join("copy");
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&long);
        assert_eq!(fs::read(copy.join(name)).unwrap(), b"content");
        let stat = fs::metadata(copy.join(name)).unwrap();
        assert_eq!(stat.permissions().mode() & 0o7777, 0o755);
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_000_000_000, 500));
        assert_eq!(
            fs::read_link(copy.join("link")).unwrap().as_os_str(),
            "d/nowhere"
        );
    }

    #[test]
    fn less_content_than_said_is_an_error_that_names_the_file() {
        let mut builder = Builder::new(io::sink());
        builder.directory(b"", META).unwrap();
        let error = builder.file(b"name", b"x".as_slice(), 2, META).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("`name`"), "{error}");
        let deep = b"d/".repeat(MAX_DEPTH);
        let error = builder.directory(&deep, META).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
