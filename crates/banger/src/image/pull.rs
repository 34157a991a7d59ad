//! `banger image pull`

use banger_config::Paths;
use banger_model::{ImageName, Result};
use clap::Args;

use crate::connect::{connect, warn_of_other_release};
use crate::exit::Exit;
use crate::operation::follow_to_exit;
use crate::signals::Signals;
use crate::ui::Ui;

/// Get an image from the catalog
///
/// One that is here already is left as it is.
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// Name in the catalog
    name: ImageName,
}

pub(crate) async fn cmd_pull(ui: &Ui, args: PullArgs) -> Result<Exit> {
    let paths = Paths::from_env()?;
    let mut signals = Signals::listen()?;
    let client = connect(&paths).await?;
    let operation = client.pull_image(args.name.as_str()).await?;
    warn_of_other_release(ui, &client);
    follow_to_exit(ui, &client, &operation, &mut signals).await
}
