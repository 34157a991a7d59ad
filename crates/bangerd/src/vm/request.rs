//! What can be asked of a VM that exists, with everything that is needed to do it.

use banger_api::{KillSignal, OperationKind, SetVm};

use super::policy::Verb;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    /// Boot it.
    Start,
    /// Bring it down.
    Stop,
    /// Bring it down if it runs, and boot it.
    Restart,
    /// End its VMM with this signal, without asking the guest.
    Kill(KillSignal),
    /// Change what it is.
    Set(SetVm),
    /// Remove every trace of it, unless it runs; whether work is lost with it.
    DeleteStopped(bool),
    /// Remove every trace of it; whether work is lost with it.
    Delete(bool),
}

impl Request {
    /// What the policy knows of it.
    pub(super) fn verb(&self) -> Verb {
        match self {
            Request::Start => Verb::Start,
            Request::Stop => Verb::Stop,
            Request::Restart => Verb::Restart,
            Request::Kill(_) => Verb::Kill,
            Request::Set(_) => Verb::Set,
            Request::DeleteStopped(_) => Verb::DeleteStopped,
            Request::Delete(_) => Verb::Delete,
        }
    }

    /// The kind of the operation that carries it out.
    pub(super) fn kind(&self) -> OperationKind {
        match self {
            Request::Start => OperationKind::StartVm,
            Request::Stop => OperationKind::StopVm,
            Request::Restart => OperationKind::RestartVm,
            Request::Kill(_) => OperationKind::KillVm,
            Request::Set(_) => OperationKind::SetVm,
            Request::DeleteStopped(_) | Request::Delete(_) => OperationKind::DeleteVm,
        }
    }
}
