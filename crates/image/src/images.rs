//! The images of one state directory.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use banger_archive::Archive;
use banger_content::{ContentStore, Entry, Steps};
use banger_model::{
    ByteSize, Code, Digest, Error, ImageConfig, ImageName, KernelName, Progress, Result,
};
use banger_oci::{BlobCache, Details, Options, Puller, Reference};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::build;
use crate::bundle;
use crate::catalog::{CatalogEntry, Catalogs, Source};
use crate::register::{self, Registration};
use crate::registry::{self, LoadOptions, PullOptions};

/// The root file system in an image's directory.
pub(crate) const ROOTFS: &str = "rootfs.ext4";
/// The layout of the manifest.
const FORMAT: u32 = 1;

/// A published image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name it was found by; its original name when it was found by digest.
    pub name: ImageName,
    /// Its identity: the SHA-256 over everything that makes a difference to a VM, which is its
    /// root file system, its kernel and how commands run in it.
    pub digest: Digest,
    /// The SHA-256 of its root file system; absent for images of early releases, whose identity
    /// it is.
    pub rootfs_digest: Option<Digest>,
    /// The root file system: ext4, read-only.
    pub rootfs: PathBuf,
    /// The size of the root file system as the guest sees it.
    pub size: ByteSize,
    /// The space it takes on disk.
    pub disk_usage: ByteSize,
    /// Where it came from, for people.
    pub source: String,
    /// How many packages are installed in it.
    pub packages: u32,
    /// The kernel its VMs boot by default.
    pub kernel: KernelName,
    /// How commands run in it.
    pub config: ImageConfig,
    /// What else it says about itself.
    pub details: Details,
    /// Where it was pulled from.
    pub origin: Option<Origin>,
    /// When it was made, in RFC 3339.
    pub created_at: String,
}

/// The image in a registry or archive that an image was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its full name, where it has one; the address of a bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The digest of its manifest; for archives of `docker save`, that of its config, and for a
    /// bundle that of the file.
    pub manifest_digest: Digest,
    /// The bytes of its layers as they were transferred.
    pub transferred: ByteSize,
}

/// What is stored about an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) name: ImageName,
    pub(crate) source: String,
    pub(crate) packages: u32,
    pub(crate) kernel: KernelName,
    pub(crate) config: ImageConfig,
    pub(crate) created_at: String,
    pub(crate) size: ByteSize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rootfs_digest: Option<Digest>,
    #[serde(default)]
    pub(crate) details: Details,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Origin>,
}

impl Manifest {
    /// What every image has; made now.
    pub(crate) fn new(
        name: ImageName,
        source: String,
        kernel: KernelName,
        config: ImageConfig,
        size: ByteSize,
    ) -> Manifest {
        Manifest {
            format: FORMAT,
            name,
            source,
            packages: 0,
            kernel,
            config,
            created_at: now(),
            size,
            rootfs_digest: None,
            details: Details::default(),
            origin: None,
        }
    }
}

/// The time now, to the second, in RFC 3339.
fn now() -> String {
    jiff::Timestamp::now()
        .round(jiff::Unit::Second)
        .unwrap_or_else(|_| jiff::Timestamp::now())
        .to_string()
}

/// The name of an image as a file name. No image name contains the `+` that stands for `/`.
pub(crate) fn file_name(name: &ImageName) -> String {
    name.as_str().replace('/', "+")
}

fn from_file_name(text: &str) -> Result<ImageName> {
    text.replace('+', "/").parse()
}

/// The images of one directory.
#[derive(Clone, Debug)]
pub struct Images {
    pub(crate) store: ContentStore,
    pub(crate) archive: Archive,
    pub(crate) layers: BlobCache,
    catalogs: Catalogs,
    registries: Options,
    /// Made when it is first needed: it reads the system's certificate authorities.
    puller: Arc<OnceCell<Puller>>,
}

