//! What an owner says to those who asked, when it is not the outcome of a job.

use banger_model::{Code, Error, Result};

use super::super::policy::Refusal;
use super::super::{Request, change, not_found};
use super::Owner;
use crate::operations::Running;

impl Owner {
    /// The answer to what needs no work.
    pub(super) fn answer(&self, request: &Request) -> Result<()> {
        match request {
            Request::Set(change) => change::while_running(&self.row.name, &self.row.spec, change),
            // The policy asks about nothing else.
            other => Err(Error::internal(format!("no answer to {other:?}"))),
        }
    }

    pub(super) fn refused(&self, refusal: Refusal) -> Error {
        let name = &self.row.name;
        match refusal {
            Refusal::Gone => not_found(name.as_str()),
            Refusal::Deleting => {
                Error::new(Code::Conflict, format!("VM `{name}` is being deleted"))
            }
            Refusal::Broken => Error::new(Code::Conflict, format!("VM `{name}` is broken")).hint(
                format!("`banger vm delete {name}` removes what is left of it"),
            ),
            Refusal::NotStopped => {
                Error::new(Code::Conflict, format!("VM `{name}` is not stopped"))
                    .hint(format!("stop it first: `banger vm stop {name}`"))
            }
            Refusal::Busy => Error::new(
                Code::Conflict,
                format!("too many requests wait for VM `{name}`"),
            )
            .hint("try again when some are done"),
        }
    }
}

/// Ends an operation, if there is one. The owner's own requests have none; their failures are
/// logged where they happen.
pub(super) fn end(operation: Option<Running>, result: Result<()>) {
    if let Some(operation) = operation {
        // Whoever waits for it reads it there.
        operation.end(result).ok();
    }
}

pub(super) fn stopping() -> Error {
    Error::new(Code::DaemonUnavailable, "the daemon is stopping")
        .hint("repeat the command: the next one starts a new daemon")
}
