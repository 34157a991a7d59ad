//! Reading tar: old, ustar, GNU and pax archives, with their long names and sparse files.
//!
//! Where the formats leave room, entries are read as Go's `archive/tar` reads them, because every
//! other program that handles layers is built on it, and two readers that disagree are a hole.

mod header;
mod pax;
mod reader;
mod sparse;

pub(crate) use reader::{Archive, in_entry};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// A piece of a sparse file that has bytes: where in the file, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// One entry: everything but the bytes of a file.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    /// The name as the archive has it.
    pub(crate) path: Vec<u8>,
    /// The target of a link as the archive has it.
    pub(crate) link: Vec<u8>,
    /// Permissions with set-user-id, set-group-id and sticky.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the epoch and nanoseconds above them.
    pub(crate) modified: (i64, u32),
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    /// The length of the file in bytes, holes included.
    pub(crate) size: u64,
    /// Where its bytes go, in rising order; `None` for a file without holes.
    pub(crate) sparse: Option<Vec<Segment>>,
    /// Extended attributes as the system calls name them.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}
