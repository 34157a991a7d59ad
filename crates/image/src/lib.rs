//! Images: the root file systems of VMs.
//!
//! An image is one immutable ext4 file, named by its SHA-256 and shared by all VMs. This crate
//! keeps them ([`Images`]), knows what can be pulled ([`CatalogEntry`]) and makes one from a
//! distribution's package archive, a registry, an archive of one, a bundle, or an ext4 file:
//!
//! ```text
//! catalog ─▶ bootstrap (archive) ─▶ prepare for a VM ─▶ mke2fs -d ─┐
//! registry, archive ─▶ verified layers ─▶ flatten ─────────────────┤
//! bundle ─▶ verified file ─▶ ext4 file without its holes ───────────┤
//! register ─▶ own ext4 file ─▶ copy without holes ─────────────────┴▶ e2fsck ─▶ SHA-256 ─▶ publish
//! ```
//!
//! Nothing of a VM's identity is in an image; the guest agent writes that at boot.

mod build;
mod bundle;
mod catalog;
mod images;
mod oci_config;
mod promote;
mod publish;
mod register;
mod registry;
mod superblock;

pub use banger_oci::{
    CredentialFiles, Details, Options as RegistryOptions, Platform, Proxies, Registry,
};
pub use catalog::{CatalogEntry, default_kernel};
pub use images::{Image, Images, Origin};
pub use oci_config::parse_config;
pub use promote::Promotion;
pub use register::Registration;
pub use registry::{LoadOptions, PullOptions};
pub use superblock::has_journal;
