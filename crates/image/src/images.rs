//! The images of one state directory.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use banger_archive::Archive;
use banger_content::{ContentStore, Entry};
use banger_model::{
    ByteSize, Code, Digest, Error, ImageConfig, ImageName, KernelName, Progress, Result,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::build;
use crate::catalog::{self, CatalogEntry, Source};

/// The root file system in an image's directory.
pub(crate) const ROOTFS: &str = "rootfs.ext4";
/// The layout of the manifest.
const FORMAT: u32 = 1;

/// A published image.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name it was found by; its original name when it was found by digest.
    pub name: ImageName,
    /// The SHA-256 of its root file system.
    pub digest: Digest,
    /// The root file system: ext4, read-only, without a journal.
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
    /// When it was made, in RFC 3339.
    pub created_at: String,
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
}

impl Manifest {
    pub(crate) const FORMAT: u32 = FORMAT;
}

/// The images of one directory.
#[derive(Clone, Debug)]
pub struct Images {
    store: ContentStore,
    archive: Archive,
}

impl Images {
    /// Opens the images in `dir`, which is made if it is missing.
    ///
    /// # Errors
    /// `io` when the directory cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        let store = ContentStore::open(dir)?.remove_with(banger_archive::remove_tree);
        Ok(Images {
            store,
            archive: Archive::default(),
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

    /// What can be pulled by name.
    ///
    /// # Errors
    /// `internal`, when the built-in catalog is wrong.
    pub fn catalog(&self) -> Result<&'static [CatalogEntry]> {
        catalog::catalog()
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
        self.store.get(name.as_str())?.map(image).transpose()
    }

    /// The image with this digest, named or not.
    ///
    /// # Errors
    /// `io`, naming the file, when it is damaged.
    pub fn by_digest(&self, digest: &Digest) -> Result<Option<Image>> {
        self.store.by_digest(digest)?.map(image).transpose()
    }

    /// Makes the image called `name` and publishes it; an older one keeps its digest and loses
    /// the name. One call per name at a time is the caller's business; more are only waste.
    ///
    /// # Errors
    /// `not_found` for a name not in the catalog; `no_space`, `fetch_failed`, `missing_program`,
    /// `build_failed`; `cancelled` when `cancel` fired. Nothing is left behind.
    pub async fn pull(
        &self,
        name: &ImageName,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<Image> {
        let entry = catalog::find(name)?;
        tracing::info!(%name, "building image");
        let images = self.clone();
        banger_archive::run("image pull", progress, cancel, move |work| {
            match &entry.source {
                Source::Bootstrap(source) => {
                    build::bootstrap(&images.store, &images.archive, work, entry, source)
                }
            }
            .and_then(image)
        })
        .await
        .map_err(|error| {
            // The caller asked for an image; how that is done is the cause.
            if error.code() == Code::Cancelled {
                return error;
            }
            let error = banger_archive::name_full_disk(error, self.store.dir());
            wrap(&format!("cannot pull the image `{name}`"), error)
        })
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

fn image(entry: Entry<Manifest>) -> Result<Image> {
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
        Some(name) => name.parse()?,
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
        created_at: entry.manifest.created_at,
    })
}

#[cfg(test)]
mod tests;
