//! `banger kernel delete`

use banger_config::Paths;
use banger_model::{KernelName, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use crate::completion::kernel_names;
use crate::connect::connect;
use crate::exit::Exit;
use crate::operation::{OnSignal, for_each};
use crate::ui::Ui;

/// Delete kernels that no machine and no image uses
///
/// Prints the name of each kernel that is gone.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// Names
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(kernel_names))]
    names: Vec<KernelName>,
}

pub(crate) async fn cmd_delete(ui: &Ui, args: DeleteArgs) -> Result<Exit> {
    let client = connect(&Paths::from_env()?).await?;
    let names = args.names.into_iter().map(String::from).collect();
    let delete = async |client: &banger_api::Client, name: &str| client.delete_kernel(name).await;
    for_each(
        ui,
        &client,
        names,
        ("deleting", "kernels"),
        OnSignal::Insist,
        delete,
    )
    .await
}
