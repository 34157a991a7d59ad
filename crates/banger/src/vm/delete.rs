//! `banger vm delete`

use banger_api::{Client, DeleteOptions};
use banger_config::Paths;
use banger_model::Result;
use clap::Args;

use super::Names;
use crate::connect::connect;
use crate::exit::Exit;
use crate::operation::{OnSignal, for_each};
use crate::ui::Ui;

/// Delete machines and every trace of them, running or not
///
/// Work in a workspace that was not exported is first saved in the repository that was copied in,
/// below `refs/banger/`. When it cannot be saved, the machine is not deleted. Prints the name of
/// each machine that is gone.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    names: Names,

    /// Lose work in a workspace that was not exported, instead of saving it first
    #[arg(long)]
    discard: bool,
}

pub(crate) async fn cmd_delete(ui: &Ui, args: DeleteArgs) -> Result<Exit> {
    let client = connect(&Paths::from_env()?).await?;
    let options = DeleteOptions {
        only_stopped: false,
        discard: args.discard,
    };
    let delete = async |client: &Client, name: &str| client.delete_vm(name, options).await;
    for_each(
        ui,
        &client,
        args.names.names,
        ("deleting", "machines"),
        OnSignal::Insist,
        delete,
    )
    .await
}
