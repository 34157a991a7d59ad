//! The words of the system: names, identifiers, sizes, specs, states and errors.
//!
//! This crate does no I/O and knows no other crate of the workspace, so every part, the
//! command line, the daemon and the tests, can share its types. Each identifier is a
//! newtype with one parser, and JSON goes through the same parser.

mod check;
mod error;
mod file_identity;
mod id;
mod names;
mod progress;
mod size;
mod spec;

pub use check::{Check, CheckStatus};
pub use error::{Class, Code, Error, IoContext, Result};
pub use file_identity::FileIdentity;
pub use id::{Digest, VmId};
pub use names::{ImageName, KernelName, VmName};
pub use progress::{Progress, Quiet};
pub use size::ByteSize;
pub use spec::{
    DiskStrategy, FIRECRACKER_MAX_VCPUS, ImageConfig, MAX_MEMORY, MAX_VCPUS, MIN_DISK, MIN_MEMORY,
    VmSpec, VmState, VmmChoice, VmmKind,
};
