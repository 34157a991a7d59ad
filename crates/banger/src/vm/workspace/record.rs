//! Between what the daemon records of a workspace and what copies it.

use std::ffi::OsStr;

use banger_api::{Vm, Workspace};
use banger_model::{Code, Error, Result};
use banger_workspace::{Plan, Remote};

use super::guest_path::GuestPath;
use crate::vm::agent_socket;

/// What is recorded of a copy of `plan`.
pub(super) fn record(plan: &Plan, guest_path: &GuestPath, complete: bool) -> Result<Workspace> {
    let top = plan.repository().top();
    let repository = top.to_str().ok_or_else(|| {
        let message = format!("the path `{}` is not UTF-8", top.display());
        Error::new(Code::InvalidArgument, message)
            .hint("reach the repository by another path, or rename the directory")
    })?;
    let options = plan.options();
    Ok(Workspace {
        repository: repository.to_owned(),
        guest_path: guest_path.to_string(),
        mode: options.mode.into(),
        include_untracked: options.include_untracked,
        branch: options.branch.clone(),
        from: options.from.clone(),
        base: plan.base().map(str::to_owned),
        fingerprint: plan.fingerprint().to_string(),
        copied_at: jiff::Timestamp::now().to_string(),
        complete,
        exported: None,
    })
}

/// The workspace in the machine, which must run.
pub(super) fn remote(vm: &Vm, workspace: &Workspace) -> Result<Remote> {
    let socket = agent_socket(vm)?;
    Ok(Remote::new(&socket, OsStr::new(&workspace.guest_path)))
}

/// The machine's workspace; an error when nothing was copied, or not to its end.
pub(super) fn complete(vm: &Vm) -> Result<&Workspace> {
    match &vm.workspace {
        Some(workspace) if workspace.complete => Ok(workspace),
        other => {
            let name = &vm.name;
            let message = match other {
                Some(_) => {
                    format!("the copy of the repository into `{name}` did not come to its end")
                }
                None => format!("no repository was copied into `{name}`"),
            };
            Err(Error::new(Code::Conflict, message).hint(format!(
                "copy one with `banger vm workspace prepare {name} PATH`"
            )))
        }
    }
}
