//! The first reading of the layers: what is in the image, and whether it may be.

use banger_content::Hasher;
use banger_model::{Digest, Error, Result};

use crate::limits::Budget;
use crate::stream::Source;
use crate::tar::{self, Archive};
use crate::tree::{Finished, Tree};
use crate::watch::Watch;
use crate::{Layer, Options, in_layer, refuse};

/// What the first reading found.
pub(crate) struct Read {
    pub(crate) tree: Finished,
    /// The number of the first entry of each layer, and of the one behind the last.
    pub(crate) starts: Vec<u32>,
    pub(crate) uuid: String,
}

/// Reads all layers and merges them.
pub(crate) fn read_tree(
    layers: &[Layer],
    sources: &[Source<'_>],
    options: &Options,
    watch: &Watch<'_>,
) -> Result<Read> {
    let budget = Budget::new(&options.limits);
    let mut tree = Tree::new(&options.limits);
    let mut identity = Hasher::new();
    let mut starts = vec![0];
    for ((layer, source), number) in layers.iter().zip(sources).zip(1_u16..) {
        let digest = read_layer(layer, source, &mut tree, number, &budget, watch)
            .map_err(|error| in_layer(layer, error))?;
        identity.update(digest.as_str().as_bytes());
        starts.push(budget.entries());
    }
    Ok(Read {
        tree: tree.finish()?,
        starts,
        uuid: uuid(&identity.finish()),
    })
}

fn read_layer(
    layer: &Layer,
    source: &Source<'_>,
    tree: &mut Tree<'_>,
    number: u16,
    budget: &Budget<'_>,
    watch: &Watch<'_>,
) -> Result<Digest> {
    let mut archive = Archive::new(source.stream(budget, watch, true)?);
    while let Some(entry) = archive.next()? {
        let ordinal = budget.entry()?;
        tree.apply(&entry, number, ordinal)
            .map_err(|error| tar::in_entry(&entry.path, error))?;
    }
    let has_end = archive.has_end();
    let digest = archive
        .into_stream()
        .finish()?
        .ok_or_else(|| Error::internal("a layer was not hashed"))?;
    match &layer.diff_id {
        Some(expected) if *expected != digest => Err(refuse(format!(
            "its contents have the digest `{digest}`, not `{expected}`"
        ))),
        None if !has_end => Err(refuse("it ends in the middle")),
        _ => Ok(digest),
    }
}

/// A UUID (version 8, made in a way of our own) from a digest.
fn uuid(digest: &Digest) -> String {
    let hex = digest.hex();
    format!(
        "{}-{}-8{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    )
}
