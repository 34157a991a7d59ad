//! How VMs end: in good order, by themselves, and for good.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use banger_model::{Code, Error, Result, VmId};
use banger_vmm::{Ended, Instance, Part};

use super::boot::clear_runtime;
use crate::context::{Context, remove_tree};

/// How long the agent may take to say that the guest's disks are flushed.
const FLUSH_WITHIN: Duration = Duration::from_secs(10);
/// How long the guest may then take to go down.
const DOWN_WITHIN: Duration = Duration::from_secs(20);

/// Brings a guest down: asks its agent, waits, and ends what is left. Says what to show as the
/// reason when it did not go in good order.
///
/// # Errors
/// `vmm_failed` when a process could not be ended.
pub(super) async fn stop(
    context: &Arc<Context>,
    id: &VmId,
    instance: &Instance,
) -> Result<Option<String>> {
    let files = context.layout.vm(id);
    let agent = banger_vmm::agent_socket(&files.runtime);
    let asked =
        tokio::time::timeout(FLUSH_WITHIN, banger_guest_api::client::shutdown(&agent)).await;
    let reason = match asked {
        Ok(Ok(())) => match tokio::time::timeout(DOWN_WITHIN, instance.exited()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => return Err(error),
            Err(_) => Some(format!(
                "its disks were flushed, but it did not power off within {} s and was killed",
                DOWN_WITHIN.as_secs()
            )),
        },
        Ok(Err(error)) if instance.is_alive() => {
            tracing::warn!("the agent refused to shut down: {}", error.chain());
            Some("its agent did not take the request to shut down, so it was killed".to_owned())
        }
        // It ended before it could answer.
        Ok(Err(_)) => None,
        Err(_) => Some("its agent did not answer, so it was killed".to_owned()),
    };
    if let Some(reason) = &reason {
        tracing::warn!("{reason}");
    }
    end(context, id, instance).await?;
    Ok(reason)
}

/// Ends what is left of an instance and removes its runtime directory.
///
/// # Errors
/// `vmm_failed` when a process could not be ended.
pub(super) async fn end(context: &Arc<Context>, id: &VmId, instance: &Instance) -> Result<()> {
    let killed = instance.kill().await;
    let cleared = clear_runtime(context, &context.layout.vm(id)).await;
    killed.and(cleared)
}

/// What an instance's end means, in words.
pub(super) fn describe(ended: &Ended) -> String {
    let who = super::boot::part_name(ended.part);
    let Some(status) = ended.status else {
        return match ended.part {
            Part::Vmm => "the guest powered off or its VMM ended".to_owned(),
            Part::Vsock => format!("{who} ended"),
        };
    };
    match (ended.part, status.code(), status.signal()) {
        (Part::Vmm, Some(0), _) => "the guest powered off".to_owned(),
        (_, Some(code), _) => format!("{who} ended with exit code {code}"),
        (_, _, Some(signal)) => format!("{who} was killed by signal {signal}"),
        _ => format!("{who} ended"),
    }
}

/// The reason shown for a VM whose instance ended by itself.
pub(super) fn reason(ended: &Ended) -> String {
    match ended.part {
        Part::Vmm => describe(ended),
        Part::Vsock => format!("{}, so the VM was stopped", describe(ended)),
    }
}

/// Removes every trace of a VM, its row last. Never stops at the first failure; what is not
/// there is fine; so it can be repeated.
///
/// # Errors
/// The first failure, with every other one in its message.
pub(super) async fn remove(
    context: &Arc<Context>,
    id: &VmId,
    instance: Option<&Instance>,
) -> Result<()> {
    let files = context.layout.vm(id);
    let mut failures = Vec::new();
    if let Some(instance) = instance {
        failures.extend(instance.kill().await.err());
    }
    failures.extend(kill_strays(context, id).await);
    for dir in [files.runtime.clone(), files.dir.clone()] {
        let removed = context.blocking(move |_| remove_vm_tree(&dir)).await;
        failures.extend(removed.err());
    }
    if failures.is_empty() {
        let row = id.clone();
        failures.extend(context.blocking(move |c| c.store.remove(&row)).await.err());
    }
    let messages: Vec<String> = failures.iter().map(Error::chain).collect();
    match failures.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(Error::new(first.code(), messages.join("; "))
            .hint("put that right and delete the VM again")),
    }
}

/// Ends whatever runs for this VM.
///
/// # Errors
/// The first failure.
pub(super) async fn kill_all(context: &Arc<Context>, id: &VmId) -> Result<()> {
    let failures = kill_strays(context, id).await;
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// Ends whatever runs for this VM that its owner does not know of.
async fn kill_strays(context: &Arc<Context>, id: &VmId) -> Vec<Error> {
    let found = context
        .blocking(|c| banger_vmm::find_all(&c.layout.vm_runtime_root))
        .await;
    let found = match found {
        Ok(found) => found,
        Err(error) => return vec![error],
    };
    let mut failures = Vec::new();
    for (owner, stray) in found {
        if owner == *id {
            tracing::info!(pids = ?stray.pids(), "ending processes nobody knew of");
            failures.extend(stray.kill().await.err());
        }
    }
    failures
}

fn remove_vm_tree(dir: &Path) -> Result<()> {
    remove_tree(dir).map_err(|error| {
        Error::new(
            match error.code() {
                Code::NoSpace => Code::NoSpace,
                _ => Code::Io,
            },
            format!("the VM's directory `{}` stays", dir.display()),
        )
        .because(error)
    })
}
