//! The jobs of an owner: making, starting, stopping and deleting its VM, each in a task of its
//! own that knows nothing of the others.

use std::future::pending;
use std::sync::Arc;

use banger_model::{Code, Error, Progress, Quiet, Result};
use banger_store::{Intent, VmRow};
use banger_vmm::Instance;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::super::boot::{self, Boot, Up};
use super::super::view::Shared;
use super::super::{create, ending};
use super::Owner;
use crate::context::Context;
use crate::operations::Running;

/// The work in progress.
pub(super) struct Job {
    pub(super) task: JoinHandle<(VmRow, Outcome)>,
    pub(super) operation: Option<Running>,
    pub(super) interrupt: CancellationToken,
    /// Whether a daemon that stops may leave it in the middle.
    pub(super) may_be_left: bool,
    /// Whether a daemon that stops has it undone.
    pub(super) may_be_undone: bool,
}

/// How a job ended: the state of the VM, and of its operation.
pub(super) struct Outcome {
    pub(super) rest: Rest,
    pub(super) result: Result<()>,
}

pub(super) enum Rest {
    Up(Up),
    Down(Option<String>),
    Gone,
    Broken(String),
}

impl Owner {
    pub(super) fn begin_create(&mut self, operation: Running, start: bool) {
        let (context, shared) = (self.context.clone(), self.shared.clone());
        let mut row = self.row.clone();
        let reporter = operation.reporter();
        let cancel = operation.cancel_token().clone();
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
                        rest: remove(&context, &row, None).await,
                        result: Err(error),
                    }
                }
            };
            (row, outcome)
        };
        self.start_job(work, Some(operation), None, true);
    }

    pub(super) fn begin_start(&mut self, operation: Option<Running>) {
        let (context, shared) = (self.context.clone(), self.shared.clone());
        let row = self.row.clone();
        let progress = progress_of(operation.as_ref());
        let cancel = cancel_of(operation.as_ref());
        let interrupt = cancel.clone();
        let work = async move {
            let started = start(&context, &row, &shared, &*progress, &cancel).await;
            let outcome = match started {
                Ok(up) => Outcome {
                    rest: Rest::Up(up),
                    result: Ok(()),
                },
                Err(error) => {
                    let reason = match error.code() {
                        Code::Cancelled => "its start was cancelled".to_owned(),
                        _ => error.message().to_owned(),
                    };
                    Outcome {
                        rest: Rest::Down(Some(reason)),
                        result: Err(error),
                    }
                }
            };
            (row, outcome)
        };
        self.start_job(work, operation, Some(interrupt), true);
    }

    pub(super) fn begin_watch(&mut self, instance: Arc<Instance>) {
        self.shared.set_instance(Some(&instance));
        let (context, shared) = (self.context.clone(), self.shared.clone());
        let row = self.row.clone();
        let interrupt = CancellationToken::new();
        let cancel = interrupt.clone();
        let work = async move {
            tracing::info!("watching a VM whose agent does not answer yet");
            let watched = watch(&context, &row, &shared, &cancel, instance.clone()).await;
            let rest = match watched {
                Ok(up) => Rest::Up(up),
                Err(error) => {
                    tracing::warn!("it did not come up: {}", error.chain());
                    match ending::end(&context, &row.id, &instance).await {
                        Ok(()) => Rest::Down(Some(error.message().to_owned())),
                        Err(error) => Rest::Broken(error.chain()),
                    }
                }
            };
            let outcome = Outcome {
                rest,
                result: Ok(()),
            };
            (row, outcome)
        };
        self.start_job(work, None, Some(interrupt), false);
        if let Some(job) = &mut self.job {
            job.may_be_left = true;
        }
    }

    pub(super) fn begin_stop(&mut self, operation: Option<Running>) {
        let context = self.context.clone();
        let row = self.row.clone();
        let instance = self.instance.take();
        let progress = progress_of(operation.as_ref());
        let work = async move {
            progress.stage("stop", &format!("stopping VM {}", row.name));
            let stopped = match &instance {
                Some(instance) => ending::stop(&context, &row.id, instance).await,
                None => Ok(None),
            };
            let outcome = match stopped {
                Ok(reason) => Outcome {
                    rest: Rest::Down(reason),
                    result: Ok(()),
                },
                Err(error) => Outcome {
                    rest: Rest::Broken(error.chain()),
                    result: Err(error),
                },
            };
            (row, outcome)
        };
        self.start_job(work, operation, None, false);
    }

    pub(super) fn begin_delete(&mut self, operation: Option<Running>) {
        let context = self.context.clone();
        let row = self.row.clone();
        let instance = self.instance.take();
        let progress = progress_of(operation.as_ref());
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
        self.start_job(work, operation, None, false);
    }

    /// `interrupt` is the operation's own token unless one is given.
    fn start_job(
        &mut self,
        work: impl Future<Output = (VmRow, Outcome)> + Send + 'static,
        operation: Option<Running>,
        interrupt: Option<CancellationToken>,
        may_be_undone: bool,
    ) {
        let span = match &operation {
            Some(operation) => operation.span().clone(),
            None => tracing::Span::current(),
        };
        self.job = Some(Job {
            task: tokio::spawn(work.instrument(span)),
            interrupt: interrupt.unwrap_or_else(|| cancel_of(operation.as_ref())),
            operation,
            may_be_left: false,
            may_be_undone,
        });
    }
}

async fn start(
    context: &Arc<Context>,
    row: &VmRow,
    shared: &Shared,
    progress: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Up> {
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
    };
    boot::resume(boot, instance).await
}

/// Removes a VM, writing the intent first. A failure is recorded with the row.
async fn remove(context: &Arc<Context>, row: &VmRow, instance: Option<&Instance>) -> Rest {
    let id = row.id.clone();
    let intended = context
        .blocking(move |c| c.store.set_intent(&id, Intent::Deleting))
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
        .blocking(move |c| c.store.set_broken(&id, &why))
        .await;
    if let Err(error) = recorded {
        tracing::warn!("the failure is not recorded: {}", error.chain());
    }
    Rest::Broken(reason)
}

fn progress_of(operation: Option<&Running>) -> Box<dyn Progress> {
    match operation {
        Some(operation) => Box::new(operation.reporter()),
        None => Box::new(Quiet),
    }
}

fn cancel_of(operation: Option<&Running>) -> CancellationToken {
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
