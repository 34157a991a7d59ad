//! Makes the database and the system agree again when the daemon starts.
//!
//! | in the database | on the system          | what happens                                  |
//! |-----------------|------------------------|-----------------------------------------------|
//! | present         | runs, agent answers    | adopted, running                              |
//! | present         | runs, agent is silent  | adopted as starting, and watched              |
//! | present         | runs only to be saved  | ended: stopped                                |
//! | present         | does not run           | stopped; leftovers of its run are removed     |
//! | creating        | anything               | undone                                        |
//! | deleting        | anything               | deleted; broken when that fails again         |
//! | nothing         | processes, directories | ended, removed                                |
//!
//! Nothing but the database and the system is asked, so it does not matter when or how the
//! daemon before this one ended.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use banger_model::{Digest, Error, IoContext, Result, VmId};
use banger_store::{Intent, VmRow};
use banger_vmm::Instance;

use super::boot::{Up, clear_runtime};
use super::owner::{self, First};
use super::{Vms, create, ending, workspace};
use crate::context::{Context, remove_tree};
use crate::failpoint::{self, Scope};
use crate::keys;

/// How long one agent may take to answer before its VM counts as starting.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long the daemon waits before it serves with work still in progress.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// Finds out what is true and starts an owner for every VM.
///
/// # Errors
/// Those of the database and of `/proc`; what goes wrong with one VM is shown with that VM.
pub(crate) async fn reconcile(vms: &Arc<Vms>) -> Result<()> {
    let context = &vms.context;
    let rows = context.blocking(|c| c.store.all()).await?;
    let found = context
        .blocking(|c| banger_vmm::find_all(&c.layout.vm_runtime_root))
        .await?;
    let mut running: HashMap<VmId, Vec<Instance>> = HashMap::new();
    for (id, instance) in found {
        running.entry(id).or_default().push(instance);
    }
    tracing::info!(rows = rows.len(), running = running.len(), "reconciling");
    let known: HashSet<VmId> = rows.iter().map(|row| row.id.clone()).collect();
    let keep: HashSet<Digest> = rows
        .iter()
        .flat_map(|row| row.image_digest.iter().chain(&row.kernel_digest))
        .cloned()
        .collect();

    let scope = Scope::new(failpoint::RECONCILE);
    let mut work = tokio::task::JoinSet::new();
    for row in rows {
        let instances = running.remove(&row.id).unwrap_or_default();
        let vms = vms.clone();
        let own = scope.clone();
        work.spawn(failpoint::within(scope.clone(), async move {
            settle(&vms, row, instances, own).await;
        }));
    }
    for (id, instances) in running {
        work.spawn(async move {
            for instance in instances {
                tracing::info!(vm = %id, pids = ?instance.pids(), "ending a VM that is in no row");
                report("end a VM that is in no row", instance.kill().await);
            }
        });
    }
    let all = async { while work.join_next().await.is_some() {} };
    if tokio::time::timeout(SETTLE_WITHIN, all).await.is_err() {
        tracing::warn!("serving while some VMs are still being settled");
        // They go on; dropping the set would end them.
        work.detach_all();
    }

    // Before anything new is made: what is in no row now belongs to nobody.
    let swept = context.blocking(move |c| sweep_vms(c, &known));
    report("sweep", failpoint::within(scope, swept).await);
    // Staging directories can hold a whole system; nobody waits for those.
    let own = context.clone();
    let sweeping = context.tasks.spawn(async move {
        report(
            "sweep",
            own.blocking(move |c| sweep_content(c, &keep)).await,
        );
    });
    if tokio::time::timeout(SETTLE_WITHIN, sweeping).await.is_err() {
        tracing::info!("serving while leftovers are still being removed");
    }
    Ok(())
}

