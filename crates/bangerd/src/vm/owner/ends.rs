//! The jobs of an owner that bring its VM down or change it: stopping, killing, changing and
//! deleting it.

use std::sync::Arc;

use banger_api::{KillSignal, OperationKind, SetVm};
use banger_model::{Code, Error, Result, VmState};
use banger_store::{Intent, VmRow};
use banger_vmm::Instance;
use tokio_util::sync::CancellationToken;

use super::super::ending::KillSwitch;
use super::super::save::{self, Saving};
use super::super::view::Shared;
use super::super::{change, ending};
use super::Owner;
use super::jobs::{Outcome, Rest, progress_of, scope_of};
use crate::context::Context;
use crate::failpoint::{self, Scope};
use crate::operations::Running;

impl Owner {
    pub(super) fn begin_stop(&mut self, operation: Option<Running>) {
        let (context, row) = (self.context.clone(), self.row.clone());
        let instance = self.instance.take();
        let progress = progress_of(operation.as_ref());
        let (kill, mut switch) = KillSwitch::new();
        let work = async move {
            progress.stage("stop", &format!("stopping VM {}", row.name));
            let stopped = match &instance {
                Some(instance) => ending::stop(&context, &row.id, instance, &mut switch).await,
                None => Ok(None),
            };
            (row, down(stopped))
        };
        let interrupt = CancellationToken::new();
        let scope = scope_of(operation.as_ref(), OperationKind::StopVm);
        self.start_job(scope, work, operation, (interrupt, kill), false);
    }

    pub(super) fn begin_kill(&mut self, signal: KillSignal, operation: Option<Running>) {
        let (context, row) = (self.context.clone(), self.row.clone());
        let instance = self.instance.take();
        let progress = progress_of(operation.as_ref());
        let (kill, mut switch) = KillSwitch::new();
        let work = async move {
            progress.stage("kill", &format!("killing VM {}", row.name));
            let killed = match &instance {
                Some(instance) => {
                    ending::kill(&context, &row.id, instance, signal, &mut switch).await
                }
                None => Ok(None),
            };
            (row, down(killed))
        };
        let interrupt = CancellationToken::new();
        let scope = scope_of(operation.as_ref(), OperationKind::KillVm);
        self.start_job(scope, work, operation, (interrupt, kill), false);
    }

    pub(super) fn begin_set(&mut self, change: SetVm, operation: Option<Running>) {
        let (context, mut row) = (self.context.clone(), self.row.clone());
        let progress = progress_of(operation.as_ref());
        let (kill, _) = KillSwitch::new();
        let work = async move {
            progress.stage("set", &format!("changing VM {}", row.name));
            let result = change::apply(&context, &mut row, &change).await;
            let outcome = Outcome {
                rest: Rest::Down(row.stop_reason.clone()),
                result,
            };
            (row, outcome)
        };
        let interrupt = CancellationToken::new();
        let scope = scope_of(operation.as_ref(), OperationKind::SetVm);
        self.start_job(scope, work, operation, (interrupt, kill), false);
    }

    /// Deletes a VM whose work is saved first, unless it is to be lost. If that fails, the VM is
    /// afterwards what it was `before`.
    pub(super) fn begin_delete(
        &mut self,
        discard: bool,
        before: (VmState, Option<String>),
        operation: Option<Running>,
    ) {
        let scope = scope_of(operation.as_ref(), OperationKind::DeleteVm);
        let before = (self.has_work() && !discard).then_some(before);
        self.begin_removal(operation, scope, before);
    }

    /// Whether there may be work in it. One that is being removed has been through this.
    pub(super) fn has_work(&self) -> bool {
        self.row.workspace.is_some() && self.row.intent == Intent::Present
    }

