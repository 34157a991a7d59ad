//! Workspaces: a git repository of the host's into a guest, and what was done there back out.
//!
//! [`Repository::plan`] finds what would be copied, [`Plan::write_archive`] copies it;
//! [`export_script`] makes the patch in a guest, [`export_from_tree`] on the host for a guest
//! without git; [`apply()`] puts a patch into the working tree, [`save_ref`] keeps it under a reference.
//!
//! The host's repository is only ever looked at with `git` and as files, and never written, but
//! by [`apply()`] (the working tree) and [`save_ref`] (objects and one reference). Nothing that a
//! repository configures is run. This crate prints nothing, and blocks, but for [`Remote`], which
//! does the same to a running guest.

mod apply;
mod archive;
mod brought;
mod changes;
mod config;
mod export;
mod filters;
mod fingerprint;
mod git;
mod guest;
mod plan;
#[cfg(test)]
mod properties;
mod remote;
mod repository;
mod save;
mod stop;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tree;

pub use apply::apply;
pub use archive::Summary;
pub use changes::{Change, changes};
pub use export::{Base, Export, Output, TreeBase, export_failure, export_from_tree, export_script};
pub use fingerprint::Fingerprint;
pub use git::quoted;
pub use guest::Prepared;
pub use plan::{Entry, Mode, Options, Plan};
pub use remote::{Archive, Bundle, Exported, Kept, Origin, Remote, Saved};
pub use repository::{Head, ObjectFormat, Repository};
pub use save::{SavedRef, save_ref};
pub use tree::Kind;
