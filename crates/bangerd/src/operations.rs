//! Operations: work that goes on whether or not its client stays.
//!
//! In memory only. What a restart must know is intent, and that is in the database. Each
//! operation is a watched snapshot: whoever asks sees the present one first, then changes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_api::{ErrorBody, Operation, OperationKind, OperationState, SavedWork, Stage};
use banger_model::{Code, Error, Progress, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::failpoint::Scope;
use crate::random;

/// How many finished operations are remembered.
const FINISHED_MAX: usize = 256;

/// All operations of one daemon. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Operations {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<String, Entry>,
    finished: VecDeque<String>,
}

#[derive(Debug, Clone)]
struct Entry {
    snapshot: watch::Sender<Operation>,
    cancel: CancellationToken,
}

impl Operations {
    /// Registers an operation that begins now.
    pub(crate) fn begin(
        &self,
        kind: OperationKind,
        subject: &str,
        vm_id: Option<&str>,
    ) -> Result<Running> {
        let id = random::hex(4)?;
        let entry = Entry {
            snapshot: watch::Sender::new(Operation {
                id: id.clone(),
                kind,
                subject: subject.to_owned(),
                vm_id: vm_id.map(str::to_owned),
                state: OperationState::Running,
                stage: None,
                warnings: Vec::new(),
                error: None,
                saved: None,
            }),
            cancel: CancellationToken::new(),
        };
        let span = tracing::info_span!("op", op = %id);
        tracing::info!(parent: &span, ?kind, subject, vm = vm_id, "operation begins");
        self.table().entries.insert(id.clone(), entry.clone());
        Ok(Running {
            operations: self.clone(),
            id,
            entry,
            span,
            scope: Scope::new(word(kind)),
            ended: false,
        })
    }

    /// The operation as it is now.
    pub(crate) fn get(&self, id: &str) -> Result<Operation> {
        Ok(self.entry(id)?.snapshot.borrow().clone())
    }

    /// The operation as it is now and every change from now on.
    pub(crate) fn watch(&self, id: &str) -> Result<watch::Receiver<Operation>> {
        Ok(self.entry(id)?.snapshot.subscribe())
    }

    /// Asks for the operation's end. One that has ended stays as it is.
    pub(crate) fn cancel(&self, id: &str) -> Result<Operation> {
        let entry = self.entry(id)?;
        let operation = entry.snapshot.borrow().clone();
        if operation.state != OperationState::Running {
            return Ok(operation);
        }
        match operation.kind {
            OperationKind::StopVm
            | OperationKind::KillVm
            | OperationKind::SetVm
            | OperationKind::DeleteImage
            | OperationKind::DeleteVm
            | OperationKind::DeleteKernel => Err(Error::new(
                Code::Conflict,
                format!(
                    "an operation `{}` cannot be cancelled",
                    word(operation.kind)
                ),
            )
            .hint("wait for its end")),
            OperationKind::CreateVm
            | OperationKind::StartVm
            | OperationKind::RestartVm
            | OperationKind::PullImage
            | OperationKind::RegisterImage
            | OperationKind::LoadImage
            | OperationKind::PromoteVm
            | OperationKind::PullKernel
            | OperationKind::ImportKernel => {
                tracing::info!(op = %operation.id, "cancellation is asked for");
                entry.cancel.cancel();
                Ok(operation)
            }
        }
    }

    /// Asks for the end of every operation that can be cancelled.
    pub(crate) fn cancel_all(&self) {
        let ids: Vec<String> = self.table().entries.keys().cloned().collect();
        for id in ids {
            if let Err(error) = self.cancel(&id) {
                tracing::debug!(op = %id, %error, "not cancelled");
            }
        }
    }

