//! What a pull or a load results in: an image whose layers are in the cache.

use std::path::PathBuf;

use banger_model::{Digest, Error, ImageConfig, Result};
use serde::{Deserialize, Serialize};

use crate::cache::{BlobCache, Pins};
use crate::config::{Details, ReadConfig};
use crate::manifest::Manifest;
use crate::media::Compression;

/// An image, verified, with every layer on disk for as long as this value lives.
#[derive(Debug)]
pub struct Image {
    /// The full name it was asked for by; for an archive the name in there, if any.
    pub reference: Option<String>,
    /// The digest of the manifest for the platform. Archives of `docker save` have none: there
    /// it is the digest of the config, which docker calls the image id.
    pub manifest_digest: Digest,
    /// The digest of the config.
    pub config_digest: Digest,
    /// How commands are run from it.
    pub config: ImageConfig,
    /// What else it says about itself.
    pub details: Details,
    /// The layers, the lowest first. One content may be there more than once.
    pub layers: Vec<Layer>,
    pub(crate) _pins: Pins,
}

/// One layer: a tar archive, perhaps compressed, to be unpacked over those before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The file in the cache. Its size and digest were verified.
    pub path: PathBuf,
    /// How the file is compressed, by its content.
    pub compression: Compression,
    /// What the manifest calls it; empty for archives of `docker save`.
    pub media_type: String,
    /// The SHA-256 of the file.
    pub digest: Digest,
    /// What the SHA-256 of the unpacked tar archive must be; to be verified by who unpacks it.
    pub diff_id: Digest,
    /// The length of the file in bytes.
    pub size: u64,
}

impl Image {
    /// Puts together what was read and is in the cache. Looks at the layers' first bytes.
    pub(crate) fn assemble(
        cache: &BlobCache,
        reference: Option<String>,
        manifest_digest: Digest,
        manifest: &Manifest,
        read: ReadConfig,
        pins: Pins,
    ) -> Result<Self> {
        if manifest.layers.len() != read.diff_ids.len() {
            return Err(Error::internal(
                "a config was not checked against its layers",
            ));
        }
        let layers = manifest
            .layers
            .iter()
            .zip(read.diff_ids)
            .map(|(layer, diff_id)| {
                let path = cache.blob(&layer.digest);
                Ok(Layer {
                    compression: Compression::of_file(&path)?,
                    path,
                    media_type: layer.media_type.clone(),
                    digest: layer.digest.clone(),
                    diff_id,
                    size: layer.size,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Image {
            reference,
            manifest_digest,
            config_digest: manifest.config.digest.clone(),
            config: read.config,
            details: read.details,
            layers,
            _pins: pins,
        })
    }

    /// The bytes of all layers as they are in the cache, each content counted once.
    pub fn size(&self) -> u64 {
        let mut seen = std::collections::HashSet::new();
        let layers = self.layers.iter();
        layers
            .filter(|layer| seen.insert(&layer.digest))
            .map(|layer| layer.size)
            .sum()
    }
}
