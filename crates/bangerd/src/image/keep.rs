//! Which images are needed: those with a name, those that VMs are made from, and those that a
//! VM is being made from at this moment.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_image::{Image, Images};
use banger_model::{Code, Digest, Error, Result};

use crate::context::Context;
use crate::failpoint;

/// Images that must stay although no VM in the database uses them yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holds(Arc<Mutex<HashMap<Digest, usize>>>);

impl Holds {
    /// What is held. While this is locked nothing is held anew, and so nothing that is found to
    /// be unneeded becomes needed.
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps an image while it exists.
#[derive(Debug)]
pub(crate) struct Hold {
    holds: Holds,
    digest: Digest,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.holds.lock();
        if let Some(count) = held.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.digest);
            }
        }
    }
}

/// Keeps an image until the database says that a VM uses it.
///
/// # Errors
/// `conflict` when it was deleted since it was found.
pub(crate) async fn hold(context: &Arc<Context>, image: &Image) -> Result<Hold> {
    let (name, digest) = (image.name.clone(), image.digest.clone());
    context
        .blocking(move |context| {
            let mut held = context.image_holds.lock();
            if context.images.by_digest(&digest)?.is_none() {
                return Err(Error::new(
                    Code::Conflict,
                    format!("the image `{name}` was deleted meanwhile"),
                )
                .hint("try again: it is pulled anew where that can be done"));
            }
            *held.entry(digest.clone()).or_default() += 1;
            drop(held);
            Ok(Hold {
                holds: context.image_holds.clone(),
                digest,
            })
        })
        .await
}

/// What is needed although it may have no name.
#[derive(Debug)]
pub(crate) struct Needed {
    /// The names of the VMs that use each image.
    pub(super) vms: HashMap<Digest, Vec<String>>,
    held: HashSet<Digest>,
}

impl Needed {
    /// Whether somebody needs it.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.vms.contains_key(digest) || self.held.contains(digest)
    }

    fn all(&self) -> HashSet<Digest> {
        self.vms.keys().chain(&self.held).cloned().collect()
    }
}

/// Does something with the knowledge of what is needed, which stays true meanwhile, and removes
/// after that what has no name and is not needed.
pub(super) fn with_needed<T>(
    context: &Context,
    images: &Images,
    work: impl FnOnce(&Needed) -> Result<T>,
) -> Result<T> {
    let held = context.image_holds.lock();
    let needed = Needed {
        vms: users(context)?,
        held: held.keys().cloned().collect(),
    };
    let result = work(&needed)?;
    images.sweep(&needed.all())?;
    Ok(result)
}

/// The names of the VMs that are made from each image, as the database has them.
///
/// # Errors
/// Those of the database.
pub(crate) fn users(context: &Context) -> Result<HashMap<Digest, Vec<String>>> {
    let mut users: HashMap<Digest, Vec<String>> = HashMap::new();
    for row in context.store.all()? {
        if let Some(digest) = row.image_digest {
            users.entry(digest).or_default().push(row.name.to_string());
        }
    }
    Ok(users)
}

/// Removes images that nobody needs any more, and what crashes left behind.
///
/// # Errors
/// `io` when something cannot be removed.
pub(crate) fn sweep(context: &Context) -> Result<()> {
    with_needed(context, &context.images, |_| Ok(()))
}

/// Removes images that nobody needs any more. What goes wrong is logged: the next sweep comes.
pub(crate) async fn sweep_soon(context: &Arc<Context>) {
    if let Err(error) = context.blocking(sweep).await {
        tracing::warn!("an image may stay that nobody needs: {}", error.chain());
    }
}

/// Removes the image of a VM that is gone, when it was the last to use it and the image has no
/// name any more. Nobody waits for that.
pub(crate) fn sweep_after(context: &Arc<Context>, image: Option<Digest>) {
    let Some(digest) = image else { return };
    let own = context.clone();
    context.tasks.spawn(async move {
        let swept = own.blocking(move |context| {
            let named = context.images.list()?;
            if named.iter().any(|image| image.digest == digest) {
                return Ok(());
            }
            failpoint::hit("remove an image that nobody needs")?;
            sweep(context)
        });
        if let Err(error) = swept.await {
            tracing::warn!("an image may stay that nobody needs: {}", error.chain());
        }
    });
}
