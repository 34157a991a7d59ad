//! Removing the images that nobody needs, and the layers of those that were pulled.

use std::sync::Arc;

use banger_api::{PrunedImage, PrunedImages};
use banger_image::Image;
use banger_model::{ByteSize, Result};

use super::keep::with_needed;
use crate::context::Context;

/// Removes images without a name that no VM uses and all cached layers; with `all` also those
/// with a name that no VM uses. A dry run only says what that would be.
///
/// # Errors
/// `io` when something cannot be listed or removed.
pub(crate) async fn prune(
    context: &Arc<Context>,
    all: bool,
    dry_run: bool,
) -> Result<PrunedImages> {
    context
        .blocking(move |context| {
            if dry_run {
                return with_needed(context, &context.images, |needed| {
                    let going = candidates(context, all, |image| needed.has(&image.digest))?;
                    Ok(report(going, context.images.cached()?))
                });
            }
            let going = with_needed(context, &context.images, |needed| {
                let mut gone = Vec::new();
                for (named, image) in candidates(context, all, |image| needed.has(&image.digest))? {
                    if named {
                        // One that somebody is making anew is not unneeded.
                        let Ok(_claim) = context.image_claims.take(&image.name) else {
                            continue;
                        };
                        context.images.unlink(&image.name)?;
                    }
                    gone.push((named, image));
                }
                Ok(gone)
            })?;
            let cache = context.images.clear_cache()?;
            Ok(report(going, cache))
        })
        .await
}

/// What would go, each with whether it has a name.
fn candidates(
    context: &Context,
    all: bool,
    needed: impl Fn(&Image) -> bool,
) -> Result<Vec<(bool, Image)>> {
    let named = context.images.list()?;
    let mut going: Vec<_> = context
        .images
        .all()?
        .into_iter()
        .filter(|image| named.iter().all(|other| other.digest != image.digest))
        .map(|image| (false, image))
        .collect();
    if all {
        going.extend(named.into_iter().map(|image| (true, image)));
    }
    going.retain(|(_, image)| !needed(image));
    Ok(going)
}

fn report(images: Vec<(bool, Image)>, cache: ByteSize) -> PrunedImages {
    let images: Vec<_> = images
        .into_iter()
        .map(|(named, image)| PrunedImage {
            name: named.then(|| image.name.to_string()),
            digest: image.digest.to_string(),
            disk_usage: image.disk_usage.as_bytes(),
        })
        .collect();
    let disks: u64 = images.iter().map(|image| image.disk_usage).sum();
    PrunedImages {
        images,
        cache: cache.as_bytes(),
        reclaimed: disks + cache.as_bytes(),
    }
}
