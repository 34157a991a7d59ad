//! `banger vm stop`

use banger_config::Paths;
use banger_model::Result;
use clap::Args;

use super::Names;
use crate::connect::connect;
use crate::exit::Exit;
use crate::operation::{OnSignal, for_each};
use crate::ui::Ui;

/// Stop machines
///
/// The guest writes its disks and powers off; a guest that does not is ended after a while. Prints
/// the name of each machine that is stopped.
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    names: Names,
}

pub(crate) async fn cmd_stop(ui: &Ui, args: StopArgs) -> Result<Exit> {
    let client = connect(&Paths::from_env()?).await?;
    let stop = async |client: &banger_api::Client, name: &str| client.stop_vm(name).await;
    for_each(
        ui,
        &client,
        args.names.names,
        ("stopping", "machines"),
        OnSignal::Insist,
        stop,
    )
    .await
}
