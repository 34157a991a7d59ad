//! `banger image delete`

use banger_config::Paths;
use banger_model::{ImageName, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use crate::completion::image_names;
use crate::connect::connect;
use crate::exit::Exit;
use crate::operation::{exit_of, report};
use crate::ui::Ui;

/// Delete images that no machine uses
///
/// Prints the name of each image that is gone.
#[derive(Args, Debug)]
pub(crate) struct DeleteArgs {
    /// Names of the images
    #[arg(value_name = "NAME", required = true, add = ArgValueCandidates::new(image_names))]
    names: Vec<ImageName>,

    /// Also while machines use it: they keep what they have, and the file goes with the last of
    /// them
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn cmd_delete(ui: &Ui, args: DeleteArgs) -> Result<Exit> {
    let client = connect(&Paths::from_env()?).await?;
    let mut names: Vec<String> = args.names.into_iter().map(String::from).collect();
    names.sort_unstable();
    names.dedup();
    let mut results = Vec::new();
    for name in &names {
        // One after the other: each is done in a moment.
        let begun = client.delete_image(name, args.force).await;
        results.push(match begun {
            Ok(operation) => client.wait(&operation.id, |_| {}).await,
            Err(error) => Err(error),
        });
    }
    let exit = exit_of(&results, None);
    report(ui, &names, results)?;
    Ok(exit)
}
