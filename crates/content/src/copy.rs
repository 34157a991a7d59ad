//! Copies files without writing their holes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use banger_model::{IoContext, Result};
use rustix::io::Errno;

/// How much is copied between two reports.
const PIECE: u64 = 8 << 20;

/// Fills the empty file `to` with what is in `from`, shared where the file system can do that
/// (`FICLONE`), else copied without the holes. `progress` receives the number of bytes of data
/// copied so far and ends the copy when it returns an error. The paths are for errors.
///
/// # Errors
/// `io` or `no_space`, naming the file; whatever `progress` returns.
pub fn clone_or_copy(
    from: (&File, &Path),
    to: (&File, &Path),
    progress: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    if rustix::fs::ioctl_ficlone(to.0, from.0).is_ok() {
        return Ok(());
    }
    copy_sparse(from, to, progress)
}

/// As [`clone_or_copy`], but always copies.
///
/// # Errors
/// `io` or `no_space`, naming the file; whatever `progress` returns.
pub fn copy_sparse(
    (from, from_path): (&File, &Path),
    (to, to_path): (&File, &Path),
    mut progress: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    let length = from.metadata().at("look at", from_path)?.len();
    to.set_len(length).at("extend", to_path)?;
    let (mut position, mut copied) = (0, 0);
    while let Some((start, end)) = next_data(from, position).at("read", from_path)? {
        // A file that grows meanwhile is cut where it ended at first.
        let end = end.min(length);
        let mut at = start;
        while at < end {
            let piece = PIECE.min(end - at);
            copy_range(from, to, at, piece).at("write", to_path)?;
            at += piece;
            copied += piece;
            progress(copied)?;
        }
        position = end;
        if position >= length {
            break;
        }
    }
    Ok(())
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

fn copy_range(mut from: &File, mut to: &File, start: u64, length: u64) -> io::Result<()> {
    from.seek(SeekFrom::Start(start))?;
    to.seek(SeekFrom::Start(start))?;
    // Between two files this is `copy_file_range` where the kernel has it.
    let copied = io::copy(&mut from.take(length), &mut to)?;
    if copied < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use banger_model::{Code, Error};

    use super::*;

    #[test]
    fn holes_stay_holes_and_a_copy_may_be_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let source = File::create_new(&from).unwrap();
        source.set_len(256 << 20).unwrap();
        source.write_all_at(b"early", 4096).unwrap();
        source.write_all_at(&[7; 5000], 200 << 20).unwrap();
        let source = File::open(&from).unwrap();
        let target = File::create_new(&to).unwrap();
        copy_sparse((&source, &from), (&target, &to), |_| Ok(())).unwrap();
        let copied = std::fs::metadata(&to).unwrap();
        assert_eq!(copied.len(), 256 << 20);
        assert!(
            copied.blocks() * 512 < 1 << 20,
            "{} blocks",
            copied.blocks()
        );
        assert_eq!(std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());

        let stop = |_| Err(Error::new(Code::Cancelled, "stop"));
        let target = File::create(&to).unwrap();
        let stopped = copy_sparse((&source, &from), (&target, &to), stop);
        assert_eq!(stopped.unwrap_err().code(), Code::Cancelled);
    }
}
