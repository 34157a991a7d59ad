//! Bundles: finished images as one file, an ext4 root file system and what is said about it.
//!
//! A bundle is a tar archive, compressed with zstd, of exactly two files: `rootfs.ext4`, and
//! `manifest.json`, which is `{"format": 1, "config": {…}}` with an OCI image config, or none.
//! The catalog that names the bundle has its SHA-256, and says which kernel boots it.

use std::fs::{self, File};
use std::path::Path;

use banger_archive::Work;
use banger_layers::{Wanted, Watch, take_files};
use banger_model::{ByteSize, Code, Digest, Error, ImageConfig, IoContext, Progress, Result};
use banger_oci::{Address, Blob, Details, Transfer};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalog::CatalogEntry;
use crate::images::{Image, Images, Manifest, Origin, ROOTFS};
use crate::oci_config::parse_config;
use crate::register::verify;
use crate::registry::{transfer, trim_cache};

const ABOUT: &str = "manifest.json";
/// The one layout of `manifest.json` there is.
const FORMAT: u32 = 1;
/// As much as an image config of a registry may have.
const MAX_ABOUT: ByteSize = ByteSize::mib(4);
/// As much as the layers of an image may unpack to.
const MAX_ROOTFS: ByteSize = ByteSize::gib(64);

/// What the file in a bundle says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    #[serde(rename = "format")]
    _format: u32,
    config: Option<Value>,
}

/// Only this much of what a later layout says is understood.
#[derive(Deserialize)]
struct AnyAbout {
    format: u32,
}

/// Fetches the bundle of `entry` and makes an image of it.
pub(crate) async fn pull(
    images: &Images,
    entry: &CatalogEntry,
    (address, digest): (&Address, &Digest),
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Image> {
    let name = &entry.name;
    progress.stage("resolve", &format!("asking for the bundle of {name}"));
    let puller = images.puller().await?;
    let (sender, receiver) = watch::channel(Transfer::default());
    let what = format!("downloading {name}");
    let fetching = puller.file(address, digest, &sender);
    let blob = transfer(fetching, receiver, &what, progress, cancel).await?;
    let (images, entry) = (images.clone(), entry.clone());
    let (address, digest) = (address.clone(), digest.clone());
    banger_archive::run("image pull", progress, cancel, move |work| {
        let made = make(&images, work, &entry, &blob, (&address, &digest));
        drop(blob);
        trim_cache(&images);
        made
    })
    .await
}

fn make(
    images: &Images,
    work: &Work,
    entry: &CatalogEntry,
    blob: &Blob,
    (address, digest): (&Address, &Digest),
) -> Result<Image> {
    let name = &entry.name;
    let stage = images.store.stage()?;
    let disk = stage.path().join(ROOTFS);
    work.stage("unpack", &format!("unpacking {name}"));
    images.store.steps().pass("unpack the bundle")?;
    let (config, details) = unpack(work, &blob.path, stage.path()).map_err(of(address))?;
    let (size, rootfs) = verify(work, &disk, Path::new(ROOTFS)).map_err(of(address))?;
    File::open(&disk)
        .and_then(|file| file.sync_all())
        .at("sync", &disk)?;
    let manifest = Manifest {
        details,
        origin: Some(Origin {
            reference: Some(address.to_string()),
            manifest_digest: digest.clone(),
            transferred: ByteSize::bytes(blob.size),
        }),
        ..Manifest::new(
            name.clone(),
            format!("the bundle {address}"),
            entry.kernel.clone(),
            config,
            ByteSize::bytes(size),
        )
    };
    work.check()?;
    work.stage("publish", "publishing the image");
    images.publish(stage, name, rootfs, manifest)
}

/// Takes the disk out of the archive, into `dir`, and reads what is said about it.
fn unpack(work: &Work, archive: &Path, dir: &Path) -> Result<(ImageConfig, Details)> {
    let (disk, about) = (dir.join(ROOTFS), dir.join(ABOUT));
    let wanted = [
        Wanted {
            name: ROOTFS,
            to: &disk,
            limit: MAX_ROOTFS,
        },
        Wanted {
            name: ABOUT,
            to: &about,
            limit: MAX_ABOUT,
        },
    ];
    let report = |done: u64, total: u64| work.fraction(done as f32 / total.max(1) as f32);
    let stopped = || work.check().is_err();
    take_files(archive, &wanted, &Watch::new(&report, &stopped))?;
    let text = fs::read(&about).at("read", &about)?;
    // An image is its disk and what the store writes down about it.
    fs::remove_file(&about).at("remove", &about)?;
    read_about(&text)
}

fn read_about(text: &[u8]) -> Result<(ImageConfig, Details)> {
    let refuse = |why: String| {
        Error::new(
            Code::BuildFailed,
            format!("the entry `{ABOUT}` is refused: {why}"),
        )
    };
    let any: AnyAbout = serde_json::from_slice(text).map_err(|error| refuse(error.to_string()))?;
    if any.format != FORMAT {
        return Err(refuse(format!(
            "its format is {}, and this version of banger knows {FORMAT}",
            any.format
        )));
    }
    let about: About = serde_json::from_slice(text).map_err(|error| refuse(error.to_string()))?;
    match about.config {
        Some(config) => parse_config(&config).map_err(|error| refuse(error.message().to_owned())),
        None => Ok(Default::default()),
    }
}

/// Says of which bundle an error is, when it is about what is in there.
fn of(address: &Address) -> impl Fn(Error) -> Error {
    move |error| match error.code() {
        Code::BuildFailed | Code::InvalidArgument => Error::new(
            Code::BuildFailed,
            format!("the bundle `{address}` cannot be used"),
        )
        .hint("it has the right SHA-256, so it was made like this: ask whoever publishes it")
        .because(error),
        _ => error,
    }
}

#[cfg(test)]
mod tests;
