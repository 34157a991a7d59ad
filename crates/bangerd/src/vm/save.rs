//! Saves the work in a VM's workspace before the VM is deleted.
//!
//! ```text
//! runs ────────────────────────────▶ ask its agent ─▶ keep what it says on the host
//! stopped ─▶ boot, without init ─────────▲                     └─▶ bring it down again
//!            and without network
//! ```
//!
//! Nothing of the VM is removed here, and what it was it is afterwards: whatever goes wrong, the
//! work is still in it. A guest that was booted for this bears a mark, so that a daemon that
//! finds it does not take it for one that its user started.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use banger_api::{SavedWork, Workspace};
use banger_model::{Code, Error, Progress, Result};
use banger_store::VmRow;
use banger_vmm::Instance;
use banger_workspace::{Kept, Origin, Remote, Saved};
use tokio_util::sync::CancellationToken;

use super::boot::{self, Boot};
use super::ending::{self, KillSwitch};
use super::view::Shared;
use super::{create, workspace};
use crate::context::{Context, remove_tree};
use crate::failpoint;

/// How long a guest may take to say what was done in it. It is bounded more tightly while it
/// says nothing, or does not answer.
const SAVE_WITHIN: Duration = Duration::from_secs(30 * 60);
/// How often a guest that is busy is asked whether it still lives.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Work to save.
pub(super) struct Saving<'a> {
    /// The daemon.
    pub(super) context: &'a Arc<Context>,
    /// The VM.
    pub(super) row: &'a VmRow,
    /// What is shown of it.
    pub(super) shared: &'a Shared,
    /// Its processes, if it runs.
    pub(super) instance: Option<&'a Instance>,
    /// Where progress is reported.
    pub(super) progress: &'a dyn Progress,
    /// Ends it early.
    pub(super) interrupt: &'a CancellationToken,
}

/// Saves the work of a VM that is about to be deleted; `None` when there is none.
///
/// # Errors
/// Whatever keeps the work from being saved, with what to do about it.
pub(super) async fn save(saving: Saving<'_>) -> Result<Option<SavedWork>> {
    let name = &saving.row.name;
    saving
        .progress
        .stage("save", &format!("saving work of {name}"));
    let saved = tokio::select! {
        biased;
        () = saving.interrupt.cancelled() => Err(given_up()),
        saved = saving.save() => saved,
    };
    let error = match saved {
        Ok(Some(saved)) => {
            tracing::info!(
                repository = saved.repository,
                "work is saved: {}",
                saved.restore
            );
            return Ok(Some(saved));
        }
        Ok(None) => return Ok(None),
        Err(error) => error,
    };
    tracing::warn!("the work is not saved: {}", error.chain());
    if saving.instance.is_none() {
        saving.shared.set_instance(None);
        if let Err(error) = ending::clear(saving.context, &saving.row.id).await {
            // Whoever deletes it again, or starts it, ends them first.
            tracing::error!("what was started to save is not ended: {}", error.chain());
        }
    }
    if saving.interrupt.is_cancelled() {
        return Err(given_up());
    }
    let message = format!("the work in VM `{name}` cannot be saved, so it is not deleted");
    let discard = format!("`banger vm delete --discard {name}` deletes it with the work");
    let hint = match saving.instance {
        Some(_) => format!(
            "`banger vm stop {name}` and delete it again, to have its disk looked at; {discard}"
        ),
        None => format!("put that right and delete it again; {discard}"),
    };
    Err(Error::new(error.code(), message).hint(hint).because(error))
}

