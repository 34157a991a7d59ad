//! Manifests and indexes: read from bytes, checked, and nothing fetched.
//!
//! Everything here comes from a registry or an archive and is believed only as far as it was
//! checked: counts and sizes are bounded before anybody acts on them.

use std::collections::BTreeMap;

use banger_model::{ByteSize, Digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::media::{self, Kind};
use crate::platform::Platform;
use crate::text::shown;

/// The largest manifest or index that is read; registries refuse larger ones.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// The largest config that is read.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// More layers than any builder makes; overlay file systems stop at 500.
pub(crate) const MAX_LAYERS: usize = 512;
/// Indexes within indexes.
pub(crate) const MAX_DEPTH: usize = 4;

/// Why a document is refused: the end of a sentence that begins with whose document it is.
pub(crate) type Refusal = String;

/// A pointer to content: what it is, how long, and its hash.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) platform: Option<DescribedPlatform>,
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DescribedPlatform {
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) variant: Option<String>,
}

/// What a registry answers with.
#[derive(Debug)]
pub(crate) enum Document {
    /// The same image for several platforms.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

/// One image: its config and its layers, the lowest first.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<DescribedPlatform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl RawDescriptor {
    fn check(self) -> Result<Descriptor, Refusal> {
        let Ok(digest) = self.digest.parse::<Digest>() else {
            return Err(format!(
                "names content by `{}`, and banger reads only sha256 digests",
                shown(&self.digest)
            ));
        };
        Ok(Descriptor {
            media_type: self.media_type,
            digest,
            size: self.size,
            platform: self.platform,
            annotations: self.annotations.unwrap_or_default(),
        })
    }
}

impl Document {
    /// Reads a manifest or an index. `content_type` is what the server called it.
    pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, Refusal> {
        // What the document says of itself is hashed, what the server says is not.
        #[derive(Deserialize)]
        struct Version {
            #[serde(rename = "schemaVersion", default)]
            schema_version: u32,
        }
        let version: Version = json(bytes)?;
        if version.schema_version == 1 || content_type.map(media::kind) == Some(Kind::Schema1) {
            return Err(
                "is in docker's schema 1, which was given up in 2016; push the image again with \
                 a newer tool"
                    .to_owned(),
            );
        }
        let raw: RawDocument = json(bytes)?;
        if raw.schema_version != 2 {
            return Err(format!("has schema version {}, not 2", raw.schema_version));
        }
        let said = raw.media_type.as_deref().or(content_type);
        let kind = said.map_or(Kind::Other, media::kind);
        match (raw.manifests, raw.config, raw.layers) {
            // One document that could be read two ways is an attack (CVE-2021-41190).
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                Err("is a manifest and an index at once".to_owned())
            }
            (Some(_), None, None) if kind == Kind::Manifest => {
                Err("calls itself a manifest and is an index".to_owned())
            }
            (Some(manifests), None, None) => manifests
                .into_iter()
                .map(RawDescriptor::check)
                .collect::<Result<_, _>>()
                .map(Document::Index),
            (None, Some(_), Some(_)) if kind == Kind::Index => {
                Err("calls itself an index and is a manifest".to_owned())
            }
            (None, Some(config), Some(layers)) => {
                Manifest::check(config, layers).map(Document::Manifest)
            }
            (None, ..) => Err("is neither an image manifest nor an index".to_owned()),
        }
    }
}

impl Manifest {
    fn check(config: RawDescriptor, layers: Vec<RawDescriptor>) -> Result<Self, Refusal> {
        let config = config.check()?;
        if media::kind(&config.media_type) != Kind::Config {
            return Err(format!(
                "is not a container image: its config is `{}`",
                shown(&config.media_type)
            ));
        }
        if config.size > MAX_CONFIG {
            return Err(format!(
                "has a config of {} bytes; at most {MAX_CONFIG} are read",
                config.size
            ));
        }
        if layers.len() > MAX_LAYERS {
            return Err(format!(
                "has {} layers; at most {MAX_LAYERS} are read",
                layers.len()
            ));
        }
        let layers: Vec<Descriptor> = layers
            .into_iter()
            .map(RawDescriptor::check)
            .collect::<Result<_, _>>()?;
        for layer in &layers {
            match media::kind(&layer.media_type) {
                Kind::Layer => {}
                Kind::ForeignLayer => {
                    return Err(format!(
                        "has the layer `{}` of type `{}`, whose content its publisher does not \
                         give away with the image",
                        layer.digest,
                        shown(&layer.media_type)
                    ));
                }
                _ => {
                    return Err(format!(
                        "has the layer `{}` of the unknown type `{}`",
                        layer.digest,
                        shown(&layer.media_type)
                    ));
                }
            }
        }
        Ok(Manifest { config, layers })
    }

    /// The bytes of config and layers together, each content counted once.
    pub(crate) fn content_size(&self, limit: ByteSize) -> Result<u64, Refusal> {
        let mut seen = BTreeMap::new();
        let mut total = 0u64;
        for blob in self.layers.iter().chain([&self.config]) {
            match seen.insert(&blob.digest, blob.size) {
                None => total = total.saturating_add(blob.size),
                Some(size) if size != blob.size => {
                    return Err(format!("gives two sizes for `{}`", blob.digest));
                }
                Some(_) => {}
            }
        }
        if total > limit.as_bytes() {
            return Err(format!(
                "is {} MiB large; at most {} MiB are pulled",
                ByteSize::bytes(total).as_mib(),
                limit.as_mib()
            ));
        }
        Ok(total)
    }
}

/// The first entry of an index that is for `platform`.
pub(crate) fn choose<'a>(
    entries: &'a [Descriptor],
    platform: &Platform,
) -> Result<&'a Descriptor, Refusal> {
    let fits = |entry: &&Descriptor| match &entry.platform {
        Some(said) => platform.accepts(&said.os, &said.architecture, said.variant.as_deref()),
        None => true,
    };
    let readable = |entry: &&Descriptor| {
        matches!(media::kind(&entry.media_type), Kind::Manifest | Kind::Index)
    };
    // An entry that says its platform is better than one that might be anything.
    let mut fitting: Vec<&Descriptor> = entries.iter().filter(readable).filter(fits).collect();
    fitting.sort_by_key(|entry| entry.platform.is_none());
    if let Some(first) = fitting.first() {
        return Ok(first);
    }
    let mut there: Vec<String> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|said| said.os != "unknown")
        .map(|said| match &said.variant {
            Some(variant) => format!("{}/{}/{variant}", said.os, said.architecture),
            None => format!("{}/{}", said.os, said.architecture),
        })
        .collect();
    there.sort();
    there.dedup();
    if there.is_empty() {
        return Err(format!("has no image for {platform}"));
    }
    Err(format!(
        "has no image for {platform}, only for {}",
        shown(&there.join(", "))
    ))
}

/// Reads JSON; the reason names the place where it stops being right.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes)
        .map_err(|error| format!("cannot be read: {}", shown(&error.to_string())))
}

#[cfg(test)]
mod tests;
