//! How VMs end: in good order, by themselves, and for good.

use std::future::pending;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use banger_api::KillSignal;
use banger_model::{Code, Error, Result, VmId};
use banger_vmm::{Ended, Instance, Part};
use rustix::process::Signal;
use tokio::sync::watch;

use super::boot::clear_runtime;
use crate::context::{Context, remove_tree};
use crate::failpoint;

/// How long the agent may take to say that the guest's disks are flushed.
const FLUSH_WITHIN: Duration = Duration::from_secs(10);
/// How long the guest may then take to go down.
const DOWN_WITHIN: Duration = Duration::from_secs(20);
/// How long a VMM may take to end after a signal that it may handle.
const SIGNAL_WITHIN: Duration = Duration::from_secs(10);

/// By which work in progress learns that the VM is to be killed.
pub(super) struct KillSwitch(watch::Receiver<Option<KillSignal>>);

impl KillSwitch {
    /// One that has not been used, and what uses it.
    pub(super) fn new() -> (watch::Sender<Option<KillSignal>>, KillSwitch) {
        let (sender, receiver) = watch::channel(None);
        (sender, KillSwitch(receiver))
    }

    /// Waits for the next use, for ever when there is none.
    async fn used(&mut self) -> KillSignal {
        while self.0.changed().await.is_ok() {
            if let Some(signal) = *self.0.borrow_and_update() {
                return signal;
            }
        }
        pending().await
    }

    /// Whether it has been used.
    pub(super) fn is_used(&self) -> bool {
        self.0.borrow().is_some()
    }
}

/// Brings a guest down: asks its agent, waits, and ends what is left. Says what to show as the
/// reason when it did not go in good order. A kill cuts the waiting short.
///
/// # Errors
/// `vmm_failed` when a process could not be ended.
pub(super) async fn stop(
    context: &Arc<Context>,
    id: &VmId,
    instance: &Instance,
    switch: &mut KillSwitch,
) -> Result<Option<String>> {
    let files = context.layout.vm(id);
    let agent = banger_vmm::agent_socket(&files.runtime);
    let reason = tokio::select! {
        reason = ask_and_wait(&agent, instance) => reason?,
        signal = switch.used() => return kill(context, id, instance, signal, switch).await,
    };
    if let Some(reason) = &reason {
        tracing::warn!("{reason}");
    }
    end(context, id, instance).await?;
    Ok(reason)
}

async fn ask_and_wait(agent: &Path, instance: &Instance) -> Result<Option<String>> {
    let asking = async {
        failpoint::pass("ask the agent to shut down").await?;
        banger_guest_api::client::shutdown(agent).await
    };
    Ok(match tokio::time::timeout(FLUSH_WITHIN, asking).await {
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
    })
}

/// Ends a VMM with a signal, and with SIGKILL what is left of the VM after that. Says what to
/// show as the reason. Another kill cuts the waiting short.
///
/// # Errors
/// `vmm_failed` when a process could not be ended.
pub(super) async fn kill(
    context: &Arc<Context>,
    id: &VmId,
    instance: &Instance,
    signal: KillSignal,
    switch: &mut KillSwitch,
) -> Result<Option<String>> {
    let mut reason = KILLED.to_owned();
    if let Some((signal, name)) = gentle(signal) {
        let signalled = async {
            failpoint::pass("signal the VMM").await?;
            instance.send_signal(signal)?;
            instance.exited().await
        };
        let seconds = SIGNAL_WITHIN.as_secs();
        tokio::select! {
            ended = tokio::time::timeout(SIGNAL_WITHIN, signalled) => match ended {
                Ok(Ok(_)) => reason = format!("{KILLED} with {name}"),
                Ok(Err(error)) => tracing::warn!("{name} is of no use: {}", error.chain()),
                Err(_) => reason = format!("{KILLED}, for {name} did not end it within {seconds} s"),
            },
            _ = switch.used() => {}
        }
    }
    end(context, id, instance).await?;
    Ok(Some(reason))
}

/// The reason shown for a VM that was killed.
pub(super) const KILLED: &str = "killed";

