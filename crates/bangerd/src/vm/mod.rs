//! The VMs: a table of owner tasks, and how one is found, asked and listed.
//!
//! Each VM has one [`owner`] task; everybody else sends it requests. Lists are served from the
//! views that owners publish, so they never wait for anything.

mod boot;
mod change;
mod create;
mod ending;
mod git_identity;
mod lease;
mod names;
mod owner;
mod policy;
mod promote;
mod reconcile;
mod request;
mod save;
mod stats;
mod sync;
mod view;
mod workspace;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use banger_api::{CreateVm, Operation, Vm, VmStats, Workspace};
use banger_model::{Code, Digest, Error, KernelName, Result, VmId, VmName};
use tokio::sync::mpsc;

use crate::context::Context;
pub(crate) use create::{know_kernel, pull_kernel};
pub(crate) use lease::Lease;
use owner::Message;
pub(crate) use promote::{Wanted, promote};
pub(crate) use reconcile::reconcile;
pub(crate) use request::Request;
use view::Shared;
pub(crate) use workspace::Turn;

/// Every VM of one daemon.
pub(crate) struct Vms {
    context: Arc<Context>,
    table: RwLock<HashMap<VmId, Handle>>,
}

/// How a VM's owner is reached.
#[derive(Clone)]
struct Handle {
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedSender<Message>,
}

impl Vms {
    /// An empty table; [`reconcile()`] fills it.
    pub(crate) fn new(context: Arc<Context>) -> Arc<Vms> {
        Arc::new(Vms {
            context,
            table: RwLock::default(),
        })
    }

    /// Every VM, in order of creation.
    pub(crate) fn list(&self) -> Vec<Arc<Vm>> {
        let mut list: Vec<_> = self
            .table()
            .values()
            .map(|handle| handle.shared.vm())
            .collect();
        list.sort_by(|a, b| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        list
    }

    /// The VM with this exact name, id, or unique prefix of either.
    ///
    /// # Errors
    /// `not_found`; `ambiguous`, listing the candidates.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Vm>> {
        Ok(self.handle(reference)?.shared.vm())
    }

    /// Makes a VM: returns once its name is taken, with the operation that does the rest.
    ///
    /// # Errors
    /// `invalid_argument`, before anything changes; `not_found` for an unknown image;
    /// `already_exists` when the name is taken.
    pub(crate) async fn create(self: &Arc<Self>, request: CreateVm) -> Result<Operation> {
        create::admit(self, request).await
    }

    /// Asks the VM's owner for something.
    ///
    /// # Errors
    /// `not_found`; `ambiguous`; `invalid_argument` for a change that cannot be. Whether the
    /// request is taken shows in the operation.
    pub(crate) fn request(&self, reference: &str, request: Request) -> Result<Operation> {
        let handle = self.handle(reference)?;
        if let Request::Set(change) = &request {
            // Values that cannot be are refused before there is an operation.
            change::changed(handle.shared.name(), &handle.shared.spec(), change)?;
        }
        let (name, id) = (handle.shared.name(), handle.shared.id());
        let operation =
            self.context
                .operations
                .begin(request.kind(), name.as_str(), Some(id.as_str()))?;
        let snapshot = operation.snapshot();
        handle.send(Message::Request(request, operation))?;
        Ok(snapshot)
    }

    /// What every VM costs its host, in order of creation. Nobody waits for this but who asks.
    ///
    /// # Errors
    /// `internal` when the work was given up.
    pub(crate) async fn stats(&self) -> Result<Vec<VmStats>> {
        let mut all: Vec<_> = self
            .table()
            .values()
            .map(|handle| handle.shared.clone())
            .collect();
        all.sort_by_cached_key(|shared| (shared.vm().created_at.clone(), shared.id().clone()));
        self.context
            .blocking(move |context| {
                let measure = |shared: &Arc<Shared>| stats::measure(&context.layout, shared);
                Ok(all.iter().map(measure).collect())
            })
            .await
    }

    /// Cancels an operation, also while it waits for its turn.
    ///
    /// # Errors
    /// `not_found`; `conflict` when it cannot be cancelled.
    pub(crate) fn cancel(&self, operation: &str) -> Result<Operation> {
        let snapshot = self.context.operations.cancel(operation)?;
        let owner = snapshot
            .vm_id
            .as_ref()
            .and_then(|id| id.parse().ok())
            .and_then(|id: VmId| self.table().get(&id).cloned());
        if let Some(handle) = owner {
            handle.send(Message::Withdraw(snapshot.id.clone()))?;
        }
        Ok(snapshot)
    }