impl Images {
    /// Opens the images in `dir`, which is made if it is missing. One process does that once at
    /// a time.
    ///
    /// # Errors
    /// `io` when the directory cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        let store = ContentStore::open(dir)?.remove_with(banger_archive::remove_tree);
        Ok(Images {
            store,
            archive: Archive::default(),
            layers: BlobCache::open(&dir.join("layers"))?,
            catalogs: Catalogs::default(),
            registries: Options::default(),
            puller: Arc::default(),
        })
    }

    /// The same images, pulled through the mirror at this address.
    ///
    /// # Errors
    /// `invalid_config` when it is no address.
    pub fn with_mirror(mut self, mirror: Option<String>) -> Result<Self> {
        self.archive = Archive::new(mirror)?;
        Ok(self)
    }

    /// The same images, with these catalogs before the built-in one.
    ///
    /// # Errors
    /// `invalid_config`, naming the file, for one that cannot be read or makes no sense.
    pub fn with_catalogs(mut self, files: &[PathBuf]) -> Result<Self> {
        self.catalogs = Catalogs::read(files)?;
        Ok(self)
    }

    /// The same images, with registries that are spoken to in this way.
    #[must_use]
    pub fn with_registries(mut self, options: Options) -> Self {
        self.registries = options;
        self.puller = Arc::default();
        self
    }

    /// What speaks to registries.
    pub(crate) async fn puller(&self) -> Result<&Puller> {
        self.puller
            .get_or_try_init(|| async {
                let (layers, options) = (self.layers.clone(), self.registries.clone());
                tokio::task::spawn_blocking(move || Puller::new(layers, options))
                    .await
                    .map_err(|error| {
                        Error::internal("a piece of work was given up").because(error)
                    })?
            })
            .await
    }

    /// The same images, with somebody who is told of each change.
    #[must_use]
    pub fn with_steps(&self, steps: Steps) -> Self {
        let mut images = self.clone();
        images.store = images.store.with_steps(steps);
        images
    }

    /// What can be pulled by name.
    ///
    /// # Errors
    /// `internal`, when the built-in catalog is wrong.
    pub fn catalog(&self) -> Result<Vec<CatalogEntry>> {
        self.catalogs.entries()
    }

    /// The name under which an image is, or will be, here: itself when there is one of that name
    /// or the catalog has one, else the short form of the reference that it is, with its tag.
    ///
    /// # Errors
    /// `invalid_argument` for what is no reference either; `io`.
    pub fn canonical(&self, name: &ImageName) -> Result<ImageName> {
        if self.store.has(&file_name(name))? || self.catalogs.find(name)?.is_some() {
            return Ok(name.clone());
        }
        name.as_str().parse::<Reference>()?.familiar().parse()
    }

    /// Every image here, by name.
    ///
    /// # Errors
    /// `io`, naming the file, when one is damaged.
    pub fn list(&self) -> Result<Vec<Image>> {
        self.store.list()?.into_iter().map(image).collect()
    }

    /// The image called `name`, if it is here.
    ///
    /// # Errors
    /// `io`, naming the file, when it is damaged.
    pub fn find(&self, name: &ImageName) -> Result<Option<Image>> {
        self.store.get(&file_name(name))?.map(image).transpose()
    }

    /// The image with this digest, named or not.
    ///
    /// # Errors
    /// `io`, naming the file, when it is damaged.
    pub fn by_digest(&self, digest: &Digest) -> Result<Option<Image>> {
        self.store.by_digest(digest)?.map(image).transpose()
    }

    /// Makes the image called `name` and publishes it under its canonical name; an older one
    /// keeps its digest and loses the name. One call per name at a time is the caller's
    /// business; more are only waste.
    ///
    /// # Errors
    /// `not_found` for a name that neither a catalog nor the registry knows; `no_space`,
    /// `fetch_failed`, `missing_program`, `build_failed`; `cancelled` when `cancel` fired. Nothing
    /// is left behind but the layers that were downloaded, which the next attempt uses.
    pub async fn pull(
        &self,
        name: &ImageName,
        wanted: &PullOptions,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<Image> {
        let pulled = match self.catalogs.find(name)? {
            Some(entry) => self.pull_entry(&entry, wanted, progress, cancel).await,
            None => {
                let reference: Reference = name.as_str().parse()?;
                let name = reference.familiar().parse()?;
                registry::pull(self, &name, &reference, wanted, progress, cancel).await
            }
        };
        pulled.map_err(|error| {
            // The caller asked for an image; how that is done is the cause.
            if error.code() == Code::Cancelled {
                return error;
            }
            let error = banger_archive::name_full_disk(error, self.store.dir());
            let bare = !name.as_str().contains(['/', ':', '@']);
            let error = wrap(&format!("cannot pull the image `{name}`"), error);
            match error.code() {
                // Perhaps it was meant to be one of the catalog.
                Code::NotFound | Code::FetchFailed if bare => self.hint_at_catalog(error, name),
                _ => error,
            }
        })
    }

    fn hint_at_catalog(&self, error: Error, name: &ImageName) -> Error {
        let Ok(entries) = self.catalogs.entries() else {
            return error;
        };
        if entries.iter().any(|entry| entry.name == *name) {
            return error;
        }
        let names: Vec<_> = entries
            .iter()
            .map(|entry| format!("`{}`", entry.name))
            .collect();
        error.hint(format!(
            "the catalog has {}; any other name is looked for on docker.io",
            names.join(", ")
        ))
    }

    async fn pull_entry(
        &self,
        entry: &CatalogEntry,
        wanted: &PullOptions,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<Image> {
        let mut entry = entry.clone();
        if let Some(kernel) = &wanted.kernel {
            entry.kernel = kernel.clone();
        }
        match &entry.source {
            Source::Oci { reference } => {
                let wanted = PullOptions {
                    kernel: Some(entry.kernel.clone()),
                    ..wanted.clone()
                };
                registry::pull(self, &entry.name, reference, &wanted, progress, cancel).await
            }
            Source::Bundle { url, sha256 } => {
                bundle::pull(self, &entry, (url, sha256), progress, cancel).await
            }
            Source::Bootstrap(source) => {
                tracing::info!(name = %entry.name, "building image");
                let (images, source) = (self.clone(), source.clone());
                banger_archive::run("image pull", progress, cancel, move |work| {
                    build::bootstrap(&images, work, &entry, &source)
                })
                .await
            }
        }
    }

    /// Makes an image of an archive of `docker save` or in the OCI layout. See
    /// [`banger_oci::load`] for `source` and `length`.
    ///
    /// # Errors
    /// `invalid_argument` for an archive that cannot be used, and for one that does not name its
    /// image when no name is given; `no_space`, `io`, `build_failed`; `cancelled`. Nothing is
    /// left behind but the layers.
    pub async fn load(
        &self,
        source: impl Read + Send + 'static,
        length: Option<u64>,
        wanted: &LoadOptions,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<Image> {
        registry::load(self, source, length, wanted, progress, cancel).await
    }

    /// Makes an image of an ext4 file. An older one of that name keeps its digest and loses the
    /// name.
    ///
    /// # Errors
    /// `invalid_argument` when the file is no sound ext4 file system; `no_space`, `io`;
    /// `missing_program`; `cancelled` when `cancel` fired. Nothing is left behind.
    pub async fn register(
        &self,
        registration: Registration,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<Image> {
        let images = self.clone();
        banger_archive::run("image register", progress, cancel, move |work| {
            register::register(&images, work, &registration)
        })
        .await
    }

    /// Removes a name; the image stays until a sweep. Says whether there was one.
    ///
    /// # Errors
    /// `io` when it cannot be removed.
    pub fn unlink(&self, name: &ImageName) -> Result<bool> {
        self.store.unlink(&file_name(name))
    }

    /// Every image here, also those without a name.
    ///
    /// # Errors
    /// `io`, naming the file, when one is damaged.
    pub fn all(&self) -> Result<Vec<Image>> {
        self.store.objects()?.into_iter().map(image).collect()
    }

    /// What layers of pulled images take.
    ///
    /// # Errors
    /// `io` when they cannot be listed.
    pub fn cached(&self) -> Result<ByteSize> {
        self.layers.size()
    }

    /// Removes the layers of pulled images that nobody needs at this moment, all of them.
    ///
    /// # Errors
    /// `io`, naming what cannot be removed.
    pub fn clear_cache(&self) -> Result<ByteSize> {
        self.store.steps().pass("clear the layer cache")?;
        let pruned = self.layers.prune(&HashSet::new(), ByteSize::bytes(0))?;
        Ok(pruned.freed)
    }

    /// Removes images that have no name and are not in `keep`, and what crashes left behind.
    ///
    /// # Errors
    /// `io` when something cannot be removed.
    pub fn sweep(&self, keep: &HashSet<Digest>) -> Result<()> {
        self.store.sweep(keep)
    }
}

/// The same error one layer further out.
fn wrap(message: &str, error: Error) -> Error {
    let outer = Error::new(error.code(), message);
    let outer = match error.hint_text() {
        Some(hint) => outer.hint(hint),
        None => outer,
    };
    outer.because(error)
}

pub(crate) fn image(entry: Entry<Manifest>) -> Result<Image> {
    let disk_usage = entry.disk_usage()?;
    let rootfs = entry.path.join(ROOTFS);
    let actual = std::fs::metadata(&rootfs).map(|found| found.len());
    if actual.as_ref().ok() != Some(&entry.manifest.size.as_bytes()) {
        return Err(Error::new(
            Code::Io,
            format!("`{}` is not the image it should be", rootfs.display()),
        )
        .hint(format!("remove `{}` and pull again", entry.path.display())));
    }
    // The manifest says the name it was made under; the store, the one it was found by.
    let name = match &entry.name {
        Some(name) => from_file_name(name)?,
        None => entry.manifest.name,
    };
    Ok(Image {
        name,
        digest: entry.digest,
        rootfs,
        size: entry.manifest.size,
        disk_usage,
        source: entry.manifest.source,
        packages: entry.manifest.packages,
        kernel: entry.manifest.kernel,
        config: entry.manifest.config,
        rootfs_digest: entry.manifest.rootfs_digest,
        details: entry.manifest.details,
        origin: entry.manifest.origin,
        created_at: entry.manifest.created_at,
    })
}

#[cfg(test)]
mod tests;
