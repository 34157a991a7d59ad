//! An archive that must hold certain files and nothing else, such as a bundle with a disk in it.
//!
//! Nothing in the archive chooses where anything is written: the caller names every file that
//! may be in it, with its place and its largest size, and everything else is refused.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use banger_content::ensure_space;
use banger_model::{ByteSize, IoContext, Result};

use crate::limits::{Budget, Limits};
use crate::refuse;
use crate::stream::Source;
use crate::tar::{self, Archive, Entry, Kind, Segment};
use crate::watch::Watch;

/// Written, and looked at for being empty, at a time.
const BLOCK: usize = 4096;
/// What must stay free on the disk while files are written.
const KEEP_FREE: u64 = 256 << 20;
/// How many bytes are written between two looks at the free space.
const LOOK_EVERY: u64 = 64 << 20;
/// Headers, long names and maps of sparse files.
const BESIDE: u64 = 16 << 20;

/// A file that must be in an archive.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Its name, without a directory.
    pub name: &'a str,
    /// Where it is written; nothing may be there.
    pub to: &'a Path,
    /// The largest it may be, holes included.
    pub limit: ByteSize,
}

/// Writes the files of `archive`, a tar archive as it is or compressed with gzip or zstd, without
/// their holes: blocks of zeros are not written. They are not synced. Blocks the thread.
///
/// # Errors
/// `build_failed`, naming the entry, for an archive that is damaged, hostile, or has other files
/// than `wanted`; `no_space`, `io`, `cancelled`. After an error some files may be there.
pub fn take_files(archive: &Path, wanted: &[Wanted<'_>], watch: &Watch<'_>) -> Result<()> {
    let source = Source::open(archive)?;
    watch.begin(source.size());
    let most = wanted.iter().map(|one| one.limit.as_bytes()).sum::<u64>();
    let limits = Limits {
        unpacked: ByteSize::bytes(most.saturating_add(BESIDE)),
        // Disks are mostly holes, which cost nothing; what is written is counted on its own.
        ratio: u64::MAX,
        ..Limits::default()
    };
    let budget = Budget::new(&limits);
    let mut writing = Writing {
        compressed: source.size(),
        written: 0,
        looked: None,
    };
    let mut reading = Archive::new(source.stream(&budget, watch, false)?);
    let mut missing: Vec<&Wanted<'_>> = wanted.iter().collect();
    while let Some(entry) = reading.next()? {
        let place = choose(&entry, wanted, &mut missing);
        place
            .and_then(|wanted| writing.file(&mut reading, &entry, wanted))
            .map_err(|error| tar::in_entry(&entry.path, error))?;
    }
    if !reading.has_end() {
        return Err(refuse("it ends in the middle"));
    }
    reading.into_stream().finish()?;
    match missing.first() {
        Some(one) => Err(refuse(format!("there is no `{}` in it", one.name))),
        None => Ok(()),
    }
}

/// What of the wanted `entry` is; takes it off the list.
fn choose<'a>(
    entry: &Entry,
    wanted: &[Wanted<'_>],
    missing: &mut Vec<&'a Wanted<'a>>,
) -> Result<&'a Wanted<'a>> {
    let path = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
    if let Some(at) = missing.iter().position(|one| one.name.as_bytes() == path) {
        if entry.kind != Kind::File {
            return Err(refuse("it is not a file"));
        }
        let one = missing.remove(at);
        if entry.size > one.limit.as_bytes() {
            return Err(refuse(format!(
                "it has {} bytes, and the limit is {}",
                entry.size, one.limit
            )));
        }
        return Ok(one);
    }
    if wanted.iter().any(|one| one.name.as_bytes() == path) {
        return Err(refuse("it is there twice"));
    }
    let names: Vec<_> = wanted.iter().map(|one| format!("`{}`", one.name)).collect();
    Err(refuse(format!(
        "it does not belong there: the archive holds {} and nothing else",
        names.join(" and ")
    )))
}

/// What was written so far, and of how much.
struct Writing {
    compressed: u64,
    written: u64,
    /// How much there was when the free space was last looked at.
    looked: Option<u64>,
}

impl Writing {
    fn file(
        &mut self,
        archive: &mut Archive<'_>,
        entry: &Entry,
        wanted: &Wanted<'_>,
    ) -> Result<()> {
        let file = File::create_new(wanted.to).at("create", wanted.to)?;
        file.set_len(entry.size).at("extend", wanted.to)?;
        let whole = [Segment {
            offset: 0,
            length: entry.size,
        }];
        for segment in entry.sparse.as_deref().unwrap_or(&whole) {
            let (mut offset, end) = (segment.offset, segment.offset + segment.length);
            while offset < end {
                let bytes = archive.data()?;
                let room = usize::try_from(end - offset).unwrap_or(usize::MAX);
                let count = bytes.len().min(room);
                if count == 0 {
                    return Err(refuse("it has fewer bytes than its header says"));
                }
                self.write(&file, wanted, offset, &bytes[..count])?;
                archive.consume(count);
                offset += count as u64;
            }
        }
        Ok(())
    }

    /// Writes the runs of blocks that are not zero.
    fn write(&mut self, file: &File, wanted: &Wanted<'_>, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut start = 0;
        while start < bytes.len() {
            let at = start;
            while start < bytes.len() && !is_zero(block(bytes, offset, start)) {
                start += block(bytes, offset, start).len();
            }
            if start > at {
                self.count((start - at) as u64, wanted.to)?;
                file.write_all_at(&bytes[at..start], offset + at as u64)
                    .at("write", wanted.to)?;
            }
            while start < bytes.len() && is_zero(block(bytes, offset, start)) {
                start += block(bytes, offset, start).len();
            }
        }
        Ok(())
    }

    /// Counts bytes that are about to be written.
    fn count(&mut self, more: u64, path: &Path) -> Result<()> {
        self.written += more;
        let limits = Limits::default();
        if self.written > limits.ratio_from.as_bytes()
            && self.written / limits.ratio > self.compressed
        {
            return Err(refuse(format!(
                "it unpacks to more than {} times the size of the archive, as only a trap does",
                limits.ratio
            )));
        }
        if self
            .looked
            .is_none_or(|looked| self.written - looked >= LOOK_EVERY)
        {
            self.looked = Some(self.written);
            let needed = ByteSize::bytes(KEEP_FREE + LOOK_EVERY.max(more));
            ensure_space(path, needed, "unpacking the image")?;
        }
        Ok(())
    }
}

/// The bytes from `start` up to the next border of a block in the file, where `bytes` are at
/// `offset`.
fn block(bytes: &[u8], offset: u64, start: usize) -> &[u8] {
    let into = ((offset + start as u64) % BLOCK as u64) as usize;
    let end = (start + BLOCK - into).min(bytes.len());
    &bytes[start..end]
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests;
