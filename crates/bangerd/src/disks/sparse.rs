//! Copies disks without writing their holes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use banger_model::{IoContext, Result};

use crate::failpoint;

/// Copies `from` to `to`, which is replaced, and makes its data durable.
///
/// # Errors
/// `io` or `no_space`, naming the file.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    fill(from, to, false)
}

/// As [`copy`], but shares the data where the file system can.
///
/// # Errors
/// `io` or `no_space`, naming the file.
pub(super) fn clone_or_copy(from: &Path, to: &Path) -> Result<()> {
    fill(from, to, true)
}

fn fill(from: &Path, to: &Path, share: bool) -> Result<()> {
    let source = File::open(from).at("open", from)?;
    failpoint::hit("make a disk")?;
    let target = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)
        .at("create", to)?;
    failpoint::hit("fill a disk")?;
    let (source, target_file) = ((&source, from), (&target, to));
    if share {
        banger_content::clone_or_copy(source, target_file, |_| Ok(()))?;
    } else {
        banger_content::copy_sparse(source, target_file, |_| Ok(()))?;
    }
    target.sync_data().at("write", to)
}
