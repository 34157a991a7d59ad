//! `banger vm restart`

use banger_config::Paths;
use banger_model::Result;
use clap::Args;

use super::Names;
use crate::connect::connect;
use crate::exit::Exit;
use crate::operation::{OnSignal, for_each};
use crate::ui::Ui;

/// Stop machines and start them again
///
/// The guest writes its disks and powers off, then boots anew. A machine that is stopped is only
/// started. Prints the name of each machine that is running again.
#[derive(Args, Debug)]
pub(crate) struct RestartArgs {
    #[command(flatten)]
    names: Names,
}

pub(crate) async fn cmd_restart(ui: &Ui, args: RestartArgs) -> Result<Exit> {
    let client = connect(&Paths::from_env()?).await?;
    let restart = async |client: &banger_api::Client, name: &str| client.restart_vm(name).await;
    for_each(
        ui,
        &client,
        args.names.names,
        ("restarting", "machines"),
        // Half a restart is a machine that is down: not what an interrupt should leave.
        OnSignal::Insist,
        restart,
    )
    .await
}
