//! Images: the root file systems of VMs.
//!
//! An image is one immutable ext4 file, named by its SHA-256 and shared by all VMs. This crate
//! keeps them ([`Images`]), knows what can be pulled ([`CatalogEntry`]) and makes one from a
//! distribution's package archive:
//!
//! ```text
//! catalog ─▶ bootstrap (archive) ─▶ prepare for a VM ─▶ mke2fs -d ─▶ e2fsck ─▶ SHA-256 ─▶ publish
//! ```
//!
//! Nothing of a VM's identity is in an image; the guest agent writes that at boot.

mod build;
mod catalog;
mod images;

pub use catalog::{CatalogEntry, catalog};
pub use images::{Image, Images};
