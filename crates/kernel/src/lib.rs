//! Kernels: what VMs boot, and the initramfs that goes with each.
//!
//! A kernel comes from a distribution's package and is kept as an uncompressed `vmlinux` with a
//! PVH entry, which both VMMs boot fastest, beside its modules:
//!
//! ```text
//! catalog ─▶ download the .deb (archive) ─▶ unpack ─▶ bzImage ─▶ vmlinux ─▶ check ─▶ publish
//!                                                      modules ─▶ modules.dep ┘
//! kernel + agent ─▶ initramfs: /init is the agent, with the modules it needs, in load order
//! ```
//!
//! A kernel that lacks what banger needs is refused before it is published, with what is
//! missing.

mod bzimage;
mod catalog;
mod cpio;
mod deb;
mod elf;
mod initramfs;
mod kconfig;
mod kernels;
mod modules;
mod pull;

pub use catalog::{CatalogEntry, catalog};
pub use kernels::{Kernel, Kernels};
