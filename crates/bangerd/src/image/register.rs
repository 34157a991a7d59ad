//! Own ext4 files become images.

use std::sync::Arc;

use banger_image::{Image, Registration};
use banger_model::{Code, Error, ImageName, Progress, Result};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::failpoint;

/// Makes an image of an ext4 file.
///
/// # Errors
/// `already_exists` when there is one of that name and it is not to be replaced; those of
/// [`banger_image::Images::register`].
pub(crate) async fn register(
    context: &Arc<Context>,
    registration: Registration,
    replace: bool,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Image> {
    let name = registration.name.clone();
    let _claim = context.image_claims.take(&name)?;
    if !replace {
        refuse_existing(context, name).await?;
    }
    context
        .images
        .with_steps(failpoint::steps())
        .register(registration, progress, cancel)
        .await
}

/// Refuses a name that an image has.
///
/// # Errors
/// `already_exists`.
pub(crate) async fn refuse_existing(context: &Arc<Context>, name: ImageName) -> Result<()> {
    let wanted = name.clone();
    let found = context.blocking(move |c| c.images.find(&wanted)).await?;
    match found {
        None => Ok(()),
        Some(_) => Err(Error::new(
            Code::AlreadyExists,
            format!("there is already an image `{name}`"),
        )
        .hint("choose another name, or replace it with `--force`: its VMs keep what they have")),
    }
}
