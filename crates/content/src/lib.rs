//! A store of immutable, content-addressed directories: where images and kernels live.
//!
//! ```text
//! DIR/lock              held for the moment a name or an object appears or goes
//! DIR/staging/…         work in progress; each directory is locked by the one who makes it
//! DIR/objects/<hex>/    published: object.json (digest and manifest) and its files, 0444
//! DIR/names/<name>      a small file that says which object the name means
//! ```
//!
//! Objects appear by one `rename` after everything in them is on disk, so whatever a crash
//! leaves is either a whole object or a directory under `staging`, which [`ContentStore::sweep`]
//! removes. Names point at objects and are replaced the same way. An object without a name
//! lives as long as somebody keeps it.
//!
//! This crate knows nothing of what it stores: manifests are any serialisable type.

mod copy;
mod digest;
mod files;
mod record;
mod stage;
mod steps;
mod store;

pub use copy::{clone_or_copy, copy_sparse};
pub use digest::{Hasher, digest_file};
pub use files::{available_space, disk_usage, ensure_space, sync_dir, write_atomically};
pub use stage::Stage;
pub use steps::Steps;
pub use store::{ContentStore, Entry, Remove};
