//! The owner of one VM: the only task that changes it.
//!
//! ```text
//!                   ┌──────────┐ failed, cancelled
//!        create ──▶ │ creating │ ─────────────────────────────────────▶ (gone)
//!                   └────┬─────┘                                          ▲
//!            made only   │   made and started                             │
//!              ┌─────────┴─────────┐                                      │
//!              ▼                   ▼      guest or VMM ended              │
//!         ┌─────────┐        ┌─────────┐ ───────────────────┐             │
//!         │ stopped │ ◀──┐   │ running │ ──▶ ┌──────────┐   │             │
//!         └──┬───┬──┘    │   └──┬──────┘stop │ stopping │   │             │
//!            │   │ start │      │     ▲      └────┬─────┘   │             │
//!            │   │       └──────│─────│───────────┴─────────┘             │
//!            │   ▼              │     │ the agent answers                 │
//!            │ ┌──────────┐     │     │                                   │
//!            │ │ starting │ ──────────┘                                   │
//!            │ └──┬───────┘ failed or interrupted: stopped                │
//!            │    │             │                                         │
//!            ▼    ▼             ▼  delete                                 │
//!         ┌─────────────────────────┐ done                                │
//!         │        deleting         │ ────────────────────────────────────┘
//!         └───────────┬─────────────┘
//!        failed       │     ▲ delete again
//!                     ▼     │
//!                  ┌──────────┐
//!                  │  broken  │
//!                  └──────────┘
//! ```
//!
//! A VM with work in it that cannot be saved goes from *deleting* back to where it came from.
//! A restart goes through *stopping* and *starting* as one piece of work, and a change of a
//! stopped VM leaves it *stopped* all the while.
//!
//! Who moves it: requests, through [`super::policy`], which says what is refused where; the end
//! of the job in progress; and the end of the VMM by itself, noticed while it is running. At
//! most one job runs at a time, in a task of its own, so the owner always listens. A daemon
//! that stops interrupts creations and starts; VMs that run are left alone.
//!
//! What is shown changes before the operation ends, so whoever waited for the end sees the
//! outcome.

mod answers;
mod ends;
mod jobs;

use std::collections::HashMap;
use std::fs;
use std::future::pending;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use banger_api::Workspace;
use banger_model::{Code, Error, Result, VmState};
use banger_store::VmRow;
use banger_vmm::{Ended, Instance};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::Instrument;

use super::boot::Up;
use super::policy::{Phase, Queue, Refusal, Ticket, Turn, Verdict};
use super::view::Shared;
use super::{Handle, Request, Vms, ending, not_found, workspace};
use crate::context::Context;
use crate::failpoint::{self, Scope};
use crate::operations::Running;
use answers::{end, stopping};
use jobs::{Job, Outcome, Rest, ended};

/// How long an ephemeral VM waits for its first lease, and for a new one after the daemon was
/// started again.
const GRACE: Duration = Duration::from_secs(30);

/// What an owner is told.
pub(super) enum Message {
    /// A request, with the operation that shows how it goes.
    Request(Request, Running),
    /// The operation with this id is cancelled.
    Withdraw(String),
    /// Somebody keeps the ephemeral VM.
    LeaseTaken,
    /// Somebody keeps it no longer.
    LeaseEnded,
    /// A repository was copied in, or is about to be.
    SetWorkspace(Box<Workspace>, oneshot::Sender<Result<()>>),
}

/// How a VM comes to its owner.
pub(super) enum First {
    /// Its row is new, the rest is to be made.
    Create {
        /// The operation.
        operation: Running,
        /// Whether to start it.
        start: bool,
    },
    /// It is there and does not run.
    Stopped,
    /// It is there, runs, and its agent has answered.
    Running(Up),
    /// It is there and its VMM runs; its agent has not answered yet.
    Watch(Arc<Instance>),
    /// It is to be removed, with whatever runs for it, and with the failpoints counted in this
    /// scope.
    Remove(Option<Arc<Instance>>, Scope),
    /// It is damaged, with the reason; it can only be deleted.
    Broken(String),
}