    fn entry(&self, id: &str) -> Result<Entry> {
        self.table().entries.get(id).cloned().ok_or_else(|| {
            Error::new(
                Code::NotFound,
                format!("there is no operation `{}`", id.escape_debug()),
            )
            .hint("the daemon remembers operations only while it runs, and the last 256 that ended")
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The word for a kind, as in JSON.
pub(crate) fn word(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::CreateVm => "create-vm",
        OperationKind::StartVm => "start-vm",
        OperationKind::StopVm => "stop-vm",
        OperationKind::RestartVm => "restart-vm",
        OperationKind::KillVm => "kill-vm",
        OperationKind::SetVm => "set-vm",
        OperationKind::DeleteVm => "delete-vm",
        OperationKind::PullImage => "pull-image",
        OperationKind::RegisterImage => "register-image",
        OperationKind::LoadImage => "load-image",
        OperationKind::PromoteVm => "promote-vm",
        OperationKind::DeleteImage => "delete-image",
        OperationKind::PullKernel => "pull-kernel",
        OperationKind::ImportKernel => "import-kernel",
        OperationKind::DeleteKernel => "delete-kernel",
    }
}

/// An operation in progress: whoever holds it does the work and must say how it ended. One
/// that is dropped without that, because the work panicked, ends as an internal error.
#[derive(Debug)]
pub(crate) struct Running {
    operations: Operations,
    id: String,
    entry: Entry,
    span: Span,
    scope: Scope,
    ended: bool,
}

impl Running {
    /// Its id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Fires when the operation is to end early.
    pub(crate) fn cancel_token(&self) -> &CancellationToken {
        &self.entry.cancel
    }

    /// The span that puts the operation's id on log lines.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// The scope in which its failpoints are counted.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The operation as it is now.
    pub(crate) fn snapshot(&self) -> Operation {
        self.entry.snapshot.borrow().clone()
    }

    /// Shows another name for what it is about.
    pub(crate) fn set_subject(&self, subject: &str) {
        self.entry.snapshot.send_if_modified(|operation| {
            let changed = operation.subject != subject;
            if changed {
                operation.subject = subject.to_owned();
            }
            changed
        });
    }

    /// A handle that reports progress only.
    pub(crate) fn reporter(&self) -> Reporter {
        Reporter {
            snapshot: self.entry.snapshot.clone(),
            span: self.span.clone(),
        }
    }

    /// Ends it. A failure gets the operation's id, and is returned so.
    pub(crate) fn end(mut self, result: Result<()>) -> Result<()> {
        self.finish(result)
    }

    fn finish(&mut self, result: Result<()>) -> Result<()> {
        self.ended = true;
        let result = result.map_err(|error| error.operation(self.id.clone()));
        let _in_span = self.span.enter();
        match &result {
            Ok(()) => tracing::info!("operation succeeded"),
            Err(error) if error.code() == Code::Cancelled => {
                tracing::info!("operation cancelled: {}", error.chain());
            }
            Err(error) => {
                tracing::error!(
                    code = error.code().as_str(),
                    "operation failed: {}",
                    error.chain()
                );
            }
        }
        self.entry.snapshot.send_modify(|operation| match &result {
            Ok(()) => operation.state = OperationState::Succeeded,
            Err(error) => {
                operation.state = OperationState::Failed;
                operation.error = Some(ErrorBody::from(error));
            }
        });
        let mut table = self.operations.table();
        table.finished.push_back(self.id.clone());
        while table.finished.len() > FINISHED_MAX {
            if let Some(oldest) = table.finished.pop_front() {
                table.entries.remove(&oldest);
            }
        }
        drop(table);
        result
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let given_up = Error::internal("the operation was given up without a result");
            // Its end is recorded where clients look; nobody is left to hand it to.
            self.finish(Err(given_up)).ok();
        }
    }
}

/// Reports the progress of an operation.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    snapshot: watch::Sender<Operation>,
    span: Span,
}

impl Reporter {
    /// Shows work that was saved.
    pub(crate) fn saved(&self, saved: SavedWork) {
        self.snapshot
            .send_modify(|operation| operation.saved = Some(saved));
    }
}

impl Progress for Reporter {
    fn stage(&self, name: &str, message: &str) {
        self.snapshot.send_if_modified(|operation| {
            let same = operation
                .stage
                .as_ref()
                .is_some_and(|stage| stage.name == name && stage.message == message);
            if !same {
                tracing::info!(parent: &self.span, stage = name, "{message}");
                operation.stage = Some(Stage {
                    name: name.to_owned(),
                    message: message.to_owned(),
                    fraction: None,
                });
            }
            !same
        });
    }

    fn fraction(&self, done: f32) {
        self.snapshot.send_if_modified(|operation| {
            let Some(stage) = &mut operation.stage else {
                return false;
            };
            // Whole per mille are more than any display shows.
            let done = (done.clamp(0.0, 1.0) * 1000.0).round() / 1000.0;
            let changed = stage.fraction != Some(done);
            stage.fraction = Some(done);
            changed
        });
    }

