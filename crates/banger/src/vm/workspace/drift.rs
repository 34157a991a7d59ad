//! What `vm exec` does about a workspace before it runs a command.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use banger_api::{Client, Vm, Workspace};
use banger_config::Paths;
use banger_model::{Code, Error, Result};
use banger_workspace::{Fingerprint, Origin, Repository};

use super::prepare::{Outcome, Preparation, blocking, plan, say_left_out};
use super::record;
use crate::signals::{Signal, Signals};
use crate::ui::Ui;

/// How long a command waits for the answer whether the repository has changed.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says that the repository has changed since it was copied, or copies it again. Returns the
/// directory to run the command in; the inner error is a signal that came meanwhile.
///
/// # Errors
/// With `auto_prepare`, those of the copy. Without, none: the command is what was asked for.
pub(in crate::vm) async fn before_exec(
    ui: &Ui,
    paths: &Paths,
    client: &Client,
    vm: &Vm,
    auto_prepare: bool,
    signals: &mut Signals,
) -> Result<Result<Option<String>, Signal>> {
    let workspace = match (&vm.workspace, auto_prepare) {
        (Some(workspace), _) => workspace,
        (None, false) => return Ok(Ok(None)),
        (None, true) => {
            record::complete(vm)?;
            return Ok(Ok(None));
        }
    };
    let directory = Some(workspace.guest_path.clone());
    match (auto_prepare, workspace.complete) {
        (false, false) => return Ok(Ok(None)),
        (false, true) => {
            tokio::select! {
                () = warn_of_changes(ui, vm, workspace) => {}
                signal = signals.next_to_end() => return Ok(Err(signal)),
            }
            return Ok(Ok(directory));
        }
        (true, true) if is_unchanged(workspace).await? => return Ok(Ok(directory)),
        (true, _) => {}
    }
    let repository = PathBuf::from(&workspace.repository);
    let planned = tokio::select! {
        planned = plan(repository, Origin::from(workspace).options) => planned?,
        signal = signals.next_to_end() => return Ok(Err(signal)),
    };
    say_left_out(ui, &planned);
    let preparation = Preparation {
        ui,
        paths,
        client,
        vm_id: &vm.id,
        plan: Arc::clone(&planned),
        guest_path: workspace.guest_path.parse()?,
        is_new: false,
        discard: false,
    };
    match preparation.carry_out(signals).await? {
        Outcome::Prepared(..) => Ok(Ok(directory)),
        Outcome::Interrupted(signal) => Ok(Err(signal)),
    }
}

async fn warn_of_changes(ui: &Ui, vm: &Vm, workspace: &Workspace) {
    let again = format!(
        "`banger vm exec --auto-prepare {}` copies it again first",
        vm.name
    );
    let repository = &workspace.repository;
    let answer = tokio::time::timeout(PATIENCE, is_unchanged(workspace)).await;
    let known = answer.unwrap_or_else(|_| {
        let message = "git takes longer than a second to say it";
        Err(Error::new(Code::Io, message))
    });
    match known {
        Ok(true) => {}
        Ok(false) => ui.warn(
            &format!(
                "`{repository}` has changed since it was copied into `{}`",
                vm.name
            ),
            &again,
        ),
        Err(error) => ui.warn(
            &format!(
                "whether `{repository}` has changed since it was copied is not known: {}",
                error.chain()
            ),
            &again,
        ),
    }
}

async fn is_unchanged(workspace: &Workspace) -> Result<bool> {
    let repository = PathBuf::from(&workspace.repository);
    let fingerprint: Fingerprint = workspace.fingerprint.parse()?;
    blocking(move || Repository::find(&repository)?.is_unchanged(&fingerprint)).await
}