/// Starts the owner of a VM and adds it to the table.
pub(super) fn spawn(vms: &Arc<Vms>, row: VmRow, first: First) -> Arc<Shared> {
    let context = vms.context.clone();
    let state = match &first {
        First::Create { .. } => VmState::Creating,
        First::Stopped => VmState::Stopped,
        First::Running(_) => VmState::Running,
        First::Watch(_) => VmState::Starting,
        First::Remove(..) => VmState::Deleting,
        First::Broken(_) => VmState::Broken,
    };
    let shared = Shared::new(&row, &context.layout, state);
    let (inbox, messages) = mpsc::unbounded_channel();
    let grace = row.ephemeral.then(|| Instant::now() + GRACE);
    let span = tracing::info_span!("vm", vm = %row.name);
    let mut owner = Owner {
        vms: vms.clone(),
        context: context.clone(),
        shared: shared.clone(),
        messages,
        queue: Queue::new(state),
        row,
        instance: None,
        job: None,
        waiting: HashMap::new(),
        next_ticket: 0,
        leases: 0,
        grace,
        stopping: false,
    };
    // What is shown is whole before anybody can see it.
    span.in_scope(|| owner.begin_first(first));
    vms.add(Handle {
        shared: shared.clone(),
        inbox,
    });
    context.tasks.spawn(owner.run().instrument(span));
    shared
}

struct Owner {
    vms: Arc<Vms>,
    context: Arc<Context>,
    shared: Arc<Shared>,
    messages: mpsc::UnboundedReceiver<Message>,
    queue: Queue,
    row: VmRow,
    instance: Option<Arc<Instance>>,
    job: Option<Job>,
    /// Requests that wait for their turn, with their operations. Those of the owner itself have
    /// none.
    waiting: HashMap<Ticket, (Request, Option<Running>)>,
    next_ticket: Ticket,
    leases: u32,
    /// When an ephemeral VM that nobody keeps is deleted.
    grace: Option<Instant>,
    /// The daemon stops.
    stopping: bool,
}

impl Owner {
    async fn run(mut self) {
        self.own().await;
        // What came too late is answered all the same.
        self.messages.close();
        while let Ok(message) = self.messages.try_recv() {
            if let Message::Request(_, operation) = message {
                let error = if self.stopping {
                    stopping()
                } else {
                    not_found(self.row.name.as_str())
                };
                end(Some(operation), Err(error));
            }
        }
    }

    /// Until the VM is gone or the daemon stops.
    async fn own(&mut self) {
        let shutdown = self.context.shutdown.clone();
        loop {
            if self.stopping && self.job.is_none() {
                return;
            }
            let resting = self.job.is_none();
            tokio::select! {
                message = self.messages.recv() => match message {
                    Some(message) => self.take(message).await,
                    // The table drops its sender when the VM is gone.
                    None => return,
                },
                outcome = ended(&mut self.job) => {
                    self.finish_job(outcome).await;
                    if self.shared.gone().is_cancelled() {
                        return;
                    }
                }
                end = exited(self.instance.as_ref(), resting) => {
                    self.guest_ended(end).await;
                }
                () = until(self.grace) => {
                    tracing::info!("nobody keeps this ephemeral VM");
                    self.expire();
                }
                () = shutdown.cancelled(), if !self.stopping => self.stop_owning(),
            }
        }
    }

