//! The entries of an archive, one after the other.

use banger_model::{Code, Error, Result};

use super::header::{BLOCK, Header, text};
use super::pax::{Records, unsigned};
use super::sparse::{self, Map};
use super::{Entry, Kind, Segment};
use crate::name::shown;
use crate::refuse;
use crate::stream::Stream;

/// The largest pax header or long name, in bytes, as in Go.
const MAX_SPECIAL: u64 = 1 << 20;
/// The most pieces of one sparse file.
const MAX_SEGMENTS: usize = 1 << 18;

/// An archive being read.
pub(crate) struct Archive<'s> {
    stream: Stream<'s>,
    /// Bytes of the current entry that nobody has taken.
    remaining: u64,
    /// Bytes that fill its last block.
    padding: u64,
    ended: bool,
}

/// What came before an entry and belongs to it.
#[derive(Default)]
struct Before {
    records: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<'s> Archive<'s> {
    pub(crate) fn new(stream: Stream<'s>) -> Self {
        Archive {
            stream,
            remaining: 0,
            padding: 0,
            ended: false,
        }
    }

    /// The next entry; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut before = Before::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                if before.records.is_some()
                    || before.long_name.is_some()
                    || before.long_link.is_some()
                {
                    return Err(refuse("it ends after a header that announces an entry"));
                }
                return Ok(None);
            };
            match header.kind() {
                b'x' | b'X' => {
                    let bytes = self.special(&header)?;
                    before.records = Some(Records::parse(&bytes, MAX_SEGMENTS)?);
                }
                // Says something about all entries that follow. Nobody heeds it in a layer.
                b'g' => {
                    let bytes = self.special(&header)?;
                    Records::parse(&bytes, MAX_SEGMENTS)?;
                }
                b'L' => before.long_name = Some(text(&self.special(&header)?).to_vec()),
                b'K' => before.long_link = Some(text(&self.special(&header)?).to_vec()),
                _ => {
                    let path = before.path(&header);
                    return self
                        .entry(&header, before)
                        .map(Some)
                        .map_err(|error| in_entry(&path, error));
                }
            }
        }
    }

    /// The next bytes of the entry's file; empty at its end. For a sparse file these are the
    /// bytes of its segments, one after the other.
    pub(crate) fn data(&mut self) -> Result<&[u8]> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let remaining = self.remaining;
        let bytes = self.stream.fill()?;
        if bytes.is_empty() {
            return Err(truncated());
        }
        let count = usize::try_from(remaining).map_or(bytes.len(), |most| most.min(bytes.len()));
        Ok(&bytes[..count])
    }

    /// Takes `count` of the bytes that [`Archive::data`] returned.
    pub(crate) fn consume(&mut self, count: usize) {
        self.stream.consume(count);
        self.remaining -= count as u64;
    }

    /// Whether the archive said that it ends here, instead of just ending.
    pub(crate) fn has_end(&self) -> bool {
        self.ended
    }

    /// What follows the archive.
    pub(crate) fn into_stream(self) -> Stream<'s> {
        self.stream
    }

    /// Passes over what is left of the entry.
    fn skip(&mut self) -> Result<()> {
        self.remaining = self
            .remaining
            .checked_add(std::mem::take(&mut self.padding))
            .ok_or_else(truncated)?;
        loop {
            let count = self.data()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    /// The next header; `None` at the end.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK];
        match self.stream.read_full(&mut block)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(truncated()),
        }
        if block != [0; BLOCK] {
            return Header::parse(block).map(Some);
        }
        match self.stream.read_full(&mut block)? {
            0 => {}
            BLOCK if block == [0; BLOCK] => {}
            BLOCK => return Err(refuse("there is an entry behind the end of the archive")),
            _ => return Err(truncated()),
        }
        self.ended = true;
        Ok(None)
    }

    /// The bytes of an entry that describes the next one.
    fn special(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = size(header.size()?)?;
        if size > MAX_SPECIAL {
            return Err(refuse(format!(
                "a header is larger than {MAX_SPECIAL} bytes"
            )));
        }
        self.expect(size)?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        if self.stream.read_full(&mut bytes)? < bytes.len() {
            return Err(truncated());
        }
        self.remaining = 0;
        Ok(bytes)
    }

    /// Announces `size` bytes and what fills their last block.
    fn expect(&mut self, size: u64) -> Result<()> {
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn entry(&mut self, header: &Header, before: Before) -> Result<Entry> {
        let path = before.path(header);
        let link = before.link(header);
        let mut records = before.records.unwrap_or_default();
        let kind = match header.kind() {
            // Before there were directories, they were files with a slash.
            0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(refuse(format!(
                    "it is of a type that is not known, `{}`",
                    other.escape_ascii()
                )));
            }
        };
        let stored = size(records.size.map_or_else(|| header.size(), Ok)?)?;
        let mut entry = Entry {
            kind,
            path,
            link,
            // Only the bits that chmod knows; tar may have those of the type as well.
            mode: (header.mode()? & 0o7777) as u16,
            uid: id(records.uid.map_or_else(|| header.uid(), Ok)?, "owner")?,
            gid: id(records.gid.map_or_else(|| header.gid(), Ok)?, "group")?,
            modified: match records.modified {
                Some(time) => time,
                None => (header.modified()?, 0),
            },
            device: (0, 0),
            size: 0,
            sparse: None,
            attributes: std::mem::take(&mut records.attributes),
        };
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            entry.device = device(header.device()?)?;
        }
        if kind == Kind::File {
            entry.size = stored;
            self.expect(stored)?;
            self.sparse(header, &mut records, &mut entry)?;
        }
        // What is not a file has no bytes, whatever its header says: so reads Go.
        Ok(entry)
    }

    /// Finds the map of a sparse file in any of the four places it may be.
    fn sparse(&mut self, header: &Header, records: &mut Records, entry: &mut Entry) -> Result<()> {
        let told = &mut records.sparse;
        let segments = if header.kind() == b'S' {
            entry.size = size(header.sparse_size()?)?;
            self.gnu_map(header)?
        } else if told.map_in_data()? {
            self.pax_map()?
        } else if let Some(segments) = told.take_segments() {
            segments
        } else {
            return Ok(());
        };
        if header.kind() != b'S' {
            let length = told
                .size
                .ok_or_else(|| refuse("a sparse file has no length"))?;
            entry.size = size(length)?;
            if let Some(name) = told.name.take() {
                entry.path = name;
            }
        }
        sparse::check(&segments, entry.size, self.remaining)?;
        entry.sparse = Some(segments);
        Ok(())
    }

    /// The map of an old GNU archive: in the header and in blocks between it and the bytes.
    fn gnu_map(&mut self, header: &Header) -> Result<Vec<Segment>> {
        let mut map = Map::new(MAX_SEGMENTS);
        let (list, mut more) = header.sparse_list()?;
        map.add_list(list)?;
        while more {
            let mut block = [0; BLOCK];
            if self.stream.read_full(&mut block)? < BLOCK {
                return Err(truncated());
            }
            map.add_list(&block[..504])?;
            more = block[504] != 0;
        }
        Ok(map.into_segments())
    }

    /// The map in front of the bytes: decimal numbers, a line each, in whole blocks.
    fn pax_map(&mut self) -> Result<Vec<Segment>> {
        let mut block = [0; BLOCK];
        let mut at = BLOCK;
        let mut next = |archive: &mut Self| -> Result<u64> {
            let mut digits = Vec::new();
            loop {
                if at == BLOCK {
                    if archive.remaining < BLOCK as u64
                        || archive.stream.read_full(&mut block)? < BLOCK
                    {
                        return Err(truncated());
                    }
                    archive.remaining -= BLOCK as u64;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                match byte {
                    b'\n' => return unsigned(&digits),
                    _ if digits.len() < 20 => digits.push(byte),
                    _ => return Err(refuse("the map of a sparse file has no numbers")),
                }
            }
        };
        let count = next(self)?;
        let mut map = Map::new(MAX_SEGMENTS);
        for _ in 0..count {
            let (offset, length) = (next(self)?, next(self)?);
            map.add(offset, length)?;
        }
        Ok(map.into_segments())
    }
}

