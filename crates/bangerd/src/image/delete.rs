//! Removing an image.

use std::sync::Arc;

use banger_model::{Code, Error, ImageName, Result};

use super::keep::{Needed, with_needed};
use crate::context::Context;
use crate::failpoint;

/// Removes the image called `name`. With `force` also while VMs use it: they lose nothing, for
/// the file goes when the last of them does.
///
/// # Errors
/// `not_found`; `conflict` while VMs use it, naming them, and while it is being made.
pub(crate) async fn delete(context: &Arc<Context>, name: ImageName, force: bool) -> Result<()> {
    let _claim = context.image_claims.take(&name)?;
    context
        .blocking(move |context| {
            let images = context.images.with_steps(failpoint::steps());
            with_needed(context, &images, |needed| {
                if !force {
                    refuse_used(context, &name, needed)?;
                }
                if images.unlink(&name)? {
                    Ok(())
                } else {
                    Err(not_found(&name))
                }
            })
        })
        .await
}

fn refuse_used(context: &Context, name: &ImageName, needed: &Needed) -> Result<()> {
    let image = context.images.find(name)?.ok_or_else(|| not_found(name))?;
    if !needed.has(&image.digest) {
        return Ok(());
    }
    let by = match needed.vms.get(&image.digest) {
        Some(vms) => {
            let vms: Vec<_> = vms.iter().map(|vm| format!("`{vm}`")).collect();
            vms.join(", ")
        }
        None => "a VM that is being made".to_owned(),
    };
    Err(Error::new(
        Code::Conflict,
        format!("the image `{name}` is used by {by}"),
    )
    .hint(
        "delete those first; or give `--force`, which takes the name away and lets them keep \
             what they have",
    ))
}

/// There is no image of that name.
pub(crate) fn not_found(name: &ImageName) -> Error {
    Error::new(Code::NotFound, format!("there is no image `{name}`"))
        .hint("`banger image list` shows the images there are")
}
