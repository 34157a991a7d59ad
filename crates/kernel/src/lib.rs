//! Kernels: what VMs boot, and the initramfs that goes with each.
//!
//! A kernel comes from a distribution's package or from somebody's own files, and is kept as an
//! uncompressed `vmlinux` with a PVH entry, which both VMMs boot fastest:
//!
//! ```text
//! catalog ─▶ download the .deb (archive) ─▶ unpack ─┬▶ bzImage ─▶ vmlinux ─┬▶ check ─▶ publish
//!           own kernel, modules, initrd, config ────┴▶ modules ─▶ drive ───┘
//! kernel + agent ─▶ initramfs: /init is the agent, with the modules it needs, in load order
//! ```
//!
//! All modules are on the drive, which guests mount on `/lib/modules/<release>`; those that the
//! initramfs needs stay beside it. A kernel that lacks what banger needs is refused before it is
//! published, with what is missing and how that is known.

mod assemble;
mod bzimage;
mod catalog;
mod compression;
mod cpio;
mod deb;
mod drive;
mod elf;
mod import;
mod initramfs;
mod initrd;
mod kernels;
mod modules;
mod needs;
mod pull;
mod tree;
mod vmlinux;

pub use catalog::{CatalogEntry, catalog};
pub use import::Import;
pub use kernels::{ConfigSource, Kernel, Kernels};
