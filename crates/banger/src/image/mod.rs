//! `banger image …`

mod list;
mod pull;

use banger_model::Result;
use clap::Subcommand;

use crate::block_on;
use crate::exit::Exit;
use crate::ui::Ui;

/// The commands about images.
#[derive(Subcommand, Debug)]
pub(crate) enum ImageCommand {
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Pull(pull::PullArgs),
}

pub(crate) fn dispatch(ui: &Ui, command: ImageCommand) -> Result<Exit> {
    match command {
        ImageCommand::List(args) => block_on(list::cmd_list(ui, args)),
        ImageCommand::Pull(args) => block_on(pull::cmd_pull(ui, args)),
    }
}