async fn settle(vms: &Arc<Vms>, row: VmRow, mut instances: Vec<Instance>, scope: Scope) {
    let context = &vms.context;
    let image = config_of(context, &row).await;
    let host_key = host_key_of(context, &row).await;
    let one = if instances.len() == 1 {
        instances.pop().map(Arc::new)
    } else {
        // More than one process tree for one VM cannot be; whatever they are, they are not it.
        for instance in instances {
            report("end a second VMM", instance.kill().await);
        }
        None
    };
    let name = row.name.clone();
    let gone_first = row.intent != Intent::Present;
    let first = match row.intent {
        Intent::Creating | Intent::Deleting => {
            tracing::info!(vm = %name, intent = ?row.intent, "removing what is left");
            First::Remove(one, scope)
        }
        Intent::Present => match one {
            // Only a deletion that discards its work can take it now.
            _ if workspace::of(&row).is_err() => {
                First::Broken("the record of its workspace makes no sense".to_owned())
            }
            Some(instance) if context.layout.vm(&row.id).saving_mark().exists() => {
                tracing::info!(vm = %name, "ending a guest that came up only to be saved");
                report(
                    "end a guest that came up only to be saved",
                    ending::end(context, &row.id, &instance).await,
                );
                First::Stopped
            }
            Some(instance) if instance.is_alive() => adopt(context, &row, instance).await,
            Some(instance) => {
                report(
                    "end half a VM",
                    ending::end(context, &row.id, &instance).await,
                );
                First::Stopped
            }
            None => at_rest(context, &row).await,
        },
    };
    if row.intent == Intent::Present {
        forget_half_saved(context, &row).await;
    }
    let shared = owner::spawn(vms, row.clone(), first);
    if let Some(config) = image {
        shared.set_parts(&row, Some(config));
    }
    if let Some(host_key) = host_key {
        shared.set_host_key(&host_key);
    }
    if gone_first {
        // Gone, or broken: then it is shown so and nobody waits for it.
        let settled = async {
            while !shared.gone().is_cancelled()
                && shared.vm().state == banger_model::VmState::Deleting
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(SETTLE_WITHIN, settled).await.is_err() {
            tracing::warn!(vm = %name, "its removal takes long");
        }
    }
}

async fn adopt(context: &Arc<Context>, row: &VmRow, instance: Arc<Instance>) -> First {
    let files = context.layout.vm(&row.id);
    let agent = banger_vmm::agent_socket(&files.runtime);
    let asked = tokio::time::timeout(ANSWER_WITHIN, banger_guest_api::client::info(&agent));
    match asked.await {
        Ok(Ok(info)) => {
            tracing::info!(vm = %row.name, pid = instance.pid(), "adopted");
            First::Running(Up { instance, info })
        }
        Ok(Err(_)) | Err(_) => First::Watch(instance),
    }
}

/// Removes what a daemon left that ended while it saved the work of a VM.
async fn forget_half_saved(context: &Arc<Context>, row: &VmRow) {
    let directory = context.layout.vm(&row.id).saving();
    let removed = context.blocking(move |_| match directory.exists() {
        true => {
            failpoint::hit("remove the directory for saving").and_then(|()| remove_tree(&directory))
        }
        false => Ok(()),
    });
    report("remove what was being saved", removed.await);
}

async fn at_rest(context: &Arc<Context>, row: &VmRow) -> First {
    let files = context.layout.vm(&row.id);
    report(
        "remove a runtime directory",
        clear_runtime(context, &files).await,
    );
    if !files.dir.is_dir() {
        return First::Broken(format!("its directory `{}` is gone", files.dir.display()));
    }
    First::Stopped
}

async fn config_of(context: &Arc<Context>, row: &VmRow) -> Option<banger_model::ImageConfig> {
    match create::parts(context, row).await {
        Ok((image, _, _)) => Some(image.config),
        Err(error) => {
            tracing::debug!(vm = %row.name, "{}", error.chain());
            None
        }
    }
}

async fn host_key_of(context: &Arc<Context>, row: &VmRow) -> Option<String> {
    let path = context.layout.vm(&row.id).host_key();
    match context.blocking(move |_| keys::load(&path)).await {
        Ok(key) => key.map(|key| key.public),
        // The next start says what is wrong with it.
        Err(error) => {
            tracing::warn!(vm = %row.name, "{}", error.chain());
            None
        }
    }
}

/// Removes what belongs to no VM.
fn sweep_vms(context: &Context, known: &HashSet<VmId>) -> Result<()> {
    for root in [context.layout.vms(), context.layout.vm_runtime_root.clone()] {
        report("remove leftovers", sweep_dir(&root, known));
    }
    report("remove leftovers", context.templates.sweep());
    Ok(())
}

/// Removes images and kernels that have no name and no VM, and what crashes left of pulls.
fn sweep_content(context: &Context, keep: &HashSet<Digest>) -> Result<()> {
    report("sweep images", crate::image::sweep(context));
    report("sweep kernels", context.kernels.sweep(keep));
    Ok(())
}

fn sweep_dir(root: &Path, known: &HashSet<VmId>) -> Result<()> {
    for entry in std::fs::read_dir(root).at("list", root)? {
        let entry = entry.at("list", root)?;
        // Only what can be a VM's: anything else was put there by somebody else.
        let id: Option<VmId> = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(id) = id
            && !known.contains(&id)
        {
            tracing::info!(path = %entry.path().display(), "removing what belongs to no VM");
            let removed = failpoint::hit("remove what belongs to no VM")
                .and_then(|()| remove_tree(&entry.path()));
            report("remove leftovers", removed);
        }
    }
    Ok(())
}

/// One failure does not stop the rest.
fn report(act: &str, result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::error!("cannot {act}: {}", error.chain());
    }
}
