//! `banger vm prune`

use banger_api::{Client, DeleteOptions, Operation, Vm};
use banger_config::Paths;
use banger_model::{Code, Result, VmState};
use clap::Args;
use jiff::Timestamp;

use super::list::as_table;
use crate::confirm::{check_terminal, is_confirmed};
use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::operation::{OnSignal, exit_of, report, run_all};
use crate::saved::foretell;
use crate::ui::Ui;

/// Delete all machines that are not running
///
/// Lists them and asks first; without a terminal to ask on, `--force` is needed. A machine that is
/// started meanwhile is left alone. Work that was not exported is saved as by `vm delete`. Prints the name of each machine that is gone.
#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,

    /// Lose work in workspaces that was not exported, instead of saving it first
    #[arg(long)]
    discard: bool,
}

impl PruneArgs {
    /// Refuses to ask where nobody can answer.
    pub(super) fn check(&self) -> Result<()> {
        if self.force {
            return Ok(());
        }
        check_terminal("vm prune", "`banger vm list` shows what is not running")
    }
}

pub(crate) async fn cmd_prune(ui: &Ui, args: PruneArgs) -> Result<Exit> {
    let (client, mut vms) =
        connect_and_ask(&Paths::from_env()?, async |client| client.vms().await).await?;
    warn_of_other_release(ui, &client);
    vms.retain(is_idle);
    vms.sort_by(|a, b| a.name.cmp(&b.name));
    if vms.is_empty() {
        ui.say("no machine rests: there is nothing to delete");
        report(ui, &[], Vec::new())?;
        return Ok(Exit::SUCCESS);
    }
    if !args.force && !is_confirmed(ui, &question(&vms, args.discard))? {
        ui.say("nothing is deleted");
        report(ui, &[], Vec::new())?;
        return Ok(Exit::SUCCESS);
    }
    // By id: a name may belong to another machine by now.
    let ids = vms.iter().map(|vm| vm.id.clone()).collect();
    let options = DeleteOptions {
        only_stopped: true,
        discard: args.discard,
    };
    let delete = async |client: &Client, id: &str| client.delete_vm(id, options).await;
    let ended = run_all(
        ui,
        &client,
        ids,
        ("deleting", "machines"),
        OnSignal::Insist,
        delete,
    )
    .await?;
    let (results, interrupted) = match ended {
        Ok(ended) => ended,
        Err(exit) => return Ok(exit),
    };
    let (names, results) = without_the_started(ui, vms, results);
    let exit = exit_of(&results, interrupted);
    report(ui, &names, results)?;
    Ok(exit)
}

/// Whether pruning is meant for it: it does not run and nothing is being done to it.
fn is_idle(vm: &Vm) -> bool {
    match vm.state {
        VmState::Stopped | VmState::Broken => true,
        VmState::Creating
        | VmState::Starting
        | VmState::Running
        | VmState::Stopping
        | VmState::Deleting => false,
    }
}

fn question(vms: &[Vm], discard: bool) -> String {
    let count = match vms.len() {
        1 => "this machine".to_owned(),
        count => format!("these {count} machines"),
    };
    format!(
        "{}\n\n{}Delete {count} and all that is on the disks? [y/N] ",
        as_table(vms, Timestamp::now()),
        foretell(vms, discard)
    )
}

/// Takes out what somebody else started or deleted meanwhile: both are as they should be. The
/// results are in the order of the ids.
fn without_the_started(
    ui: &Ui,
    mut vms: Vec<Vm>,
    results: Vec<Result<Operation>>,
) -> (Vec<String>, Vec<Result<Operation>>) {
    vms.sort_by(|a, b| a.id.cmp(&b.id));
    let mut kept: Vec<_> = vms
        .into_iter()
        .map(|vm| vm.name)
        .zip(results)
        .filter(|(name, result)| match result {
            Err(error) if error.code() == Code::Conflict => {
                ui.say(&format!("`{name}` is left alone: {}", error.chain()));
                false
            }
            Err(error) => error.code() != Code::NotFound,
            Ok(_) => true,
        })
        .collect();
    kept.sort_by(|(a, _), (b, _)| a.cmp(b));
    kept.into_iter().unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::example;

    #[test]
    fn only_what_rests_is_pruned() {
        for (state, expected) in [
            (VmState::Creating, false),
            (VmState::Stopped, true),
            (VmState::Starting, false),
            (VmState::Running, false),
            (VmState::Stopping, false),
            (VmState::Deleting, false),
            (VmState::Broken, true),
        ] {
            let vm = Vm { state, ..example() };
            assert_eq!(is_idle(&vm), expected, "{state}");
        }
    }
}