/// A signal that the VMM may handle, and its name.
fn gentle(signal: KillSignal) -> Option<(Signal, &'static str)> {
    match signal {
        KillSignal::Kill => None,
        KillSignal::Term => Some((Signal::TERM, "SIGTERM")),
        KillSignal::Int => Some((Signal::INT, "SIGINT")),
        KillSignal::Hup => Some((Signal::HUP, "SIGHUP")),
        KillSignal::Quit => Some((Signal::QUIT, "SIGQUIT")),
    }
}

/// Ends what is left of an instance and removes its runtime directory.
///
/// # Errors
/// `vmm_failed` when a process could not be ended.
pub(super) async fn end(context: &Arc<Context>, id: &VmId, instance: &Instance) -> Result<()> {
    let killed = match failpoint::pass("end the processes").await {
        Ok(()) => instance.kill().await,
        Err(error) => Err(error),
    };
    let cleared = clear_runtime(context, &context.layout.vm(id)).await;
    killed.and(cleared)
}

/// What an instance's end means, in words.
pub(super) fn describe(ended: &Ended) -> String {
    let who = super::boot::part_name(ended.part);
    let Some(status) = ended.status else {
        return match ended.part {
            Part::Vmm => "the guest powered off or its VMM ended".to_owned(),
            Part::Vsock | Part::Console | Part::Network => format!("{who} ended"),
        };
    };
    match (ended.part, status.code(), status.signal()) {
        (Part::Vmm, Some(0), _) => "the guest powered off".to_owned(),
        (Part::Console, ..) if halted(ended) => "the guest powered off".to_owned(),
        (_, Some(code), _) => format!("{who} ended with exit code {code}"),
        // Nobody of ours: whoever kills on request says so.
        (_, _, Some(9)) => format!(
            "{who} was killed by signal 9, as the kernel does when memory runs out (`sudo dmesg | \
             grep -i oom` tells)"
        ),
        (_, _, Some(signal)) => format!("{who} was killed by signal {signal}"),
        _ => format!("{who} ended"),
    }
}

/// Whether the guest is down and its VMM is not.
fn halted(ended: &Ended) -> bool {
    ended.status.and_then(|status| status.code()) == Some(banger_vmm::HALTED)
}

/// The reason shown for a VM whose instance ended by itself.
pub(super) fn reason(ended: &Ended) -> String {
    match ended.part {
        Part::Vmm => describe(ended),
        Part::Console if halted(ended) => describe(ended),
        Part::Vsock | Part::Console | Part::Network => {
            format!("{}, so the VM was stopped", describe(ended))
        }
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
        let ended = match failpoint::pass("end the processes").await {
            Ok(()) => instance.kill().await,
            Err(error) => Err(error),
        };
        failures.extend(ended.err());
    }
    failures.extend(kill_strays(context, id).await);
    for dir in [files.runtime.clone(), files.dir.clone()] {
        let removed = context.blocking(move |_| remove_vm_tree(&dir)).await;
        failures.extend(removed.err());
    }
    if failures.is_empty() {
        let row = id.clone();
        let removed = context.blocking(move |c| {
            failpoint::hit("remove the row")?;
            c.store.remove(&row)
        });
        failures.extend(removed.await.err());
    }
    let messages: Vec<String> = failures.iter().map(Error::chain).collect();
    match failures.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(Error::new(first.code(), messages.join("; "))
            .hint("put that right and delete the VM again")),
    }
}

/// Ends whatever runs for this VM and removes its runtime directory.
///
/// # Errors
/// The first failure.
pub(super) async fn clear(context: &Arc<Context>, id: &VmId) -> Result<()> {
    let failures = kill_strays(context, id).await;
    let cleared = clear_runtime(context, &context.layout.vm(id)).await;
    failures.into_iter().next().map_or(Ok(()), Err).and(cleared)
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
            let ended = match failpoint::pass("end processes nobody knew of").await {
                Ok(()) => stray.kill().await,
                Err(error) => Err(error),
            };
            failures.extend(ended.err());
        }
    }
    failures
}

fn remove_vm_tree(dir: &Path) -> Result<()> {
    let removed = failpoint::hit("remove a directory").and_then(|()| remove_tree(dir));
    removed.map_err(|error| {
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

#[cfg(test)]
mod tests;
