//! The jobs of an owner that bring its VM up: making, starting, restarting and watching it. Each
//! is a task of its own that knows nothing of the others; [`super::ends`] has the rest.

use std::future::pending;
use std::sync::Arc;

use banger_api::{KillSignal, OperationKind};
use banger_model::{Code, Error, Progress, Quiet, Result, VmState};
use banger_store::VmRow;
use banger_vmm::Instance;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::super::boot::{self, Boot, Up};
use super::super::ending::KillSwitch;
use super::super::view::Shared;
use super::super::{Request, create, ending};
use super::{Owner, ends};
use crate::context::Context;
use crate::failpoint::{self, Scope};
use crate::operations::{Running, word};

/// The work in progress.
pub(super) struct Job {
    pub(super) task: JoinHandle<(VmRow, Outcome)>,
    pub(super) operation: Option<Running>,
    /// In which its failpoints are counted.
    pub(super) scope: Scope,
    interrupt: CancellationToken,
    kill: watch::Sender<Option<KillSignal>>,
    /// Whether a daemon that stops may leave it in the middle.
    pub(super) may_be_left: bool,
    /// Whether a daemon that stops has it undone.
    pub(super) may_be_undone: bool,
}

impl Job {
    /// Makes it end early, because of a request that interrupts it.
    pub(super) fn give_way(&self, request: &Request) {
        if let Request::Kill(signal) = request {
            self.kill.send_replace(Some(*signal));
        }
        self.interrupt.cancel();
    }

    /// Makes it end early, because the daemon stops.
    pub(super) fn undo(&self) {
        self.interrupt.cancel();
    }
}

/// How a job ended: the state of the VM, and of its operation.
pub(super) struct Outcome {
    pub(super) rest: Rest,
    pub(super) result: Result<()>,
}

impl Outcome {
    /// Something is left that should not be.
    pub(super) fn broken(error: Error) -> Outcome {
        Outcome {
            rest: Rest::Broken(error.chain()),
            result: Err(error),
        }
    }
}

pub(super) enum Rest {
    Up(Up),
    Down(Option<String>),
    /// It is what it was, and was not to be any more.
    Stays(VmState, Option<String>),
    Gone,
    Broken(String),
}

impl Owner {
    pub(super) fn begin_create(&mut self, operation: Running, start: bool) {
        let (context, shared) = (self.context.clone(), self.shared.clone());
        let mut row = self.row.clone();
        let reporter = operation.reporter();
        let cancel = operation.cancel_token().clone();
        let interrupt = cancel.clone();
        let (kill, _) = KillSwitch::new();
        let work = async move {
            let progress: &dyn Progress = &reporter;
            let made = create::create(&context, &mut row, &shared, (progress, &cancel), start);
            let outcome = match made.await {
                Ok(Some(up)) => Outcome {
                    rest: Rest::Up(up),
                    result: Ok(()),
                },
                Ok(None) => Outcome {
                    rest: Rest::Down(None),
                    result: Ok(()),
                },
                Err(error) => {
                    progress.stage("undo", "removing what was made");
                    Outcome {
                        rest: ends::remove(&context, &row, None).await,
                        result: Err(error),
                    }
                }
            };
            (row, outcome)
        };
        self.start_job(
            operation.scope().clone(),
            work,
            Some(operation),
            (interrupt, kill),
            true,
        );
    }

    /// Starts a VM, after stopping it where it runs: that is a restart.
    pub(super) fn begin_start(&mut self, operation: Option<Running>) {
        let (context, shared) = (self.context.clone(), self.shared.clone());
        let mut row = self.row.clone();
        let instance = self.instance.take();
        let kind = match &instance {
            Some(_) => OperationKind::RestartVm,
            None => OperationKind::StartVm,
        };
        let progress = progress_of(operation.as_ref());
        let cancel = cancel_of(operation.as_ref());
        let interrupt = cancel.clone();
        let (kill, mut switch) = KillSwitch::new();
        let work = async move {
            if let Some(instance) = instance {
                progress.stage("stop", &format!("stopping VM {}", row.name));
                let stopped = ending::stop(&context, &row.id, &instance, &mut switch).await;
                let reason = match stopped {
                    Ok(reason) => reason,
                    Err(error) => return (row, Outcome::broken(error)),
                };
                shared.set_instance(None);
                if cancel.is_cancelled() {
                    let outcome = Outcome {
                        rest: Rest::Down(reason),
                        result: Err(Error::cancelled()),
                    };
                    return (row, outcome);
                }
                shared.set_state(VmState::Starting, None);
            }
            let started = start(&context, &mut row, &shared, &*progress, &cancel).await;
            let outcome = match started {
                Ok(up) => Outcome {
                    rest: Rest::Up(up),
                    result: Ok(()),
                },
                Err(error) => not_started(&context, &row, &switch, error).await,
            };
            (row, outcome)
        };
        let scope = scope_of(operation.as_ref(), kind);
        self.start_job(scope, work, operation, (interrupt, kill), true);
    }

