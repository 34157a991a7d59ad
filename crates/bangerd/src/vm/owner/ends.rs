//! The jobs of an owner that bring its VM down or change it: stopping, killing, changing and
//! deleting it.

use std::sync::Arc;

use banger_api::{KillSignal, OperationKind, SetVm};
use banger_model::{Code, Error, Result};
use banger_store::{Intent, VmRow};
use banger_vmm::Instance;
use tokio_util::sync::CancellationToken;

use super::super::ending::KillSwitch;
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

    pub(super) fn begin_delete(&mut self, operation: Option<Running>) {
        let scope = scope_of(operation.as_ref(), OperationKind::DeleteVm);
        self.begin_removal(operation, scope);
    }

    /// As [`Owner::begin_delete`], with the failpoints counted in this scope.
    pub(super) fn begin_removal(&mut self, operation: Option<Running>, scope: Scope) {
        let (context, row) = (self.context.clone(), self.row.clone());
        let instance = self.instance.take();
        let progress = progress_of(operation.as_ref());
        let (kill, _) = KillSwitch::new();
        let work = async move {
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
                Rest::Up(_) | Rest::Down(_) | Rest::Gone => Ok(()),
            };
            (row, Outcome { rest, result })
        };
        let interrupt = CancellationToken::new();
        self.start_job(scope, work, operation, (interrupt, kill), false);
    }
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
