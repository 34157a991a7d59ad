//! `banger kernel catalog`

use banger_api::CatalogKernel;
use banger_config::Paths;
use banger_model::Result;
use clap::Args;

use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::ui::{Format, Ui, table};

/// List the kernels that can be pulled by name
#[derive(Args, Debug)]
pub(crate) struct CatalogArgs {}

pub(crate) async fn cmd_catalog(ui: &Ui, _args: CatalogArgs) -> Result<Exit> {
    let (client, mut kernels) = connect_and_ask(&Paths::from_env()?, async |client| {
        client.kernel_catalog().await
    })
    .await?;
    warn_of_other_release(ui, &client);
    kernels.sort_by(|a, b| a.name.cmp(&b.name));
    match ui.format() {
        Format::Table if ui.is_quiet() => {
            ui.names(kernels.iter().map(|kernel| kernel.name.as_str()))?
        }
        Format::Table => ui.data(&as_table(&kernels))?,
        Format::Json => ui.json(&kernels)?,
    }
    Ok(Exit::SUCCESS)
}

fn as_table(kernels: &[CatalogKernel]) -> String {
    let rows = kernels
        .iter()
        .map(|kernel| {
            vec![
                kernel.name.clone(),
                if kernel.pulled { "yes" } else { "no" }.to_owned(),
                kernel.description.clone(),
            ]
        })
        .collect();
    table(&["NAME", "PULLED", "DESCRIPTION"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_the_documented_columns() {
        let kernel = CatalogKernel {
            name: "debian-6.1".into(),
            description: "A kernel".into(),
            pulled: true,
        };
        insta::assert_snapshot!(as_table(&[kernel]), @r"
        NAME         PULLED   DESCRIPTION
        debian-6.1   yes      A kernel
        ");
    }
}
