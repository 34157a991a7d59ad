//! Copies files without writing their holes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use banger_model::{IoContext, Result};
use rustix::io::Errno;

use crate::failpoint;

/// Copies `from` to `to`, which is replaced, and makes its data durable.
///
/// # Errors
/// `io` or `no_space`, naming the file.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    let source = File::open(from).at("open", from)?;
    failpoint::hit("make a disk")?;
    let target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)
        .at("create", to)?;
    let length = source.metadata().at("look at", from)?.len();
    failpoint::hit("fill a disk")?;
    target.set_len(length).at("extend", to)?;
    let mut position = 0;
    while let Some((start, end)) = next_data(&source, position).at("read", from)? {
        copy_range(&source, &target, start, end).at("write", to)?;
        position = end;
    }
    target.sync_data().at("write", to)
}

/// The next stretch of data at or after `position`.
fn next_data(file: &File, position: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(position)) {
        Ok(start) => start,
        // No data from here to the end.
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(start))?;
    Ok(Some((start, end)))
}

fn copy_range(mut source: &File, mut target: &File, start: u64, end: u64) -> io::Result<()> {
    source.seek(SeekFrom::Start(start))?;
    target.seek(SeekFrom::Start(start))?;
    // Between two files this is `copy_file_range` where the kernel has it.
    let copied = io::copy(&mut source.take(end - start), &mut target)?;
    if copied < end - start {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
