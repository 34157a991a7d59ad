//! Files and trees as archives, for both ends of a copy.
//!
//! [`archive_out`] writes a file or tree as a tar archive (POSIX pax, GNU's form for sparse
//! files), [`Builder`] one of entries that are found elsewhere, [`unpack()`] makes files out of an
//! archive. Neither trusts anybody: an archive comes from a
//! guest, or reaches a guest whose other processes change the destination meanwhile, so
//! unpacking opens everything beneath one directory and never follows a symbolic link, and a
//! file appears under its name only when it is whole.
//!
//! What is kept: modes, times of modification, symbolic and hard links, holes, and `user.`
//! attributes where the destination's file system takes them. Not kept: access times, file
//! capabilities and access control lists, as with `cp -R`.

mod build;
mod header;
mod place;
mod read;
mod sparse;
#[cfg(test)]
mod tests;
mod unpack;
mod write;

use std::io;

pub use build::{Builder, Meta};
pub use unpack::{Owner, Unpack, unpack};
pub use write::archive_out;

/// The longest name of an entry, from the archive's top, in bytes.
pub const MAX_NAME: usize = 4095;
/// How many directories deep an entry may be.
pub const MAX_DEPTH: usize = 1024;
/// The most that may be said about one entry besides its header, in bytes.
const MAX_RECORDS: u64 = 1 << 20;
/// Bytes moved at a time. Smaller files are read whole before they are described.
const BUFFER: usize = 128 << 10;

/// What a copy was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of file contents, holes included.
    pub bytes: u64,
    /// Sockets, devices and other things that cannot be copied.
    pub left_out: u64,
}

/// A path as it is said to a person: no control characters, and not endless.
pub(crate) fn shown(path: &[u8]) -> String {
    crate::tame(&String::from_utf8_lossy(path))
}

/// `error` of doing `act` to the file `path`, with its kind.
fn at(act: &str, path: &[u8], error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(
        error.kind(),
        format!("cannot {act} `{}`: {}", shown(path), plain(&error)),
    )
}

/// What happened in words, without the number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}
