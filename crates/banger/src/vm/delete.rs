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
/// Prints the name of each machine that is gone.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    names: Names,
}

pub(crate) async fn cmd_delete(ui: &Ui, args: DeleteArgs) -> Result<Exit> {
    let client = connect(&Paths::from_env()?).await?;
    let options = DeleteOptions::default();
    let delete = async |client: &Client, name: &str| client.delete_vm(name, options).await;
    for_each(
        ui,
        &client,
        args.names.names,
        "deleting",
        OnSignal::Insist,
        delete,
    )
    .await
}
