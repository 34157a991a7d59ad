//! Archives of `docker save`: `manifest.json` with the names of files.

use banger_model::{Digest, Result};
use serde::Deserialize;

use super::select::{Chosen, by_name, inside};
use super::stage::{Stage, Staged};
use super::{Wanted, refused};
use crate::manifest::{Descriptor, MAX_CONFIG, MAX_LAYERS, MAX_MANIFEST, Manifest, json};
use crate::text::shown;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

pub(super) fn choose_image(stage: &Stage, list: &Staged, wanted: &Wanted) -> Result<Chosen> {
    let bytes = inside(stage.read(list, MAX_MANIFEST))?;
    let images: Vec<Saved> =
        json(&bytes).map_err(|why| refused(&format!("`manifest.json` {why}")))?;
    let names = |image: &Saved| image.repo_tags.clone().unwrap_or_default();
    let same = |_: &Saved, _: &Saved| false;
    let meant = by_name(&images, names, same, wanted)?;
    let [image] = meant.as_slice() else {
        return Err(refused("`manifest.json` has several images with one name"));
    };
    let layers = image.layers.clone().unwrap_or_default();
    if layers.len() > MAX_LAYERS {
        return Err(refused(&format!(
            "its image has {} layers; at most {MAX_LAYERS} are read",
            layers.len()
        )));
    }
    let config = file(stage, &image.config)?;
    if config.size > MAX_CONFIG {
        return Err(refused(&format!("its config has {} bytes", config.size)));
    }
    // Docker names configs by their content; where it is not so, somebody changed one of them.
    if let Some(hex) = image.config.strip_suffix(".json")
        && let Ok(named) = format!("sha256:{hex}").parse::<Digest>()
        && named != config.digest
    {
        return Err(refused(&format!(
            "the content of entry `{}` is `{}`",
            shown(&image.config),
            config.digest
        )));
    }
    let layers = layers
        .iter()
        .map(|name| file(stage, name))
        .collect::<Result<_>>()?;
    Ok(Chosen {
        name: match &wanted.name {
            Some(name) => Some(name.clone()),
            None => names(image).into_iter().next(),
        },
        manifest_digest: config.digest.clone(),
        manifest: Manifest { config, layers },
    })
}

fn file(stage: &Stage, name: &str) -> Result<Descriptor> {
    let Some(staged) = stage.get(name) else {
        return Err(refused(&format!("it lacks `{}`", shown(name))));
    };
    Ok(Descriptor {
        media_type: String::new(),
        digest: staged.digest.clone(),
        size: staged.size,
        platform: None,
        annotations: Default::default(),
    })
}