impl Saving<'_> {
    async fn save(&self) -> Result<Option<SavedWork>> {
        let Some(workspace) = workspace::of(self.row)? else {
            return Ok(None);
        };
        let files = self.context.layout.vm(&self.row.id);
        if self.instance.is_none() && !files.dir.is_dir() {
            tracing::warn!("its directory is gone, and the work with it");
            return Ok(None);
        }
        let started = match self.instance {
            Some(_) => None,
            None => Some(self.boot().await?),
        };
        let scratch = files.saving();
        let clear = |directory: PathBuf| {
            self.context.blocking(move |_| {
                failpoint::hit("remove the directory for saving")?;
                remove_tree(&directory)
            })
        };
        clear(scratch.clone()).await?;
        let agent = banger_vmm::agent_socket(&files.runtime);
        let saved = self.ask(&workspace, &agent, &scratch).await;
        if let Err(error) = clear(scratch).await {
            tracing::warn!("it goes with the VM: {}", error.chain());
        }
        if let Some(instance) = started {
            let (_kill, mut switch) = KillSwitch::new();
            let down = ending::stop(self.context, &self.row.id, &instance, &mut switch).await;
            self.shared.set_instance(None);
            down?;
        }
        saved
    }

    /// Brings a stopped guest up for this alone.
    async fn boot(&self) -> Result<Arc<Instance>> {
        // What ran before may not have ended well, and two guests on one disk destroy it.
        ending::clear(self.context, &self.row.id).await?;
        let _slot = self.context.save_boots.acquire().await;
        let mut row = self.row.clone();
        row.spec.nat = false;
        let (image, kernel, strategy) = create::parts(self.context, &row).await?;
        let boot = Boot {
            context: self.context,
            row: &row,
            shared: self.shared,
            image: &image,
            kernel: &kernel,
            strategy,
            progress: &banger_model::Quiet,
            cancel: self.interrupt,
            only_to_save: true,
            build: None,
        };
        Ok(boot::boot(boot).await?.instance)
    }

    async fn ask(
        &self,
        workspace: &Workspace,
        agent: &Path,
        scratch: &Path,
    ) -> Result<Option<SavedWork>> {
        let made = scratch.to_owned();
        self.context
            .blocking(move |_| {
                failpoint::hit("make the directory for saving")?;
                banger_config::ensure_private_dir(&made)
            })
            .await?;
        failpoint::pass("save the work").await?;
        let remote = Remote::new(agent, OsStr::new(&workspace.guest_path));
        let (origin, kept) = (Origin::from(workspace), self.context.layout.saved());
        let name = self.row.name.as_str();
        let work = remote.save(&origin, name, workspace.exported.as_deref(), &kept, scratch);
        let saved = tokio::select! {
            saved = work => saved?,
            error = silence(agent) => return Err(error),
            () = tokio::time::sleep(SAVE_WITHIN) => return Err(Error::new(
                Code::AgentFailed,
                format!("the guest did not finish within {} min", SAVE_WITHIN.as_secs() / 60),
            )),
        };
        failpoint::pass("go on after the work is saved").await?;
        Ok(describe(workspace, saved))
    }
}

/// Asks a guest for signs of life, until there are none.
async fn silence(agent: &Path) -> Error {
    loop {
        // Bounded by itself.
        if let Err(error) = banger_guest_api::client::info(agent).await {
            return Error::new(error.code(), "the guest does not answer any more").because(error);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn given_up() -> Error {
    Error::new(
        Code::Cancelled,
        "saving the work was given up, and nothing is deleted",
    )
}

fn describe(workspace: &Workspace, kept: Saved) -> Option<SavedWork> {
    let mut saved = SavedWork {
        repository: workspace.repository.clone(),
        reference: None,
        patch: None,
        bundle: None,
        archive: None,
        because: None,
        restore: String::new(),
    };
    let mut commands = Vec::new();
    match kept.work {
        Some(Kept::Reference(kept)) => {
            saved.reference = Some(kept.reference);
            commands.push(kept.restore);
        }
        Some(Kept::Patch {
            file,
            because,
            restore,
        }) => {
            saved.patch = Some(file.display().to_string());
            saved.because = Some(because);
            commands.push(restore);
        }
        None => {}
    }
    if let Some(bundle) = kept.commits {
        saved.bundle = Some(bundle.file.display().to_string());
        commands.push(bundle.restore);
    }
    if let Some(nested) = kept.nested {
        saved.archive = Some(nested.file.display().to_string());
        commands.push(nested.restore);
    }
    saved.restore = commands.join(" && ");
    (!commands.is_empty()).then_some(saved)
}
