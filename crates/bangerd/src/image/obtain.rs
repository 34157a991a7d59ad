//! The image that a VM is made from: the one that is here, or pulled.

use std::sync::Arc;

use banger_image::{Image, PullOptions};
use banger_model::{ImageName, KernelName, Progress, Result};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::failpoint;

/// The name under which an image is, or will be, here.
///
/// # Errors
/// `invalid_argument` for what is neither in a catalog nor a reference.
pub(crate) async fn canonical(context: &Arc<Context>, name: ImageName) -> Result<ImageName> {
    context.blocking(move |c| c.images.canonical(&name)).await
}

/// The kernel that VMs of this image boot by default; of one that is to be pulled from a
/// registry nothing else is known yet.
///
/// # Errors
/// `io` when the image is damaged.
pub(crate) async fn default_kernel(context: &Arc<Context>, image: ImageName) -> Result<KernelName> {
    context
        .blocking(move |context| {
            if let Some(found) = context.images.find(&image)? {
                return Ok(found.kernel);
            }
            let catalog = context.images.catalog()?;
            match catalog.into_iter().find(|entry| entry.name == image) {
                Some(entry) => Ok(entry.kernel),
                None => banger_image::default_kernel(),
            }
        })
        .await
}

/// The image with this canonical name, pulled when it is not here.
///
/// # Errors
/// Those of the pull; `cancelled`.
pub(crate) async fn obtain(
    context: &Arc<Context>,
    name: &ImageName,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Image> {
    let wanted = name.clone();
    if let Some(image) = context.blocking(move |c| c.images.find(&wanted)).await? {
        return Ok(image);
    }
    fly(
        context,
        name,
        PullOptions::default(),
        false,
        progress,
        cancel,
    )
    .await
}

/// Pulls the image with this canonical name. What comes from a catalog and is here already stays
/// as it is, unless another kernel is asked for or the catalog names another bundle by now; a
/// registry is always asked for something newer.
///
/// # Errors
/// Those of the pull; `cancelled`.
pub(crate) async fn pull(
    context: &Arc<Context>,
    name: &ImageName,
    options: PullOptions,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Image> {
    let wanted = name.clone();
    let (here, entry) = context
        .blocking(move |c| {
            let mut catalog = c.images.catalog()?.into_iter();
            let entry = catalog.find(|entry| entry.name == wanted);
            Ok((c.images.find(&wanted)?, entry))
        })
        .await?;
    if let (Some(here), Some(entry)) = (here, entry)
        && entry.means(&here)
        && options
            .kernel
            .as_ref()
            .is_none_or(|kernel| *kernel == here.kernel)
    {
        return Ok(here);
    }
    fly(context, name, options, true, progress, cancel).await
}

/// One pull for all who want the same.
async fn fly(
    context: &Arc<Context>,
    name: &ImageName,
    options: PullOptions,
    refresh: bool,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Image> {
    let kernel = options.kernel.as_ref().map_or("", KernelName::as_str);
    let key = format!("{name} {} {kernel}", options.platform);
    let (own, wanted) = (context.clone(), name.clone());
    let steps = failpoint::steps();
    let pull = move |progress: Arc<dyn Progress>, cancel: CancellationToken| async move {
        // Somebody may have finished it between the look and now.
        let name = wanted.clone();
        if !refresh && let Some(image) = own.blocking(move |c| c.images.find(&name)).await? {
            return Ok(image);
        }
        let _claim = own.image_claims.take(&wanted)?;
        progress.stage("pull-image", &format!("pulling image {wanted}"));
        own.images
            .with_steps(steps)
            .pull(&wanted, &options, &*progress, &cancel)
            .await
    };
    context.image_pulls.run(&key, progress, cancel, pull).await
}
