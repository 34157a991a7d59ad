//! Which image of an archive is meant.

use banger_model::{Code, Digest, Error, Result};

use super::stage::Stage;
use super::{Wanted, fault, layout, listed, refused, saved};
use crate::manifest::Manifest;
use crate::reference::Reference;

/// The image that was chosen.
pub(super) struct Chosen {
    pub(super) name: Option<String>,
    pub(super) manifest_digest: Digest,
    pub(super) manifest: Manifest,
}

/// The image in `stage` that is `wanted`. New archives of `docker save` are both kinds at once;
/// the layout says more.
pub(super) fn choose_image(stage: &Stage, wanted: &Wanted) -> Result<Chosen> {
    if let (Some(_), Some(index)) = (stage.get("oci-layout"), stage.get("index.json")) {
        return layout::choose_image(stage, index, wanted);
    }
    if let Some(list) = stage.get("manifest.json") {
        return saved::choose_image(stage, list, wanted);
    }
    Err(refused(
        "it is no image: it has neither `manifest.json` nor `oci-layout` and `index.json`",
    ))
}

/// The entries that are meant, of entries with the names that `names` gives: those with the
/// wanted name, or all when there is one image only.
pub(super) fn by_name<'a, T>(
    entries: &'a [T],
    names: impl Fn(&T) -> Vec<String>,
    same: impl Fn(&T, &T) -> bool,
    wanted: &Wanted,
) -> Result<Vec<&'a T>> {
    let all: Vec<String> = entries.iter().flat_map(&names).collect();
    if let Some(name) = &wanted.name {
        let meant: Vec<&T> = entries
            .iter()
            .filter(|entry| names(entry).iter().any(|said| is_called(said, name)))
            .collect();
        if meant.is_empty() {
            let there = match all.as_slice() {
                [] => "its images have no names".to_owned(),
                some => format!("it has {}", listed(some)),
            };
            return Err(Error::new(
                Code::NotFound,
                format!(
                    "the archive has no image `{}`: {there}",
                    crate::text::shown(name)
                ),
            )
            .hint("name one that it has"));
        }
        return Ok(meant);
    }
    let Some((first, rest)) = entries.split_first() else {
        return Err(refused("it has no image"));
    };
    let one = rest
        .iter()
        .all(|entry| names(entry) == names(first) || same(entry, first));
    if one {
        return Ok(entries.iter().collect());
    }
    Err(Error::new(
        Code::InvalidArgument,
        match all.as_slice() {
            [] => format!("the archive has {} images without names", entries.len()),
            some => format!("the archive has several images: {}", listed(some)),
        },
    )
    .hint("say which one by its name"))
}

/// Whether an image that calls itself `said` is the one called `name`.
fn is_called(said: &str, name: &str) -> bool {
    said == name
        || match (said.parse::<Reference>(), name.parse::<Reference>()) {
            (Ok(said), Ok(name)) => said == name,
            _ => false,
        }
}

/// A refusal of something inside of the archive as an error.
pub(super) fn inside<T>(result: Result<T, super::Fault>) -> Result<T> {
    result.map_err(fault)
}
