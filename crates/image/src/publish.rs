//! Giving an image its identity and its place.

use std::fs;

use banger_content::{Hasher, Stage};
use banger_model::{Digest, Error, ImageConfig, ImageName, IoContext, KernelName, Result};
use banger_oci::Details;
use serde::Serialize;

use crate::images::{Image, Images, Manifest, ROOTFS, file_name, image};

/// What makes two images different. Two that share a root file system and say different things
/// about the commands in it are two.
#[derive(Serialize)]
struct Identity<'a> {
    rootfs: &'a Digest,
    kernel: &'a KernelName,
    config: &'a ImageConfig,
    details: &'a Details,
}

impl Images {
    /// Publishes the image in `stage`, whose root file system has the digest `rootfs`.
    ///
    /// # Errors
    /// `io` or `no_space`; nothing is published then.
    pub(crate) fn publish(
        &self,
        stage: Stage,
        name: &ImageName,
        rootfs: Digest,
        mut manifest: Manifest,
    ) -> Result<Image> {
        let identity = serde_json::to_vec(&Identity {
            rootfs: &rootfs,
            kernel: &manifest.kernel,
            config: &manifest.config,
            details: &manifest.details,
        })
        .map_err(|error| Error::internal("cannot write an identity").because(error))?;
        let mut hasher = Hasher::new();
        hasher.update(&identity);
        let digest = hasher.finish();
        self.share(&stage, &rootfs)?;
        manifest.rootfs_digest = Some(rootfs);
        let published = self
            .store
            .publish(stage, &digest, &file_name(name), &manifest)?;
        tracing::info!(%name, %digest, "an image is published");
        image(published)
    }

    /// Takes the root file system from an image that has the same one, so that it is on the disk
    /// once.
    fn share(&self, stage: &Stage, rootfs: &Digest) -> Result<()> {
        let same = self
            .store
            .objects::<Manifest>()?
            .into_iter()
            .find(|other| other.manifest.rootfs_digest.as_ref() == Some(rootfs));
        let Some(same) = same else { return Ok(()) };
        let (ours, link) = (stage.path().join(ROOTFS), stage.path().join("shared"));
        self.store.steps().pass("share a root file system")?;
        if let Err(error) = fs::hard_link(same.path.join(ROOTFS), &link) {
            // It may just have been removed.
            tracing::debug!(%error, "a root file system is not shared");
            return Ok(());
        }
        fs::rename(&link, &ours).at("share a file as", &ours)
    }
}
