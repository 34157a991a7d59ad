//! `banger vm start`

use banger_config::Paths;
use banger_model::Result;
use clap::Args;

use super::Names;
use crate::connect::connect;
use crate::exit::Exit;
use crate::operation::{OnSignal, for_each};
use crate::ui::Ui;

/// Start stopped machines
///
/// Prints the name of each machine that is running.
#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    names: Names,
}

pub(crate) async fn cmd_start(ui: &Ui, args: StartArgs) -> Result<Exit> {
    let client = connect(&Paths::from_env()?).await?;
    let start = async |client: &banger_api::Client, name: &str| client.start_vm(name).await;
    for_each(
        ui,
        &client,
        args.names.names,
        ("starting", "machines"),
        OnSignal::Cancel,
        start,
    )
    .await
}
