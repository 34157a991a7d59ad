//! One layer as a stream of uncompressed bytes, counted, bounded and hashed.

use std::cell::Cell;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use banger_content::Hasher;
use banger_model::{Digest, Error, IoContext, Result};

use crate::limits::Budget;
use crate::refuse;
use crate::watch::Watch;

/// Read from the file, and handed to whoever reads the stream, at a time.
const CHUNK: usize = 256 << 10;
/// The largest window that a zstd frame may ask for, as a power of two: 32 MiB. The encoders of
/// containerd and BuildKit stay below that, and so does `zstd -19`.
const ZSTD_WINDOW: u32 = 25;

/// An opened layer. It stays open from the first reading to the second, which must see the same.
pub(crate) struct Source<'a> {
    path: &'a Path,
    file: File,
    facts: Facts,
}

/// What changes when somebody writes to a file.
#[derive(PartialEq, Eq)]
struct Facts(u64, i64, i64, i64, i64);

impl Facts {
    fn of(data: &Metadata) -> Self {
        Facts(
            data.len(),
            data.mtime(),
            data.mtime_nsec(),
            data.ctime(),
            data.ctime_nsec(),
        )
    }
}

impl<'a> Source<'a> {
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        let file = File::open(path).at("open", path)?;
        let data = file.metadata().at("look at", path)?;
        if !data.is_file() {
            return Err(refuse(format!("`{}` is not a file", path.display())));
        }
        let facts = Facts::of(&data);
        Ok(Source { path, file, facts })
    }

    /// The compressed size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.facts.0
    }

    /// Starts reading from the beginning. Hashes what is read when asked to.
    pub(crate) fn stream<'s>(
        &'s self,
        budget: &'s Budget<'s>,
        watch: &'s Watch<'s>,
        hash: bool,
    ) -> Result<Stream<'s>> {
        self.unchanged()?;
        (&self.file).rewind().at("read", self.path)?;
        let read = Rc::new(Cell::new(0));
        let counted = Counted {
            file: &self.file,
            read: Rc::clone(&read),
            watch,
        };
        let mut input = BufReader::with_capacity(CHUNK, counted);
        let start = input.fill_buf().map_err(|error| lift(error, self.path))?;
        let decoder: Box<dyn Read + 's> = match Compression::of(start)? {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input).at("read", self.path)?;
                decoder.window_log_max(ZSTD_WINDOW).at("read", self.path)?;
                Box::new(decoder)
            }
        };
        Ok(Stream {
            source: self,
            budget,
            decoder,
            read,
            unpacked: 0,
            hasher: hash.then(Hasher::new),
            buffer: vec![0; CHUNK],
            start: 0,
            end: 0,
        })
    }

    /// Refuses a file that somebody writes to while we read it.
    pub(crate) fn unchanged(&self) -> Result<()> {
        let now = self.file.metadata().at("look at", self.path)?;
        if Facts::of(&now) == self.facts {
            return Ok(());
        }
        Err(refuse(format!(
            "`{}` changed while it was read",
            self.path.display()
        )))
    }
}

/// How a layer is compressed, by its first bytes; the media type may be wrong.
#[derive(Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(start: &[u8]) -> Result<Self> {
        let begins = |magic: &[u8]| start.starts_with(magic);
        let skippable = start.len() >= 4 && start[0] & 0xf0 == 0x50 && begins_at(start, 1);
        if begins(&[0x1f, 0x8b]) {
            return Ok(Compression::Gzip);
        }
        if begins(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable {
            return Ok(Compression::Zstd);
        }
        for (magic, name) in [
            (&b"BZh"[..], "bzip2"),
            (b"\xfd7zXZ\0", "xz"),
            (b"\x04\x22\x4d\x18", "lz4"),
        ] {
            // A plain archive may begin with a file of such a name; then it has a header.
            if begins(magic) && start.get(257..262) != Some(b"ustar") {
                return Err(refuse(format!(
                    "it is compressed with {name}; layers are plain, gzip or zstd"
                )));
            }
        }
        Ok(Compression::None)
    }
}

/// The rest of the magic number of a skippable zstd frame.
fn begins_at(start: &[u8], at: usize) -> bool {
    start.get(at..at + 3) == Some(&[0x2a, 0x4d, 0x18])
}

/// The compressed file, telling the caller how far it is.
struct Counted<'s> {
    file: &'s File,
    read: Rc<Cell<u64>>,
    watch: &'s Watch<'s>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.set(self.read.get() + read as u64);
        self.watch.add(read as u64);
        self.watch.check().map_err(io::Error::other)?;
        Ok(read)
    }
}

/// The uncompressed bytes of a layer.
pub(crate) struct Stream<'s> {
    source: &'s Source<'s>,
    budget: &'s Budget<'s>,
    decoder: Box<dyn Read + 's>,
    read: Rc<Cell<u64>>,
    unpacked: u64,
    hasher: Option<Hasher>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Stream<'_> {
    /// The next bytes; empty at the end of the stream.
    pub(crate) fn fill(&mut self) -> Result<&[u8]> {
        if self.start == self.end {
            self.start = 0;
            self.end = self.read_more()?;
            let read = self.end as u64;
            self.unpacked += read;
            self.budget.unpack(read, self.unpacked, self.read.get())?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.buffer[..self.end]);
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Takes `count` of the bytes that [`Stream::fill`] returned.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Fills `buffer`; returns how much there was.
    pub(crate) fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let bytes = self.fill()?;
            if bytes.is_empty() {
                break;
            }
            let count = bytes.len().min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&bytes[..count]);
            self.consume(count);
            done += count;
        }
        Ok(done)
    }

    /// Reads to the end, checksums of the compression included; returns the digest of all.
    pub(crate) fn finish(mut self) -> Result<Option<Digest>> {
        loop {
            let count = self.fill()?.len();
            if count == 0 {
                self.source.unchanged()?;
                return Ok(self.hasher.map(Hasher::finish));
            }
            self.consume(count);
        }
    }

    /// As much as fits into the buffer: decoders return little at a time.
    fn read_more(&mut self) -> Result<usize> {
        let mut end = 0;
        while end < self.buffer.len() {
            match self.decoder.read(&mut self.buffer[end..]) {
                Ok(0) => break,
                Ok(read) => end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(lift(error, self.source.path)),
            }
        }
        Ok(end)
    }
}

/// Our own error out of the I/O error that carried it through a decoder, or what the decoder said.
fn lift(error: io::Error, path: &Path) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => match error.kind() {
            io::ErrorKind::UnexpectedEof => refuse("it ends in the middle").because(error),
            // What zstd and gzip call bytes that they do not understand.
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
                refuse("it is damaged").because(error)
            }
            _ => Error::io("read", path, error),
        },
    }
}