impl Before {
    /// The name of the entry behind `header`; GNU's long name counts more than pax's, as in Go.
    fn path(&self, header: &Header) -> Vec<u8> {
        let pax = || self.records.as_ref()?.path.clone();
        self.long_name
            .clone()
            .or_else(pax)
            .unwrap_or_else(|| header.path())
    }

    fn link(&self, header: &Header) -> Vec<u8> {
        let pax = || self.records.as_ref()?.link.clone();
        self.long_link
            .clone()
            .or_else(pax)
            .unwrap_or_else(|| header.link())
    }
}

/// Names the entry in an error about it.
pub(crate) fn in_entry(path: &[u8], error: Error) -> Error {
    if error.code() != Code::BuildFailed {
        return error;
    }
    refuse(format!("the entry `{}` is refused", shown(path))).because(error)
}

fn truncated() -> Error {
    refuse("it ends in the middle")
}

/// A length, which some archives state as a negative number.
fn size(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| refuse("its size is negative"))
}

/// A user or group. The highest number means "nobody in particular" to the kernel.
fn id(value: i64, what: &str) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| refuse(format!("its {what}, {value}, is not a valid id")))
}

/// Device numbers: 12 and 20 bits are what Linux has.
fn device((major, minor): (i64, i64)) -> Result<(u32, u32)> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => Ok((major, minor)),
        _ => Err(refuse(format!(
            "there is no device with the numbers {major} and {minor}"
        ))),
    }
}
