//! By what a file is known without being read.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// A file that has the same identity as before has the same content. It changes when the file is
/// replaced or written: the change time is part of it, which nobody can set back, as package
/// managers do with the other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for FileIdentity {
    fn from(file: &Metadata) -> FileIdentity {
        FileIdentity {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}
