//! Media types: which documents and layers are read, and how layers are compressed.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use banger_model::{IoContext, Result};
use serde::{Deserialize, Serialize};

/// Everything a registry may answer with when it is asked for a manifest.
pub(crate) const ACCEPT_MANIFEST: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
const MANIFESTS: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
const LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];
/// What docker calls a layer that is compressed with zstd.
const DOCKER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// What a media type stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Index,
    Manifest,
    Config,
    Layer,
    /// A layer whose content its publisher does not give away with the image.
    ForeignLayer,
    /// The manifests of docker before 2016.
    Schema1,
    Other,
}

/// What `media_type` stands for; parameters such as `; charset=utf-8` do not count.
pub(crate) fn kind(media_type: &str) -> Kind {
    let bare = media_type.split(';').next().unwrap_or_default().trim();
    if INDEXES.contains(&bare) {
        Kind::Index
    } else if MANIFESTS.contains(&bare) {
        Kind::Manifest
    } else if CONFIGS.contains(&bare) {
        Kind::Config
    } else if LAYERS.contains(&bare) || bare == DOCKER_ZSTD {
        Kind::Layer
    } else if bare.starts_with("application/vnd.docker.image.rootfs.foreign.")
        || bare.starts_with("application/vnd.oci.image.layer.nondistributable.")
    {
        Kind::ForeignLayer
    } else if bare.starts_with("application/vnd.docker.distribution.manifest.v1") {
        Kind::Schema1
    } else {
        Kind::Other
    }
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// A plain tar archive.
    None,
    /// RFC 1952; several members may follow each other.
    Gzip,
    /// RFC 8878; several frames may follow each other.
    Zstd,
}

impl Compression {
    /// By the first bytes. Media types are known to be wrong about this in published images,
    /// and container engines go by the content too.
    pub(crate) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame: how eStargz-like zstd layers begin.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// The compression of the file at `path`.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        let mut start = Vec::new();
        File::open(path)
            .at("open", path)?
            .take(4)
            .read_to_end(&mut start)
            .at("read", path)?;
        Ok(Compression::of(&start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_told_apart() {
        assert_eq!(
            kind("application/vnd.oci.image.index.v1+json; charset=utf-8"),
            Kind::Index
        );
        assert_eq!(kind(MANIFESTS[1]), Kind::Manifest);
        assert_eq!(kind(DOCKER_ZSTD), Kind::Layer);
        for foreign in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        ] {
            assert_eq!(kind(foreign), Kind::ForeignLayer);
        }
        assert_eq!(
            kind("application/vnd.docker.distribution.manifest.v1+prettyjws"),
            Kind::Schema1
        );
        assert_eq!(kind("text/html"), Kind::Other);
    }

    #[test]
    fn compression_is_known_by_content() {
        assert_eq!(Compression::of(&[0x1f, 0x8b, 8]), Compression::Gzip);
        assert_eq!(
            Compression::of(&[0x28, 0xb5, 0x2f, 0xfd]),
            Compression::Zstd
        );
        assert_eq!(Compression::of(b"etc/"), Compression::None);
        assert_eq!(Compression::of(b""), Compression::None);
    }
}
