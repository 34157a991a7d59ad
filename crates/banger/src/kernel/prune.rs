//! `banger kernel prune`

use std::collections::HashSet;

use banger_api::{Kernel, Operation};
use banger_config::Paths;
use banger_model::{Code, Result};
use clap::Args;
use jiff::Timestamp;

use super::list::as_table;
use crate::confirm::{check_terminal, is_confirmed};
use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::operation::{OnSignal, exit_of, report, run_all};
use crate::ui::Ui;

/// Delete all kernels that no machine and no image uses
///
/// Lists them and asks first; without a terminal to ask on, `--force` is needed. A kernel that
/// is used meanwhile is left alone. Prints the name of each kernel that is gone.
#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl PruneArgs {
    /// Refuses to ask where nobody can answer.
    pub(super) fn check(&self) -> Result<()> {
        if self.force {
            return Ok(());
        }
        check_terminal(
            "kernel prune",
            "`banger kernel list` shows what is not used",
        )
    }
}

pub(crate) async fn cmd_prune(ui: &Ui, args: PruneArgs) -> Result<Exit> {
    let (client, mut kernels) =
        connect_and_ask(&Paths::from_env()?, async |client| client.kernels().await).await?;
    warn_of_other_release(ui, &client);
    let images = client.images().await?;
    let wanted: HashSet<String> = images.into_iter().map(|image| image.kernel).collect();
    kernels.retain(|kernel| kernel.used_by == 0 && !wanted.contains(&kernel.name));
    kernels.sort_by(|a, b| a.name.cmp(&b.name));
    if kernels.is_empty() {
        ui.say("every kernel is used: there is nothing to delete");
        report(ui, &[], Vec::new())?;
        return Ok(Exit::SUCCESS);
    }
    if !args.force && !is_confirmed(ui, &question(&kernels))? {
        ui.say("nothing is deleted");
        report(ui, &[], Vec::new())?;
        return Ok(Exit::SUCCESS);
    }
    let names: Vec<String> = kernels.into_iter().map(|kernel| kernel.name).collect();
    let delete = async |client: &banger_api::Client, name: &str| client.delete_kernel(name).await;
    let doing = ("deleting", "kernels");
    let ended = run_all(ui, &client, names.clone(), doing, OnSignal::Insist, delete).await?;
    let (results, interrupted) = match ended {
        Ok(ended) => ended,
        Err(exit) => return Ok(exit),
    };
    let (names, results) = without_the_used(ui, names, results);
    let exit = exit_of(&results, interrupted);
    report(ui, &names, results)?;
    Ok(exit)
}

fn question(kernels: &[Kernel]) -> String {
    let count = match kernels.len() {
        1 => "this kernel".to_owned(),
        count => format!("these {count} kernels"),
    };
    let table = as_table(kernels, Timestamp::now());
    format!("{table}\n\nDelete {count}? [y/N] ")
}

/// Takes out what somebody else uses or deleted meanwhile: both are as they should be.
fn without_the_used(
    ui: &Ui,
    names: Vec<String>,
    results: Vec<Result<Operation>>,
) -> (Vec<String>, Vec<Result<Operation>>) {
    names
        .into_iter()
        .zip(results)
        .filter(|(name, result)| match result {
            Err(error) if error.code() == Code::Conflict => {
                ui.say(&format!("`{name}` is left alone: {}", error.chain()));
                false
            }
            Err(error) => error.code() != Code::NotFound,
            Ok(_) => true,
        })
        .unzip()
}
