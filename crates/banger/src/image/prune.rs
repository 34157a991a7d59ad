//! `banger image prune`

use banger_api::{PruneImages, PrunedImages};
use banger_config::Paths;
use banger_model::{ByteSize, Result};
use clap::Args;

use super::list::short;
use crate::confirm::{check_terminal, is_confirmed};
use crate::connect::{connect, warn_of_other_release};
use crate::exit::Exit;
use crate::ui::{Format, Ui, human_size, table};

/// Remove what nobody needs: images without a name, and the cached layers of pulled images
///
/// Lists it and asks first; without a terminal to ask on, `--force` is needed. Images that
/// machines use always stay.
#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,

    /// Also remove images that have a name, when no machine uses them
    #[arg(short, long)]
    all: bool,
}

impl PruneArgs {
    /// Refuses to ask where nobody can answer.
    pub(super) fn check(&self) -> Result<()> {
        if self.force {
            return Ok(());
        }
        check_terminal("image prune", "`banger image list` shows what is used")
    }
}

pub(crate) async fn cmd_prune(ui: &Ui, args: PruneArgs) -> Result<Exit> {
    let client = connect(&Paths::from_env()?).await?;
    let request = PruneImages {
        all: args.all,
        dry_run: true,
    };
    if !args.force {
        let found = client.prune_images(&request).await?;
        warn_of_other_release(ui, &client);
        if found.images.is_empty() && found.cache == 0 {
            ui.say("there is nothing that nobody needs");
            return print(ui, &PrunedImages::default());
        }
        if !is_confirmed(ui, &question(&found))? {
            ui.say("nothing is removed");
            return print(ui, &PrunedImages::default());
        }
    }
    let request = PruneImages {
        dry_run: false,
        ..request
    };
    let gone = client.prune_images(&request).await?;
    print(ui, &gone)
}

fn print(ui: &Ui, gone: &PrunedImages) -> Result<Exit> {
    match ui.format() {
        Format::Json => ui.json(gone)?,
        Format::Table => {
            ui.names(
                gone.images
                    .iter()
                    .map(|image| image.name.as_ref().unwrap_or(&image.digest).as_str()),
            )?;
            if gone.reclaimed > 0 {
                ui.say(&format!("{} are free again", size(gone.reclaimed)));
            }
        }
    }
    Ok(Exit::SUCCESS)
}

fn question(found: &PrunedImages) -> String {
    format!(
        "{}\n\nRemove this, {} in all? [y/N] ",
        as_table(found),
        size(found.reclaimed)
    )
}

fn as_table(found: &PrunedImages) -> String {
    let mut rows: Vec<_> = found
        .images
        .iter()
        .map(|image| {
            vec![
                image.name.clone().unwrap_or_else(|| "-".to_owned()),
                short(&image.digest),
                size(image.disk_usage),
            ]
        })
        .collect();
    if found.cache > 0 {
        rows.push(vec![
            "cached layers".to_owned(),
            "-".to_owned(),
            size(found.cache),
        ]);
    }
    table(&["NAME", "DIGEST", "DISK"], rows)
}

fn size(bytes: u64) -> String {
    human_size(ByteSize::bytes(bytes))
}