    /// Removes a VM, with the failpoints counted in this scope. Its work is saved first where
    /// there is a state to go back to.
    pub(super) fn begin_removal(
        &mut self,
        operation: Option<Running>,
        scope: Scope,
        before: Option<(VmState, Option<String>)>,
    ) {
        let (context, shared) = (self.context.clone(), self.shared.clone());
        let mut row = self.row.clone();
        // It stays the owner's: the VM may stay.
        let instance = self.instance.clone();
        let progress = progress_of(operation.as_ref());
        let reporter = operation.as_ref().map(Running::reporter);
        let (kill, _) = KillSwitch::new();
        let interrupt = CancellationToken::new();
        let cancel = interrupt.clone();
        let may_be_undone = before.is_some();
        let work = async move {
            if let Some((state, reason)) = before {
                let saving = Saving {
                    context: &context,
                    row: &row,
                    shared: &shared,
                    instance: instance.as_deref(),
                    progress: &*progress,
                    interrupt: &cancel,
                };
                match save::save(saving).await {
                    Ok(saved) => {
                        if let (Some(saved), Some(reporter)) = (saved, reporter) {
                            reporter.saved(saved);
                        }
                    }
                    Err(error) => {
                        if error.code() != Code::Cancelled {
                            keep(&context, &mut row, &shared).await;
                        }
                        let rest = Rest::Stays(state, reason);
                        let result = Err(error);
                        return (row, Outcome { rest, result });
                    }
                }
            }
            row.intent = Intent::Deleting;
            progress.stage("delete", &format!("deleting VM {}", row.name));
            let rest = remove(&context, &row, instance.as_deref()).await;
            let result = match &rest {
                Rest::Broken(reason) => Err(Error::new(
                    Code::Io,
                    format!("VM `{}` could not be removed: {reason}", row.name),
                )
                .hint(format!(
                    "put that right, then `banger vm delete {}` again",
                    row.name
                ))),
                Rest::Up(_) | Rest::Down(_) | Rest::Stays(..) | Rest::Gone => Ok(()),
            };
            (row, Outcome { rest, result })
        };
        self.start_job(scope, work, operation, (interrupt, kill), may_be_undone);
    }
}

/// Has a VM that was to be deleted kept although nobody holds a lease on it.
async fn keep(context: &Arc<Context>, row: &mut VmRow, shared: &Shared) {
    if !row.ephemeral {
        return;
    }
    tracing::warn!("this ephemeral VM is kept, for the work in it");
    let id = row.id.clone();
    let written = context.blocking(move |c| {
        failpoint::hit("write that it is kept")?;
        c.store.set_lasting(&id)
    });
    if let Err(error) = written.await {
        // The next daemon tries to save the work again.
        tracing::warn!("that it is kept is not recorded: {}", error.chain());
    }
    row.ephemeral = false;
    shared.change(|vm| vm.ephemeral = false);
}

/// A VM that was brought down, with the reason to show.
fn down(result: Result<Option<String>>) -> Outcome {
    match result {
        Ok(reason) => Outcome {
            rest: Rest::Down(reason),
            result: Ok(()),
        },
        Err(error) => Outcome::broken(error),
    }
}

/// Removes a VM, writing the intent first. A failure is recorded with the row.
pub(super) async fn remove(
    context: &Arc<Context>,
    row: &VmRow,
    instance: Option<&Instance>,
) -> Rest {
    let id = row.id.clone();
    let intended = context
        .blocking(move |c| {
            failpoint::hit("write that it is to be deleted")?;
            c.store.set_intent(&id, Intent::Deleting)
        })
        .await;
    if let Err(error) = intended {
        // Removing may be just what makes room for writing.
        tracing::warn!("the intent to delete is not recorded: {}", error.chain());
    }
    let Err(error) = ending::remove(context, &row.id, instance).await else {
        return Rest::Gone;
    };
    let reason = error.chain();
    tracing::error!("removal failed: {reason}");
    let (id, why) = (row.id.clone(), reason.clone());
    let recorded = context
        .blocking(move |c| {
            failpoint::hit("write why it is broken")?;
            c.store.set_broken(&id, &why)
        })
        .await;
    if let Err(error) = recorded {
        tracing::warn!("the failure is not recorded: {}", error.chain());
    }
    Rest::Broken(reason)
}
