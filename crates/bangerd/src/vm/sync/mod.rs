//! Copies what `[[file_sync]]` names into a guest that has just come up.
//!
//! The configuration is read at every start, so a change counts at the next one. Whatever goes
//! wrong is a warning: a machine without somebody's credentials is better than none. What the
//! guest has beside the files that are copied stays; it keeps files that have gone on the host.

mod tree;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use banger_config::{Config, FileSync};
use banger_guest_api::CopyIn;
use banger_guest_api::client::copy_in_with;
use banger_model::{Error, Progress, Result};

use self::tree::Tree;
use crate::context::Context;
use crate::failpoint;

/// The home directory of the guest's root.
const GUEST_HOME: &str = "/root";
/// How long one entry may take: a home directory may be on a server that does not answer.
const LIMIT: Duration = Duration::from_secs(120);

/// Copies every entry, in the order of the file, and warns of what is not copied.
pub(super) async fn apply(context: &Arc<Context>, agent: &Path, progress: &dyn Progress) {
    let warn = |warning: String| {
        tracing::warn!("{warning}");
        progress.warn(&warning);
    };
    let loaded = context.blocking(|context| Config::load(&context.paths.config_file));
    let entries = match loaded.await {
        Ok(config) => config.file_sync,
        Err(error) => {
            return warn(format!(
                "no files are copied into the guest: {}",
                error.chain()
            ));
        }
    };
    for (index, entry) in entries.into_iter().enumerate() {
        if index == 0 {
            progress.stage("sync-files", "copying files into the guest");
        }
        let (host, guest) = (entry.host.to_string(), entry.guest.to_string());
        let copied = tokio::time::timeout(LIMIT, copy(context, agent, entry));
        match copied.await {
            Ok(Ok(None)) => tracing::debug!(host, guest, "copied into the guest"),
            Ok(Ok(Some(left_out))) => warn(format!("`{host}` is copied in part: {left_out}")),
            Ok(Err(error)) => warn(format!("`{host}` is not copied: {}", error.chain())),
            Err(_) => warn(format!(
                "`{host}` is not copied: that takes longer than {} s",
                LIMIT.as_secs()
            )),
        }
    }
}

/// Copies one entry. Says what of it was left out, if anything.
async fn copy(context: &Arc<Context>, agent: &Path, entry: FileSync) -> Result<Option<String>> {
    let planned = context.blocking(move |context| {
        let host = entry.host.resolve(context.paths.home.as_deref());
        let host = host.ok_or_else(|| {
            let code = banger_model::Code::InvalidConfig;
            Error::new(code, "there is no home directory: HOME is not set")
        })?;
        Tree::find(&host, entry.guest.below_home(), entry.mode)
    });
    let tree = planned.await?;
    failpoint::pass("copy files into the guest").await?;
    let unread = Arc::new(Mutex::new(None));
    let noted = unread.clone();
    let copy = CopyIn {
        path: GUEST_HOME.into(),
        name: GUEST_HOME.into(),
        owner: None,
        keep_owners: false,
        exact: true,
        replace: false,
    };
    copy_in_with(agent, copy, move |writer| {
        let (copied, left_out) = tree.write(writer)?;
        *noted.lock().unwrap_or_else(PoisonError::into_inner) = left_out;
        Ok(copied)
    })
    .await?;
    let left_out = unread.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(left_out)
}
