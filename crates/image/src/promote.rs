//! A disk that a builder guest fills becomes an image.

use std::fs::File;
use std::path::{Path, PathBuf};

use banger_content::{Stage, ensure_space};
use banger_model::{ByteSize, ImageName, IoContext, KernelName, Progress, Result};
use tokio_util::sync::CancellationToken;

use crate::images::{Image, Images, Manifest, ROOTFS};
use crate::register::verify;

/// Room beside what is known to be needed.
const SLACK: ByteSize = ByteSize::mib(256);

/// A disk to be filled. Dropped without being published, it is gone.
#[derive(Debug)]
pub struct Promotion {
    stage: Stage,
    disk: PathBuf,
    manifest: Manifest,
}

impl Promotion {
    /// The file to fill; it does not exist yet.
    pub fn disk(&self) -> &Path {
        &self.disk
    }

    /// How large its file system is to be.
    pub fn size(&self) -> ByteSize {
        self.manifest.size
    }
}

impl Images {
    /// Begins to make an image of a VM that was made from the image `of` and has written
    /// `written` bytes to its disk.
    ///
    /// # Errors
    /// `no_space`, `io`.
    pub fn begin_promotion(
        &self,
        of: &Image,
        name: ImageName,
        kernel: KernelName,
        source: &str,
        written: ByteSize,
    ) -> Result<Promotion> {
        let needed = of.disk_usage.as_bytes() + written.as_bytes();
        ensure_space(self.store.dir(), ByteSize::bytes(needed), "the new image")?;
        // The new disk packs its files differently; what it does not need is a hole.
        let size = of.size.as_bytes() + written.as_bytes() * 3 / 2 + SLACK.as_bytes();
        let stage = self.store.stage()?;
        let manifest = Manifest {
            packages: of.packages,
            details: of.details.clone(),
            ..Manifest::new(
                name,
                source.to_owned(),
                kernel,
                of.config.clone(),
                ByteSize::bytes(size.next_multiple_of(1 << 20)),
            )
        };
        Ok(Promotion {
            disk: stage.path().join(ROOTFS),
            stage,
            manifest,
        })
    }

    /// Checks the disk that was filled and publishes it.
    ///
    /// # Errors
    /// `invalid_argument` when it is damaged, `no_space`, `io`, `cancelled`. Nothing is left
    /// behind.
    pub async fn promote(
        &self,
        promotion: Promotion,
        progress: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<Image> {
        let images = self.clone();
        banger_archive::run("image promote", progress, cancel, move |work| {
            let disk = &promotion.disk;
            let (size, digest) = verify(work, disk, disk)?;
            File::open(disk)
                .and_then(|file| file.sync_all())
                .at("sync", disk)?;
            let manifest = Manifest {
                size: ByteSize::bytes(size),
                ..promotion.manifest
            };
            work.check()?;
            work.stage("publish", "publishing the image");
            let name = manifest.name.clone();
            images.publish(promotion.stage, &name, digest, manifest)
        })
        .await
    }
}
