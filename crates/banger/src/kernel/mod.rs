//! `banger kernel …`

mod list;
mod pull;

use banger_model::Result;
use clap::Subcommand;

use crate::block_on;
use crate::exit::Exit;
use crate::ui::Ui;

/// The commands about kernels.
#[derive(Subcommand, Debug)]
pub(crate) enum KernelCommand {
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Pull(pull::PullArgs),
}

pub(crate) fn dispatch(ui: &Ui, command: KernelCommand) -> Result<Exit> {
    match command {
        KernelCommand::List(args) => block_on(list::cmd_list(ui, args)),
        KernelCommand::Pull(args) => block_on(pull::cmd_pull(ui, args)),
    }
}
