//! The file that takes what a VMM says.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use banger_model::{IoContext, Result};

/// A private log, empty: each boot starts it afresh.
pub(crate) fn create_log(path: &Path) -> Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).at("remove", path);
        }
        _ => {}
    }
    // Two programs write to it, so every write must go to the end.
    File::options()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .at("create", path)
}
