//! OCI images from registries and archives, up to verified layers in a local cache.
//!
//! [`Puller::pull`] goes from a [`Reference`] to an [`Image`]: the manifest for a [`Platform`], the
//! image's config, and its layers as files in a [`BlobCache`]. [`load`] does the same for
//! the archives of `docker save` and of the OCI layout. What is in the layers is not looked at:
//! unpacking them, and verifying their `diff_id`s, is for whoever makes a disk of them.
//!
//! [`Puller::file`] fetches a single file with a known digest in the same way.
//!
//! Registries and archives are believed only as far as they were checked. Every document is
//! bounded before it is read, every blob is measured and hashed while it arrives and is
//! published by one rename when both are right, and every foreign word is escaped before it is
//! shown.
//!
//! # Why not a library
//!
//! `oci-client` 0.18 covers the protocol, but what is hard about pulling is outside of it: it
//! repeats no request, does not verify what it resumes, exchanges no identity tokens and leaves
//! redirects and time limits to `reqwest`. It always brings aws-lc: 149 crates and 100 s of
//! processor time to build against 45 crates and 33 s for hyper and rustls with ring, of which hyper
//! is here anyway (cold, 2 cores). `reqwest` with ring, 87 crates and 38 s, would save the file that
//! sets up TLS and hide the redirects, which must be looked at one by one to keep
//! credentials where they belong. So this is a client of our own over hyper. For credentials see
//! the module `credentials`.

mod address;
mod archive;
mod authorization;
mod cache;
mod challenge;
mod config;
mod credentials;
mod download;
mod failure;
mod file;
mod http;
mod image;
mod manifest;
mod media;
mod options;
mod platform;
mod progress;
mod proxy;
mod pull;
mod redirect;
mod reference;
mod request;
mod retry;
mod session;
mod text;

pub use address::Address;
pub use archive::{Wanted, load};
pub use cache::{BlobCache, Pruned};
pub use config::Details;
pub use credentials::CredentialFiles;
pub use file::Blob;
pub use image::{Image, Layer};
pub use media::Compression;
pub use options::Options;
pub use platform::Platform;
pub use progress::Transfer;
pub use proxy::Proxies;
pub use pull::Puller;
pub use reference::{Reference, Registry};