    fn begin_first(&mut self, first: First) {
        match first {
            First::Create { operation, start } => self.begin_create(operation, start),
            First::Stopped => {}
            First::Running(up) => self.show_up(up),
            First::Watch(instance) => self.begin_watch(instance),
            First::Remove(instance, scope) => {
                self.instance = instance;
                self.begin_removal(None, scope, None);
            }
            First::Broken(reason) => self.shared.set_state(VmState::Broken, Some(reason)),
        }
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Request(request, operation) => self.submit(request, Some(operation)),
            Message::Withdraw(id) => self.withdraw(&id),
            Message::LeaseTaken => {
                self.leases += 1;
                self.grace = None;
            }
            Message::LeaseEnded => {
                self.leases = self.leases.saturating_sub(1);
                if self.leases == 0 {
                    tracing::info!("the last lease on this ephemeral VM ended");
                    self.expire();
                }
            }
            Message::SetWorkspace(workspace, answer) => {
                let result = self.set_workspace(*workspace).await;
                // Nobody waits for it when the client is gone.
                answer.send(result).ok();
            }
        }
    }

    async fn set_workspace(&mut self, workspace: Workspace) -> Result<()> {
        let name = &self.row.name;
        match self.shared.vm().state {
            VmState::Deleting => return Err(self.refused(Refusal::Deleting)),
            VmState::Broken => return Err(self.refused(Refusal::Broken)),
            VmState::Creating => {
                let message = format!("VM `{name}` is still being made");
                return Err(Error::new(Code::Conflict, message).hint("wait until it runs"));
            }
            VmState::Stopped | VmState::Starting | VmState::Running | VmState::Stopping => {}
        }
        let (id, text) = (self.row.id.clone(), workspace::to_text(&workspace)?);
        let written = text.clone();
        self.context
            .blocking(move |context| context.store.set_workspace(&id, &written))
            .await?;
        self.row.workspace = Some(text);
        self.shared.change(|vm| vm.workspace = Some(workspace));
        Ok(())
    }

    fn expire(&mut self) {
        self.grace = None;
        if !self.row.ephemeral {
            return;
        }
        self.submit(Request::Delete(false), None);
    }

    fn submit(&mut self, request: Request, operation: Option<Running>) {
        if self.stopping {
            end(operation, Err(stopping()));
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let (verdict, turned_away) = self.queue.submit(ticket, request.verb());
        for (ticket, refusal) in turned_away {
            let refused = self.take_waiting(ticket);
            end(refused, Err(self.refused(refusal)));
        }
        match verdict {
            Verdict::Begin => self.begin(request, operation),
            Verdict::Wait | Verdict::Interrupt => {
                // It need not wait for work that is to be lost.
                let gives_up = request == Request::Delete(true);
                // A guest that was up before this daemon may hold work that is on no disk yet.
                let waits = request == Request::Delete(false)
                    && self.has_work()
                    && self.job.as_ref().is_some_and(|job| job.may_be_left);
                if ((verdict == Verdict::Interrupt && !waits) || gives_up)
                    && let Some(job) = &self.job
                {
                    job.give_way(&request);
                }
                self.waiting.insert(ticket, (request, operation));
            }
            Verdict::AlreadyDone => end(operation, Ok(())),
            Verdict::Answer => end(operation, self.answer(&request)),
            Verdict::Refuse(refusal) => end(operation, Err(self.refused(refusal))),
        }
    }

    /// An operation was cancelled: one that waits ends here, one in progress knows by itself.
    fn withdraw(&mut self, id: &str) {
        let is_it = |operation: &Option<Running>| {
            operation
                .as_ref()
                .is_some_and(|operation| operation.id() == id)
        };
        let found = self
            .waiting
            .iter()
            .find(|(_, (_, operation))| is_it(operation))
            .map(|(ticket, _)| *ticket);
        if let Some(ticket) = found
            && self.queue.withdraw(ticket)
        {
            end(self.take_waiting(ticket), Err(Error::cancelled()));
        }
    }

    /// The operation of a request that waits no longer.
    fn take_waiting(&mut self, ticket: Ticket) -> Option<Running> {
        self.waiting
            .remove(&ticket)
            .and_then(|(_, operation)| operation)
    }

    fn begin(&mut self, request: Request, operation: Option<Running>) {
        let show = |state| self.shared.set_state(state, None);
        match request {
            Request::Start | Request::Restart => {
                show(match &self.instance {
                    Some(_) => VmState::Stopping,
                    None => VmState::Starting,
                });
                self.begin_start(operation);
            }
            Request::Stop => {
                show(VmState::Stopping);
                self.begin_stop(operation);
            }
            Request::Kill(signal) => {
                show(VmState::Stopping);
                self.begin_kill(signal, operation);
            }
            // It stays what it is.
            Request::Set(change) => self.begin_set(change, operation),
            Request::DeleteStopped(discard) | Request::Delete(discard) => {
                let vm = self.shared.vm();
                show(VmState::Deleting);
                self.begin_delete(discard, (vm.state, vm.reason.clone()), operation);
            }
        }
    }

    async fn finish_job(&mut self, ended: Result<(VmRow, Outcome)>) {
        let Some(Job {
            operation, scope, ..
        }) = self.job.take()
        else {
            return;
        };
        let Outcome { rest, result } = match ended {
            Ok((row, outcome)) => {
                // A workspace is recorded also while a job works.
                let workspace = self.row.workspace.take();
                self.row = VmRow { workspace, ..row };
                outcome
            }
            Err(error) => {
                // A defect. Whatever the job started is ended, and the VM can be deleted.
                let rest = Rest::Broken(error.chain());
                if let Err(error) = ending::clear(&self.context, &self.row.id).await {
                    tracing::error!("processes may be left: {}", error.chain());
                }
                Outcome {
                    rest,
                    result: Err(error),
                }
            }
        };
        self.shared.set_spec(&self.row.spec);
        let resting = async {
            let phase = self.rest(rest).await;
            // Whoever asked learns it last.
            if let Err(error) = failpoint::pass("tell whoever asked").await {
                tracing::warn!("{}", error.chain());
            }
            phase
        };
        let phase = failpoint::within(scope, resting).await;
        end(operation, result);
        self.settle(phase);
    }

    /// Shows where the VM has come to rest.
    async fn rest(&mut self, rest: Rest) -> Phase {
        match rest {
            Rest::Up(up) => {
                self.show_up(up);
                Phase::Is(VmState::Running)
            }
            Rest::Down(reason) => {
                self.show_down(VmState::Stopped, reason.clone());
                jobs::keep_reason(&self.context, &mut self.row, reason).await;
                Phase::Is(VmState::Stopped)
            }
            Rest::Stays(state, reason) => {
                // One that ended meanwhile is noticed now.
                self.shared.set_state(state, reason);
                Phase::Is(state)
            }
            Rest::Broken(reason) => {
                self.show_down(VmState::Broken, Some(reason));
                Phase::Is(VmState::Broken)
            }
            Rest::Gone => {
                self.vms.forget(&self.row.id);
                self.shared.turns().set_leaving(true);
                crate::image::sweep_after(&self.context, self.row.image_digest.clone());
                self.shared.gone().cancel();
                Phase::Gone
            }
        }
    }

    fn show_up(&mut self, up: Up) {
        let files = self.context.layout.vm(&self.row.id);
        let agent = banger_vmm::agent_socket(&files.runtime);
        // Others are kept out by the directory and the umask; this is only tidy.
        if let Err(error) = fs::set_permissions(&agent, fs::Permissions::from_mode(0o600)) {
            tracing::warn!(%error, "the mode of the agent's socket stays as it is");
        }
        self.shared.set_instance(Some(&up.instance));
        self.shared.set_agent(&agent, &up.info.boot_id);
        self.shared.set_state(VmState::Running, None);
        self.instance = Some(up.instance);
    }

    fn show_down(&mut self, state: VmState, reason: Option<String>) {
        self.instance = None;
        self.shared.set_instance(None);
        self.shared.set_state(state, reason);
    }

    fn settle(&mut self, phase: Phase) {
        for turn in self.queue.settle(phase) {
            match turn {
                Turn::Begin(ticket, verb) => match self.waiting.remove(&ticket) {
                    Some((request, operation)) => self.begin(request, operation),
                    None => tracing::error!(?verb, "nothing is known of what begins"),
                },
                Turn::AlreadyDone(ticket) => end(self.take_waiting(ticket), Ok(())),
                Turn::Answer(ticket) => {
                    if let Some((request, operation)) = self.waiting.remove(&ticket) {
                        end(operation, self.answer(&request));
                    }
                }
                Turn::Refuse(ticket, refusal) => {
                    let refused = self.take_waiting(ticket);
                    end(refused, Err(self.refused(refusal)));
                }
            }
        }
    }

    /// The guest powered off, or a process of the VM ended.
    async fn guest_ended(&mut self, ended: Result<Ended>) {
        let Some(instance) = self.instance.take() else {
            return;
        };
        let reason = match &ended {
            Ok(ended) => ending::reason(ended),
            Err(error) => format!("its VMM cannot be watched: {}", error.chain()),
        };
        tracing::info!("stopped by itself: {reason}");
        let scope = Scope::new(failpoint::GUEST_END);
        let coming_to_rest = async {
            let rest = match ending::end(&self.context, &self.row.id, &instance).await {
                Ok(()) => Rest::Down(Some(reason)),
                Err(error) => Rest::Broken(error.chain()),
            };
            self.rest(rest).await
        };
        let phase = failpoint::within(scope, coming_to_rest).await;
        self.settle(phase);
    }

    /// The daemon stops: nothing new begins, what can be undone is, VMs that run live on.
    fn stop_owning(&mut self) {
        self.stopping = true;
        self.grace = None;
        let waiting: Vec<Ticket> = self.waiting.keys().copied().collect();
        for ticket in waiting {
            self.queue.withdraw(ticket);
            end(self.take_waiting(ticket), Err(stopping()));
        }
        match &self.job {
            Some(job) if job.may_be_left => {
                job.task.abort();
                self.job = None;
            }
            Some(job) if job.may_be_undone => job.undo(),
            _ => {}
        }
    }
}

async fn exited(instance: Option<&Arc<Instance>>, watching: bool) -> Result<Ended> {
    match instance {
        Some(instance) if watching => instance.exited().await,
        _ => pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}
