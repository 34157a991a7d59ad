//! The distribution's package archive, reached through `mmdebstrap` and apt.
//!
//! Two things come from it: a bootstrapped root file system ([`Archive::bootstrap`]) and single
//! packages ([`Archive::download`]). Both run inside namespaces of their own, so that an
//! ordinary user can do it, no mount ever shows on the host, and killing one process ends
//! everything. apt verifies signatures with the host's keyrings; nothing here weakens that.
//!
//! Not for what the trees and packages contain: that is the business of the image and kernel
//! crates, which run their own steps in the same namespaces through [`Script`].
//!
//! ```text
//! async caller ──▶ work::run ──▶ a thread of its own ──▶ unshare ──▶ pid 1: mmdebstrap ──▶ apt, dpkg
//!      ▲               │                  │ one pipe with all output          │
//!      └─ progress ────┘◀─── events ──────┘◀──────────────────────────────────┘
//! ```
//!
//! The thread spawns the process and waits for it: `PR_SET_PDEATHSIG` counts the death of the
//! spawning *thread*, so a thread of a pool that retires would take the process with it.

mod archive;
mod child;
mod classify;
mod namespace;
mod output;
mod probe;
mod program;
mod programs;
mod script;
mod work;

pub use archive::{Archive, Bootstrap, Variant, mmdebstrap_version, name_full_disk};
pub use namespace::remove_tree;
pub use probe::probe;
pub use program::run_program;
pub use programs::require;
pub use script::Script;
pub use work::{Work, run};
