//! Taking an archive apart, entry by entry, whoever wrote it.

use std::io::{self, Read};

use super::header::{self, Attributes, BLOCK};
use super::{MAX_DEPTH, MAX_NAME, MAX_RECORDS, invalid, shown};

/// The longest target of a symbolic link, in bytes.
const MAX_LINK: usize = 4095;

/// One entry. Its data, if any, is read from the [`Entries`] it came from.
#[derive(Debug)]
pub(super) struct Entry {
    /// From the archive's top; every part is a name, none is `.`, `..` or empty.
    pub(super) path: Vec<u8>,
    pub(super) body: Body,
    pub(super) attributes: Attributes,
    /// Extended attributes: names and values.
    pub(super) extended: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub(super) enum Body {
    Directory,
    /// With the file's real size when its data begins with a map of its pieces.
    File {
        sparse: Option<u64>,
    },
    Symlink(Vec<u8>),
    /// To an earlier entry; a path like an entry's own.
    HardLink(Vec<u8>),
    /// A device or pipe.
    Special,
}

/// The entries of an archive. Reading from it reads the data of the current entry.
#[derive(Debug)]
pub(super) struct Entries<R> {
    reader: R,
    /// Data of the current entry that has not been read.
    left: u64,
    /// What fills the last block after it.
    padding: u64,
}

impl<R: Read> Entries<R> {
    pub(super) fn new(reader: R) -> Self {
        Entries {
            reader,
            left: 0,
            padding: 0,
        }
    }

    /// How much of the current entry's data is left.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// The next entry; `None` after the last, when the reader is at its end too.
    ///
    /// # Errors
    /// Those of the reader, `UnexpectedEof` when the archive is cut short, `InvalidData` when it
    /// is none or holds what no copy may.
    pub(super) fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut said = Said::default();
        let Some(mut parsed) = self.header()? else {
            self.end()?;
            return Ok(None);
        };
        if parsed.kind == header::EXTENDED {
            said = self.records(parsed.size)?;
            parsed = self
                .header()?
                .filter(|next| next.kind != header::EXTENDED)
                .ok_or_else(|| invalid("the archive describes an entry that is not there"))?;
        }
        said.entry(parsed, self).map(Some)
    }

    fn header(&mut self) -> io::Result<Option<header::Parsed>> {
        let mut block = [0; BLOCK];
        read_exact(&mut self.reader, &mut block)?;
        header::parse(&block)
    }

    fn records(&mut self, size: u64) -> io::Result<Said> {
        if size > MAX_RECORDS {
            return Err(invalid("the archive says too much about an entry"));
        }
        let mut bytes = vec![0; size as usize];
        read_exact(&mut self.reader, &mut bytes)?;
        self.skip(padding(size))?;
        let mut said = Said::default();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (key, value) = header::take_record(&mut rest)?;
            said.hear(key, value)?;
        }
        Ok(said)
    }

    /// The end is two empty blocks; more of them fill up what tar calls a record.
    fn end(&mut self) -> io::Result<()> {
        let mut block = [0; BLOCK];
        read_exact(&mut self.reader, &mut block)?;
        loop {
            if block.iter().any(|byte| *byte != 0) {
                return Err(invalid("the archive goes on after its end"));
            }
            match self.reader.read(&mut block) {
                Ok(0) => return Ok(()),
                Ok(count) => block[count..].fill(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => block.fill(0),
                Err(error) => return Err(error),
            }
        }
    }

    fn skip(&mut self, count: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.reader).take(count), &mut io::sink())?;
        if skipped < count {
            return Err(cut_short());
        }
        Ok(())
    }
}

impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.reader.read(&mut buffer[..most])? {
            0 => Err(cut_short()),
            count => {
                self.left -= count as u64;
                Ok(count)
            }
        }
    }
}