    /// Keeps an ephemeral VM while the lease exists.
    ///
    /// # Errors
    /// `not_found`; `conflict` when the VM is not ephemeral.
    pub(crate) fn lease(&self, reference: &str) -> Result<Lease> {
        let handle = self.handle(reference)?;
        if !handle.shared.vm().ephemeral {
            return Err(Error::new(
                Code::Conflict,
                format!(
                    "VM `{}` is not ephemeral, it needs no lease",
                    handle.shared.name()
                ),
            ));
        }
        Lease::take(handle, self.context.shutdown.clone())
    }

    /// Records the repository that was copied into a VM; shows the VM as it is then.
    ///
    /// # Errors
    /// `not_found`; `ambiguous`; `invalid_argument` for a record that makes no sense; `conflict`
    /// while the VM is made or deleted.
    pub(crate) async fn set_workspace(
        &self,
        reference: &str,
        workspace: Workspace,
    ) -> Result<Arc<Vm>> {
        let handle = self.handle(reference)?;
        workspace::set(&handle, workspace).await?;
        Ok(handle.shared.vm())
    }

    /// A place in the row of those who want to work on a VM's workspace.
    ///
    /// # Errors
    /// `not_found`; `ambiguous`.
    pub(crate) fn workspace_turn(&self, reference: &str) -> Result<Turn> {
        let handle = self.handle(reference)?;
        let shutdown = self.context.shutdown.clone();
        Ok(Turn::new(handle.shared.turns(), shutdown))
    }

    /// How many VMs use each image and each kernel, by digest.
    pub(crate) fn uses(&self) -> HashMap<Digest, u32> {
        let mut uses = HashMap::new();
        for handle in self.table().values() {
            for digest in handle.shared.parts() {
                *uses.entry(digest).or_default() += 1;
            }
        }
        uses
    }

    /// What each VM boots: its name, that of the kernel, and the digests of the image and the
    /// kernel it uses, none while they are not known yet.
    pub(crate) fn kernel_uses(&self) -> Vec<(VmName, KernelName, Vec<Digest>)> {
        self.table()
            .values()
            .map(|handle| {
                let shared = &handle.shared;
                (shared.name().clone(), shared.spec().kernel, shared.parts())
            })
            .collect()
    }

    fn handle(&self, reference: &str) -> Result<Handle> {
        let table = self.table();
        let exact = table.values().find(|handle| {
            handle.shared.name().as_str() == reference || handle.shared.id().as_str() == reference
        });
        if let Some(handle) = exact {
            return Ok(handle.clone());
        }
        let mut candidates: Vec<&Handle> = table
            .values()
            .filter(|handle| {
                !reference.is_empty()
                    && (handle.shared.name().as_str().starts_with(reference)
                        || handle.shared.id().as_str().starts_with(reference))
            })
            .collect();
        match candidates.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(not_found(reference)),
            _ => {
                candidates.sort_by_key(|handle| handle.shared.name().clone());
                let names: Vec<_> = candidates
                    .iter()
                    .map(|handle| format!("`{}` ({})", handle.shared.name(), handle.shared.id()))
                    .collect();
                Err(Error::new(
                    Code::Ambiguous,
                    format!(
                        "`{}` may mean {}",
                        reference.escape_debug(),
                        names.join(" or ")
                    ),
                )
                .hint("write the whole name or id"))
            }
        }
    }

    fn add(&self, handle: Handle) {
        self.table_mut().insert(handle.shared.id().clone(), handle);
    }

    fn forget(&self, id: &VmId) {
        self.table_mut().remove(id);
    }

    fn table(&self) -> RwLockReadGuard<'_, HashMap<VmId, Handle>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, HashMap<VmId, Handle>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handle {
    /// Hands a message to the owner. One that has ended knows nothing of its VM any more.
    fn send(&self, message: Message) -> Result<()> {
        let Err(mpsc::error::SendError(message)) = self.inbox.send(message) else {
            return Ok(());
        };
        let gone = not_found(self.shared.name().as_str());
        match message {
            Message::Request(_, operation) => operation.end(Err(gone)),
            Message::Withdraw(_)
            | Message::LeaseTaken
            | Message::LeaseEnded
            | Message::SetWorkspace(..) => Err(gone),
        }
    }
}

fn not_found(reference: &str) -> Error {
    Error::new(
        Code::NotFound,
        format!("there is no VM `{}`", reference.escape_debug()),
    )
    .hint("`banger vm list` shows the VMs there are")
}