    fn warn(&self, warning: &str) {
        self.snapshot
            .send_modify(|operation| operation.warnings.push(warning.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(operations: &Operations, kind: OperationKind) -> Running {
        operations.begin(kind, "box", None).unwrap()
    }

    #[test]
    fn an_error_carries_the_operations_id() {
        let operations = Operations::default();
        let running = begin(&operations, OperationKind::StartVm);
        let id = running.id().to_owned();
        let error = running
            .end(Err(Error::new(Code::BootFailed, "no")))
            .unwrap_err();
        assert_eq!(error.op_id(), Some(id.as_str()));
        let operation = operations.get(&id).unwrap();
        assert_eq!(operation.state, OperationState::Failed);
        assert_eq!(operation.error.unwrap().op_id, Some(id));
    }

    #[test]
    fn an_operation_given_up_is_a_failure() {
        let operations = Operations::default();
        let running = begin(&operations, OperationKind::StartVm);
        let id = running.id().to_owned();
        drop(running);
        let operation = operations.get(&id).unwrap();
        assert_eq!(operation.error.unwrap().code, Code::Internal);
    }

    #[test]
    fn watchers_see_the_present_first_and_every_final_state() {
        let operations = Operations::default();
        let running = begin(&operations, OperationKind::CreateVm);
        let mut watcher = operations.watch(running.id()).unwrap();
        assert_eq!(watcher.borrow_and_update().stage, None);
        let reporter = running.reporter();
        reporter.fraction(0.5);
        assert!(!watcher.has_changed().unwrap(), "no stage, no fraction");
        reporter.stage("boot", "booting");
        reporter.fraction(7.0);
        assert_eq!(
            watcher.borrow_and_update().stage,
            Some(Stage {
                name: "boot".into(),
                message: "booting".into(),
                fraction: Some(1.0)
            })
        );
        reporter.stage("boot", "booting");
        assert!(!watcher.has_changed().unwrap(), "nothing changed");
        running.end(Ok(())).unwrap();
        assert_eq!(watcher.borrow_and_update().state, OperationState::Succeeded);
    }

    #[test]
    fn warnings_stay_with_the_operation() {
        let operations = Operations::default();
        let running = begin(&operations, OperationKind::StartVm);
        let mut watcher = operations.watch(running.id()).unwrap();
        let reporter = running.reporter();
        reporter.warn("one");
        assert_eq!(watcher.borrow_and_update().warnings, ["one"]);
        reporter.stage("boot", "booting");
        reporter.warn("two");
        let id = running.id().to_owned();
        running.end(Ok(())).unwrap();
        assert_eq!(operations.get(&id).unwrap().warnings, ["one", "two"]);
    }

    #[test]
    fn only_what_can_be_undone_can_be_cancelled() {
        let operations = Operations::default();
        for (kind, can) in [
            (OperationKind::CreateVm, true),
            (OperationKind::StartVm, true),
            (OperationKind::PullImage, true),
            (OperationKind::RegisterImage, true),
            (OperationKind::LoadImage, true),
            (OperationKind::PromoteVm, true),
            (OperationKind::DeleteImage, false),
            (OperationKind::PullKernel, true),
            (OperationKind::ImportKernel, true),
            (OperationKind::DeleteKernel, false),
            (OperationKind::RestartVm, true),
            (OperationKind::StopVm, false),
            (OperationKind::KillVm, false),
            (OperationKind::SetVm, false),
            (OperationKind::DeleteVm, false),
        ] {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{}\"", word(kind)));
            let running = begin(&operations, kind);
            assert_eq!(operations.cancel(running.id()).is_ok(), can, "{kind:?}");
            assert_eq!(running.cancel_token().is_cancelled(), can, "{kind:?}");
            let id = running.id().to_owned();
            running.end(Ok(())).unwrap();
            // Too late is no error: the client sees how it ended.
            assert_eq!(
                operations.cancel(&id).unwrap().state,
                OperationState::Succeeded
            );
        }
        assert_eq!(
            operations.cancel("nothing").unwrap_err().code(),
            Code::NotFound
        );
    }

    #[test]
    fn the_memory_of_finished_operations_is_bounded() {
        let operations = Operations::default();
        let unfinished = begin(&operations, OperationKind::StartVm);
        let mut ids = Vec::new();
        for _ in 0..FINISHED_MAX + 10 {
            let running = begin(&operations, OperationKind::StartVm);
            ids.push(running.id().to_owned());
            running.end(Ok(())).unwrap();
        }
        assert_eq!(operations.table().entries.len(), FINISHED_MAX + 1);
        assert!(operations.get(&ids[0]).is_err());
        assert!(operations.get(ids.last().unwrap()).is_ok());
        assert!(operations.get(unfinished.id()).is_ok());
    }
}