fn read_exact(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<()> {
    reader.read_exact(buffer).map_err(|error| {
        // The reader's own message, when it has one, says more.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            cut_short()
        } else {
            error
        }
    })
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the archive was cut short")
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// What records said about the entry after them.
#[derive(Debug, Default)]
struct Said {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<(i64, u32)>,
    extended: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Sparse,
}

#[derive(Debug, Default)]
struct Sparse {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Said {
    fn hear(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let number = || header::decimal_number(value);
        let id = || {
            u32::try_from(header::decimal_number(value)?)
                .map_err(|_| invalid("the archive holds an owner that is none"))
        };
        match key {
            header::KEY_PATH => self.path = Some(value.to_vec()),
            header::KEY_LINK => self.link = Some(value.to_vec()),
            header::KEY_SIZE => self.size = Some(number()?),
            header::KEY_UID => self.uid = Some(id()?),
            header::KEY_GID => self.gid = Some(id()?),
            header::KEY_MTIME => self.modified = Some(header::decimal_time(value)?),
            header::KEY_SPARSE_MAJOR => self.sparse.major = Some(number()?),
            header::KEY_SPARSE_MINOR => self.sparse.minor = Some(number()?),
            header::KEY_SPARSE_NAME => self.sparse.name = Some(value.to_vec()),
            header::KEY_SPARSE_SIZE => self.sparse.size = Some(number()?),
            _ => {
                if let Some(name) = key.strip_prefix(header::KEY_ATTRIBUTE) {
                    self.extended.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn entry<R>(self, parsed: header::Parsed, entries: &mut Entries<R>) -> io::Result<Entry> {
        let sparse = self.sparse.major.is_some() || self.sparse.minor.is_some();
        if sparse && (self.sparse.major, self.sparse.minor) != (Some(1), Some(0)) {
            return Err(invalid("the archive holds a kind of sparse file not known"));
        }
        let path = self.sparse.name.or(self.path).unwrap_or(parsed.path);
        let path = checked(path)?;
        let size = self.size.unwrap_or(parsed.size);
        let link = self.link.unwrap_or(parsed.link);
        let body = match parsed.kind {
            header::FILE => Body::File {
                sparse: self.sparse.size.filter(|_| sparse),
            },
            header::DIRECTORY => Body::Directory,
            header::SYMLINK if link.is_empty() || link.len() > MAX_LINK || link.contains(&0) => {
                return Err(invalid(format!(
                    "the archive holds a bad symbolic link, `{}`",
                    shown(&path)
                )));
            }
            header::SYMLINK => Body::Symlink(link),
            header::HARD_LINK => Body::HardLink(checked(link)?),
            b'3' | b'4' | b'6' => Body::Special,
            other => {
                return Err(invalid(format!(
                    "the archive holds an entry of an unknown kind, {other}"
                )));
            }
        };
        if matches!(body, Body::File { .. }) {
            entries.left = size;
            entries.padding = padding(size);
        } else if size != 0 {
            return Err(invalid(format!(
                "the archive holds data for `{}`, which is no file",
                shown(&path)
            )));
        }
        let attributes = Attributes {
            uid: self.uid.unwrap_or(parsed.attributes.uid),
            gid: self.gid.unwrap_or(parsed.attributes.gid),
            modified: self.modified.unwrap_or(parsed.attributes.modified),
            ..parsed.attributes
        };
        Ok(Entry {
            path,
            body,
            attributes,
            extended: self.extended,
        })
    }
}

/// A path beneath the archive's top, or an error: nothing else may be written to.
fn checked(mut path: Vec<u8>) -> io::Result<Vec<u8>> {
    while path.len() > 1 && path.last() == Some(&b'/') {
        path.pop();
    }
    let mut depth = 0;
    let clean = path.split(|byte| *byte == b'/').all(|name| {
        depth += 1;
        !matches!(name, b"" | b"." | b"..") && !name.contains(&0)
    });
    if !clean || path.len() > MAX_NAME || depth > MAX_DEPTH {
        return Err(invalid(format!(
            "the archive holds an unsafe name, `{}`",
            shown(&path)
        )));
    }
    Ok(path)
}
