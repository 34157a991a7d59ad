//! Copying files and trees between host and guest.
//!
//! Both directions carry a tar archive (POSIX pax) in data frames, its one top-level entry named
//! [`ROOT`], whatever the thing is called on either side: the receiver gives it its name. The end
//! of the archive is an empty data frame; a connection that ends before it was cut short.

use serde::{Deserialize, Serialize};

use crate::ByteString;

/// The name of the archive's top-level entry.
pub const ROOT: &str = "root";

/// Copies into the guest.
///
/// The host sends [`Kind::Stdin`](crate::frame::Kind::Stdin) frames. The agent answers one
/// [`CopyEvent`]: `Copied` after the end of the archive, or `Failed` at any time, after which it
/// reads no more. What was written before a failure stays, unless the copy was to
/// [`replace`](Self::replace) something.
///
/// As `cp -R` does: a `path` that is a directory receives the copy under `name`; another is
/// what the copy will be called, and its parent must exist. An existing file is replaced whole;
/// a directory in the copy merges into one that is there; a file never replaces a directory, nor
/// a directory a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopyIn {
    /// Where to; relative ones start at the user's home.
    pub path: ByteString,
    /// What the source is called.
    pub name: ByteString,
    /// `name`, `uid`, `name:group` or `uid:gid` that will own the copy; root when absent.
    #[serde(default)]
    pub owner: Option<String>,
    /// Keep the numeric owners of the archive instead.
    #[serde(default)]
    pub keep_owners: bool,
    /// Take `path` as what the copy will be called even when it is a directory: the tree merges
    /// into it. Missing parents are made.
    #[serde(default)]
    pub exact: bool,
    /// Unpack beside `path` and let the copy take its place at once when it is whole; what was
    /// there before, whatever it is, is then removed. Until then it stays as it was, and after a
    /// failure too. `exact` goes without saying. An agent before protocol 3 would merge instead,
    /// so the client asks it first.
    #[serde(default)]
    pub replace: bool,
}

/// Copies out of the guest.
///
/// The agent sends [`Kind::Stdout`](crate::frame::Kind::Stdout) frames and after the empty one
/// [`CopyEvent::Copied`]; or [`CopyEvent::Failed`] at any time. Symbolic links are copied as
/// links, except `path` itself, unless it leads nowhere; sockets and devices are left out and
/// counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopyOut {
    /// What; relative ones start at the user's home.
    pub path: ByteString,
}

/// The agent's last frame of a copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CopyEvent {
    /// Everything was copied.
    Copied {
        /// Files, directories and links.
        entries: u64,
        /// Bytes of file contents.
        bytes: u64,
        /// Sockets, devices and other things that cannot be copied.
        #[serde(default)]
        left_out: u64,
    },
    /// The copy ended early.
    Failed {
        /// Why, naming the file.
        message: String,
        /// Whether the source or the destination does not exist.
        #[serde(default)]
        not_found: bool,
        /// Whether a disk of the guest is full.
        #[serde(default)]
        no_space: bool,
    },
}
