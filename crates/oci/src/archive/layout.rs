//! OCI image layouts: `oci-layout`, `index.json`, `blobs/`.

use banger_model::{Digest, Result};

use super::select::{Chosen, by_name, inside};
use super::stage::{Stage, Staged};
use super::{Wanted, refused};
use crate::manifest::{Descriptor, Document, MAX_DEPTH, MAX_MANIFEST, choose};

/// Where docker and containerd write the full name, and where everybody writes the name or
/// only the tag.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

pub(super) fn choose_image(stage: &Stage, index: &Staged, wanted: &Wanted) -> Result<Chosen> {
    let refuse = |what: &str, why: &str| refused(&format!("`{what}` {why}"));
    let bytes = inside(stage.read(index, MAX_MANIFEST))?;
    let top = Document::parse(&bytes, None).map_err(|why| refuse("index.json", &why))?;
    let Document::Index(entries) = top else {
        return Err(refuse("index.json", "is not an index"));
    };
    let meant = by_name(
        &entries,
        |entry| name(entry).into_iter().collect(),
        |one, other| one.digest == other.digest,
        wanted,
    )?;
    let name = meant.first().and_then(|entry| name(entry));
    let mut candidates: Vec<Descriptor> = meant.into_iter().cloned().collect();
    for _ in 0..MAX_DEPTH {
        let chosen =
            choose(&candidates, &wanted.platform).map_err(|why| refused(&format!("it {why}")))?;
        let digest: Digest = chosen.digest.clone();
        let blob = inside(stage.blob(chosen))?;
        let bytes = inside(stage.read(blob, MAX_MANIFEST))?;
        let document = Document::parse(&bytes, Some(&chosen.media_type));
        match document.map_err(|why| refuse(digest.as_str(), &why))? {
            Document::Manifest(manifest) => {
                return Ok(Chosen {
                    name,
                    manifest_digest: digest,
                    manifest,
                });
            }
            Document::Index(inner) => candidates = inner,
        }
    }
    Err(refuse(
        "index.json",
        &format!("has more than {MAX_DEPTH} indexes within each other"),
    ))
}

fn name(entry: &Descriptor) -> Option<String> {
    NAMES
        .iter()
        .find_map(|key| entry.annotations.get(*key))
        .cloned()
}
