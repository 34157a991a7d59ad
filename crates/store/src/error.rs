//! What SQLite's errors mean to a user.

use std::path::Path;

use banger_model::{Code, Error};
use rusqlite::ErrorCode;
use rusqlite::ffi::{SQLITE_CONSTRAINT_UNIQUE, SQLITE_IOERR_SHMSIZE};

/// An error for a failed database call: `act` is a verb phrase such as "read".
pub(crate) fn failed(act: &str, path: &Path, source: rusqlite::Error) -> Error {
    let message = format!("cannot {act} the database `{}`", path.display());
    if is_disk_full(&source) {
        return Error::new(Code::NoSpace, message)
            .hint(format!(
                "free some space on the file system of `{}` and try again",
                path.display()
            ))
            .because(source);
    }
    let error = Error::new(Code::Store, message);
    let error = match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => error.hint(format!(
            "the file is damaged: move it away, or put a copy back (`{}.v*.backup` if there is one)",
            path.display()
        )),
        _ => error,
    };
    error.because(source)
}

fn is_disk_full(error: &rusqlite::Error) -> bool {
    // The index of the write-ahead log is a mapped file; a full disk shows as its size.
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || extended(error) == Some(SQLITE_IOERR_SHMSIZE)
}

/// Whether a row was refused because another one has the same name or id.
pub(crate) fn is_unique_violation(error: &rusqlite::Error) -> bool {
    extended(error) == Some(SQLITE_CONSTRAINT_UNIQUE)
}

fn extended(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}
