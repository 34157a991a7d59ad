//! The repository that was copied into a VM: its record, and whose turn it is to work on the copy.
//!
//! Clients copy and export by themselves, through the agent. They take turns, in the order in
//! which they asked; a turn is a connection, so it ends however its holder ends. Nothing the
//! daemon does to a VM waits for a turn: a deletion ends them all.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use banger_api::Workspace;
use banger_model::{Error, Result};
use banger_store::VmRow;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Handle;
use super::owner::Message;

/// What the row says of its workspace.
///
/// # Errors
/// `internal` for a record that no release of banger wrote.
pub(super) fn of(row: &VmRow) -> Result<Option<Workspace>> {
    let Some(text) = &row.workspace else {
        return Ok(None);
    };
    let unknown = || {
        let name = &row.name;
        Error::internal(format!(
            "the record of the workspace of VM `{name}` makes no sense"
        ))
    };
    let workspace: Workspace =
        serde_json::from_str(text).map_err(|error| unknown().because(error))?;
    match workspace.validate() {
        Ok(()) => Ok(Some(workspace)),
        Err(error) => Err(unknown().because(error)),
    }
}

/// A record as the row keeps it.
pub(super) fn to_text(workspace: &Workspace) -> Result<String> {
    serde_json::to_string(workspace)
        .map_err(|error| Error::internal("cannot write a workspace as JSON").because(error))
}

/// Has the owner record a workspace, and waits until it is on the disk.
///
/// # Errors
/// Those of [`Workspace::validate`]; `conflict` while the VM is made or deleted; those of the
/// database.
pub(super) async fn set(handle: &Handle, workspace: Workspace) -> Result<()> {
    workspace.validate()?;
    let (answer, answered) = oneshot::channel();
    handle.send(Message::SetWorkspace(Box::new(workspace), answer))?;
    match answered.await {
        Ok(result) => result,
        // It ended before it came to this.
        Err(_) => Err(super::not_found(handle.shared.name().as_str())),
    }
}

/// Who works on a VM's workspace now, and who is next.
#[derive(Debug)]
pub(super) struct Turns {
    // Permits are given in the order in which they were asked for.
    one: Arc<Semaphore>,
    leaving: watch::Sender<bool>,
}

impl Turns {
    pub(super) fn new() -> Turns {
        Turns {
            one: Arc::new(Semaphore::new(1)),
            leaving: watch::Sender::new(false),
        }
    }

    /// Ends every turn when the VM is being deleted, and gives none until it stays after all.
    pub(super) fn set_leaving(&self, leaving: bool) {
        self.leaving.send_replace(leaving);
    }
}

/// A place in the row of those who want to work on a workspace. Dropping it gives it up.
pub(crate) struct Turn {
    one: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    leaving: watch::Receiver<bool>,
    shutdown: CancellationToken,
}

impl Turn {
    pub(super) fn new(turns: &Turns, shutdown: CancellationToken) -> Turn {
        Turn {
            one: turns.one.clone(),
            held: None,
            leaving: turns.leaving.subscribe(),
            shutdown,
        }
    }

    /// Waits until it is this one's turn: false when that will not be.
    pub(crate) async fn comes(&mut self) -> bool {
        let one = self.one.clone();
        tokio::select! {
            biased;
            () = self.ended() => false,
            permit = one.acquire_owned() => {
                self.held = permit.ok();
                self.held.is_some()
            }
            // Polled last: it is in the row by then.
            never = say_that_it_waits() => match never {},
        }
    }

    /// Waits until the VM is being deleted or the daemon stops.
    pub(crate) async fn ended(&mut self) {
        tokio::select! {
            // The sender is dropped with the VM.
            _ = self.leaving.wait_for(|leaving| *leaving) => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}

async fn say_that_it_waits() -> Infallible {
    tracing::debug!("a client waits for its turn at the workspace");
    pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_come_in_order_and_end_with_the_vm() {
        let (turns, shutdown) = (Turns::new(), CancellationToken::new());
        let new = || Turn::new(&turns, shutdown.clone());
        let mut first = new();
        assert!(first.comes().await);
        let spawn = |mut turn: Turn| {
            tokio::spawn(async move {
                let came = turn.comes().await;
                (turn, came)
            })
        };
        let (given_up, second, third) = (spawn(new()), spawn(new()), spawn(new()));
        tokio::task::yield_now().await;
        given_up.abort();
        assert!(given_up.await.is_err());
        drop(first);
        let (mut second, came) = second.await.unwrap();
        assert!(came && !third.is_finished(), "the second before the third");
        // A deletion ends those that are held and those that wait.
        turns.set_leaving(true);
        second.ended().await;
        assert!(!third.await.unwrap().1);
        assert!(!new().comes().await);
        // The VM stays after all.
        turns.set_leaving(false);
        drop(second);
        assert!(new().comes().await);
        shutdown.cancel();
        assert!(!new().comes().await);
    }
}
