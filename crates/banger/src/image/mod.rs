//! `banger image …`

mod catalog;
mod delete;
mod list;
mod load;
mod promote;
mod prune;
mod pull;
mod register;
mod show;

use banger_model::{Error, Result};
use clap::Subcommand;

use crate::block_on;
use crate::exit::Exit;
use crate::ui::Ui;

/// The commands about images.
#[derive(Subcommand, Debug)]
pub(crate) enum ImageCommand {
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Show(show::ShowArgs),
    Pull(pull::PullArgs),
    Load(load::LoadArgs),
    Register(register::RegisterArgs),
    Promote(promote::PromoteArgs),
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArgs),
    Prune(prune::PruneArgs),
    Catalog(catalog::CatalogArgs),
}

impl ImageCommand {
    /// What the parser alone cannot refuse.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            ImageCommand::Prune(args) => args.check(),
            ImageCommand::Load(args) => args.check(),
            _ => Ok(()),
        }
    }
}

pub(crate) fn dispatch(ui: &Ui, command: ImageCommand) -> Result<Exit> {
    match command {
        ImageCommand::List(args) => block_on(list::cmd_list(ui, args)),
        ImageCommand::Show(args) => block_on(show::cmd_show(ui, args)),
        ImageCommand::Pull(args) => block_on(pull::cmd_pull(ui, args)),
        ImageCommand::Load(args) => block_on(load::cmd_load(ui, args)),
        ImageCommand::Register(args) => block_on(register::cmd_register(ui, args)),
        ImageCommand::Promote(args) => block_on(promote::cmd_promote(ui, args)),
        ImageCommand::Delete(args) => block_on(delete::cmd_delete(ui, args)),
        ImageCommand::Prune(args) => block_on(prune::cmd_prune(ui, args)),
        ImageCommand::Catalog(args) => block_on(catalog::cmd_catalog(ui, args)),
    }
}