    /// Watches a VM that an earlier daemon started, until its agent answers.
    pub(super) fn begin_watch(&mut self, instance: Arc<Instance>) {
        self.shared.set_instance(Some(&instance));
        let (context, shared) = (self.context.clone(), self.shared.clone());
        let row = self.row.clone();
        let interrupt = CancellationToken::new();
        let cancel = interrupt.clone();
        let (kill, switch) = KillSwitch::new();
        let work = async move {
            tracing::info!("watching a VM whose agent does not answer yet");
            let watched = watch(&context, &row, &shared, &cancel, instance.clone()).await;
            let outcome = match watched {
                Ok(up) => Outcome {
                    rest: Rest::Up(up),
                    result: Ok(()),
                },
                Err(error) => {
                    tracing::warn!("it did not come up: {}", error.chain());
                    if let Err(error) = ending::end(&context, &row.id, &instance).await {
                        tracing::warn!("it is not ended: {}", error.chain());
                    }
                    not_started(&context, &row, &switch, error).await
                }
            };
            (row, outcome)
        };
        let scope = scope_of(None, OperationKind::StartVm);
        self.start_job(scope, work, None, (interrupt, kill), false);
        if let Some(job) = &mut self.job {
            job.may_be_left = true;
        }
    }

    /// Carries out the work in a task of its own. `interrupt` fires when it is to end early,
    /// and the other one says when the VM is to be killed.
    pub(super) fn start_job(
        &mut self,
        scope: Scope,
        work: impl Future<Output = (VmRow, Outcome)> + Send + 'static,
        operation: Option<Running>,
        (interrupt, kill): (CancellationToken, watch::Sender<Option<KillSignal>>),
        may_be_undone: bool,
    ) {
        let span = match &operation {
            Some(operation) => operation.span().clone(),
            None => tracing::Span::current(),
        };
        let work = failpoint::within(scope.clone(), work).instrument(span);
        self.job = Some(Job {
            task: tokio::spawn(work),
            scope,
            interrupt,
            kill,
            operation,
            may_be_left: false,
            may_be_undone,
        });
    }
}

/// What becomes of a VM that did not come up: nothing of the attempt is left, or it is broken.
async fn not_started(
    context: &Arc<Context>,
    row: &VmRow,
    switch: &KillSwitch,
    error: Error,
) -> Outcome {
    let rest = match ending::clear(context, &row.id).await {
        Ok(()) => Rest::Down(Some(match error.code() {
            _ if switch.is_used() => ending::KILLED.to_owned(),
            Code::Cancelled => "its start was cancelled".to_owned(),
            _ => error.message().to_owned(),
        })),
        Err(left) => {
            tracing::error!("what was started is not ended: {}", left.chain());
            Rest::Broken(left.chain())
        }
    };
    Outcome {
        rest,
        result: Err(error),
    }
}

/// Records why a VM stopped, so that the next daemon knows it too.
pub(super) async fn keep_reason(context: &Arc<Context>, row: &mut VmRow, reason: Option<String>) {
    if row.stop_reason == reason {
        return;
    }
    let (id, kept) = (row.id.clone(), reason.clone());
    let written = context.blocking(move |c| {
        failpoint::hit("write why it stopped")?;
        c.store.set_stop_reason(&id, kept.as_deref())
    });
    match written.await {
        Ok(()) => row.stop_reason = reason,
        // It is shown all the same, until this daemon ends.
        Err(error) => tracing::warn!("why it stopped is not recorded: {}", error.chain()),
    }
}

async fn start(
    context: &Arc<Context>,
    row: &mut VmRow,
    shared: &Shared,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Up> {
    keep_reason(context, row, None).await;
    let (image, kernel, strategy) = create::parts(context, row).await?;
    let boot = Boot {
        context,
        row,
        shared,
        image: &image,
        kernel: &kernel,
        strategy,
        progress,
        cancel,
        only_to_save: false,
        build: None,
    };
    boot::boot(boot).await.map_err(|error| match error.code() {
        Code::BootFailed => error.hint(format!(
            "the whole console log is `{}`",
            context.layout.vm(&row.id).console_log().display()
        )),
        _ => error,
    })
}

async fn watch(
    context: &Arc<Context>,
    row: &VmRow,
    shared: &Shared,
    cancel: &CancellationToken,
    instance: Arc<Instance>,
) -> Result<Up> {
    let (image, kernel, strategy) = create::parts(context, row).await?;
    let boot = Boot {
        context,
        row,
        shared,
        image: &image,
        kernel: &kernel,
        strategy,
        progress: &Quiet,
        cancel,
        only_to_save: false,
        build: None,
    };
    boot::resume(boot, instance).await
}

/// In which the failpoints of a job are counted: with its operation, where it has one.
pub(super) fn scope_of(operation: Option<&Running>, kind: OperationKind) -> Scope {
    match operation {
        Some(operation) => operation.scope().clone(),
        None => Scope::new(word(kind)),
    }
}

pub(super) fn progress_of(operation: Option<&Running>) -> Box<dyn Progress> {
    match operation {
        Some(operation) => Box::new(operation.reporter()),
        None => Box::new(Quiet),
    }
}

pub(super) fn cancel_of(operation: Option<&Running>) -> CancellationToken {
    match operation {
        Some(operation) => operation.cancel_token().clone(),
        None => CancellationToken::new(),
    }
}

/// Waits for the end of the job, for ever when there is none.
pub(super) async fn ended(job: &mut Option<Job>) -> Result<(VmRow, Outcome)> {
    match job {
        Some(job) => (&mut job.task)
            .await
            .map_err(|error| Error::internal("a job was given up").because(error)),
        None => pending().await,
    }
}
