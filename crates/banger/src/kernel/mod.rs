//! `banger kernel …`

mod catalog;
mod delete;
mod import;
mod list;
mod prune;
mod pull;
mod show;

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
    Show(show::ShowArgs),
    Catalog(catalog::CatalogArgs),
    Pull(pull::PullArgs),
    Import(import::ImportArgs),
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArgs),
    Prune(prune::PruneArgs),
}

impl KernelCommand {
    /// What the parser alone cannot refuse.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            KernelCommand::Prune(args) => args.check(),
            _ => Ok(()),
        }
    }
}

pub(crate) fn dispatch(ui: &Ui, command: KernelCommand) -> Result<Exit> {
    match command {
        KernelCommand::List(args) => block_on(list::cmd_list(ui, args)),
        KernelCommand::Show(args) => block_on(show::cmd_show(ui, args)),
        KernelCommand::Catalog(args) => block_on(catalog::cmd_catalog(ui, args)),
        KernelCommand::Pull(args) => block_on(pull::cmd_pull(ui, args)),
        KernelCommand::Import(args) => block_on(import::cmd_import(ui, args)),
        KernelCommand::Delete(args) => block_on(delete::cmd_delete(ui, args)),
        KernelCommand::Prune(args) => block_on(prune::cmd_prune(ui, args)),
    }
}

#[cfg(test)]
pub(crate) fn example() -> banger_api::Kernel {
    banger_api::Kernel {
        name: "debian-6.1".into(),
        digest: format!("sha256:{}", "0a".repeat(32)),
        release: "6.1.0-40-cloud-amd64".into(),
        disk_usage: banger_model::ByteSize::mib(60),
        source: "linux-image-cloud-amd64".into(),
        created_at: "2026-01-01T00:00:00Z".into(),
        used_by: 0,
        modules: true,
        initrd: false,
        config: Some("package".into()),
    }
}
