//! Images from registries and archives: layers into the cache, flattened into a disk.
//!
//! ```text
//! registry ─▶ verified layers ─┐
//! archive  ─▶ verified layers ─┴▶ flatten ─▶ e2fsck ─▶ SHA-256 ─▶ publish
//! ```

use std::collections::HashSet;
use std::future::Future;
use std::io::Read;

use banger_archive::Work;
use banger_content::digest_file;
use banger_layers::{Layer, Watch, flatten};
use banger_model::{ByteSize, Code, Error, ImageName, IoContext, KernelName, Progress, Result};
use banger_oci::{Platform, Reference, Transfer, Wanted};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalog::default_kernel;
use crate::images::{Image, Images, Manifest, Origin, ROOTFS};

/// What the layers of pulled images may take on disk once a pull is over.
const CACHE_MAX: ByteSize = ByteSize::gib(4);

/// What may be chosen about a pull.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// The kernel its VMs boot by default, instead of the catalog's.
    pub kernel: Option<KernelName>,
    /// For which machine, where a registry has several.
    pub platform: Platform,
}

/// What may be chosen about an archive.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// What it is to be called here, instead of what the archive says.
    pub name: Option<ImageName>,
    /// Which image, for archives with several.
    pub select: Option<String>,
    /// The kernel its VMs boot by default.
    pub kernel: Option<KernelName>,
    /// For which machine.
    pub platform: Platform,
}

/// Pulls `reference`, to be called `name`.
pub(crate) async fn pull(
    images: &Images,
    name: &ImageName,
    reference: &Reference,
    wanted: &PullOptions,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Image> {
    let kernel = kernel(&wanted.kernel)?;
    progress.stage(
        "resolve",
        &format!("asking {} for {name}", reference.registry()),
    );
    let puller = images.puller().await?;
    let (sender, receiver) = watch::channel(Transfer::default());
    let pulling = puller.pull(reference, &wanted.platform, &sender);
    let what = format!("downloading {name}");
    let found = transfer(pulling, receiver, &what, progress, cancel).await?;
    let there = images
        .store
        .get::<Manifest>(&crate::images::file_name(name))?;
    if let Some(there) = there
        && there.manifest.kernel == kernel
        && let Some(origin) = &there.manifest.origin
        && origin.manifest_digest == found.manifest_digest
    {
        tracing::info!(%name, "the registry has nothing newer");
        return crate::images::image(there);
    }
    let source = format!("pulled from {reference}");
    finish(
        images,
        name.clone(),
        kernel,
        source,
        found,
        progress,
        cancel,
    )
    .await
}

/// Makes an image of an archive.
pub(crate) async fn load(
    images: &Images,
    source: impl Read + Send + 'static,
    length: Option<u64>,
    wanted: &LoadOptions,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Image> {
    let kernel = kernel(&wanted.kernel)?;
    let (sender, receiver) = watch::channel(Transfer::default());
    let select = Wanted {
        name: wanted.select.clone(),
        platform: wanted.platform.clone(),
        ..Wanted::default()
    };
    let loading = banger_oci::load(&images.layers, source, length, &select, &sender);
    let found = transfer(loading, receiver, "reading the archive", progress, cancel).await?;
    let name = match (&wanted.name, &found.reference) {
        (Some(name), _) => name.clone(),
        (None, Some(reference)) => reference.parse::<Reference>()?.familiar().parse()?,
        (None, None) => {
            return Err(Error::new(
                Code::InvalidArgument,
                "the archive does not say what its image is called",
            )
            .hint("give it a name with `--name`"));
        }
    };
    let source = "loaded from an archive".to_owned();
    finish(images, name, kernel, source, found, progress, cancel).await
}

fn kernel(wanted: &Option<KernelName>) -> Result<KernelName> {
    match wanted {
        Some(kernel) => Ok(kernel.clone()),
        None => default_kernel(),
    }
}

/// Waits for a transfer and reports it in bytes. What arrived before it is cancelled stays in
/// the cache.
pub(crate) async fn transfer<T>(
    work: impl Future<Output = Result<T>>,
    mut seen: watch::Receiver<Transfer>,
    what: &str,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<T> {
    tokio::pin!(work);
    let mut total = None;
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                return Err(Error::new(Code::Cancelled, "the pull was cancelled"));
            }
            result = &mut work => return result,
            Ok(()) = seen.changed() => {
                let now = *seen.borrow_and_update();
                if total != Some(now.total) {
                    total = Some(now.total);
                    let size = match now.total {
                        0 => String::new(),
                        bytes => format!(", {}", size(bytes)),
                    };
                    progress.stage("download", &format!("{what}{size}"));
                }
                if now.total > 0 {
                    progress.fraction(now.done as f32 / now.total as f32);
                }
            }
        }
    }
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

/// From layers to a published image.
async fn finish(
    images: &Images,
    name: ImageName,
    kernel: KernelName,
    source: String,
    found: banger_oci::Image,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Image> {
    let images = images.clone();
    banger_archive::run("image pull", progress, cancel, move |work| {
        let made = make(&images, work, name, kernel, source, &found);
        drop(found);
        trim_cache(&images);
        made
    })
    .await
}

/// Brings the cache below its bound, the longest unused first. What is in there is a
/// convenience: that it cannot be thrown away fails no pull.
pub(crate) fn trim_cache(images: &Images) {
    if let Err(error) = images.layers.prune(&HashSet::new(), CACHE_MAX) {
        tracing::warn!("the layer cache stays large: {}", error.chain());
    }
}

fn make(
    images: &Images,
    work: &Work,
    name: ImageName,
    kernel: KernelName,
    source: String,
    found: &banger_oci::Image,
) -> Result<Image> {
    let stage = images.store.stage()?;
    let disk = stage.path().join(ROOTFS);
    let layers: Vec<Layer> = found
        .layers
        .iter()
        .map(|layer| Layer {
            path: layer.path.clone(),
            diff_id: Some(layer.diff_id.clone()),
            name: layer.digest.to_string(),
        })
        .collect();
    work.stage("unpack", &format!("unpacking {name}"));
    images.store.steps().pass("unpack the layers")?;
    let report = |done: u64, total: u64| work.fraction(done as f32 / total.max(1) as f32);
    let stopped = || work.check().is_err();
    let options = banger_layers::Options::default();
    let flat = flatten(&layers, &disk, &options, &Watch::new(&report, &stopped))?;
    work.stage("verify", "verifying the disk");
    let digest = digest_file(&disk, |done| {
        work.fraction(done as f32 / flat.size.max(1) as f32);
        work.check()
    })?;
    std::fs::File::open(&disk)
        .and_then(|file| file.sync_all())
        .at("sync", &disk)?;
    let manifest = Manifest {
        details: found.details.clone(),
        origin: Some(Origin {
            reference: found.reference.clone(),
            manifest_digest: found.manifest_digest.clone(),
            transferred: ByteSize::bytes(found.size()),
        }),
        ..Manifest::new(
            name.clone(),
            source,
            kernel,
            found.config.clone(),
            ByteSize::bytes(flat.size),
        )
    };
    work.check()?;
    work.stage("publish", "publishing the image");
    images.publish(stage, &name, digest, manifest)
}
