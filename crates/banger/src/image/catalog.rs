//! `banger image catalog`

use banger_api::CatalogImage;
use banger_config::Paths;
use banger_model::Result;
use clap::Args;

use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::ui::{Format, Ui, table};

/// List the images that can be pulled by name
///
/// Any other name is that of an image in a registry, such as `alpine:3.20`.
#[derive(Args, Debug)]
pub(crate) struct CatalogArgs {}

pub(crate) async fn cmd_catalog(ui: &Ui, _args: CatalogArgs) -> Result<Exit> {
    let (client, images) = connect_and_ask(&Paths::from_env()?, async |client| {
        client.image_catalog().await
    })
    .await?;
    warn_of_other_release(ui, &client);
    match ui.format() {
        Format::Table if ui.is_quiet() => {
            ui.names(images.iter().map(|image| image.name.as_str()))?;
        }
        Format::Table => ui.data(&as_table(&images))?,
        Format::Json => ui.json(&images)?,
    }
    Ok(Exit::SUCCESS)
}

fn as_table(images: &[CatalogImage]) -> String {
    let rows = images
        .iter()
        .map(|image| {
            vec![
                image.name.clone(),
                image.kind.clone(),
                image.kernel.clone(),
                if image.pulled { "yes" } else { "no" }.to_owned(),
                image.description.clone(),
            ]
        })
        .collect();
    table(&["NAME", "KIND", "KERNEL", "PULLED", "DESCRIPTION"], rows)
}
