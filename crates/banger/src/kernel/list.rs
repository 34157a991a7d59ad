//! `banger kernel list`

use banger_api::Kernel;
use banger_config::Paths;
use banger_model::Result;
use clap::Args;
use jiff::Timestamp;

use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::ui::{Format, Ui, age, human_size, table};

/// List the kernels that are here
#[derive(Args, Debug)]
pub(crate) struct ListArgs {}

pub(crate) async fn cmd_list(ui: &Ui, _args: ListArgs) -> Result<Exit> {
    let (client, mut kernels) =
        connect_and_ask(&Paths::from_env()?, async |client| client.kernels().await).await?;
    warn_of_other_release(ui, &client);
    kernels.sort_by(|a, b| a.name.cmp(&b.name));
    match ui.format() {
        Format::Table if ui.is_quiet() => {
            ui.names(kernels.iter().map(|kernel| kernel.name.as_str()))?
        }
        Format::Table => ui.data(&as_table(&kernels, Timestamp::now()))?,
        Format::Json => ui.json(&kernels)?,
    }
    Ok(Exit::SUCCESS)
}

pub(super) fn as_table(kernels: &[Kernel], now: Timestamp) -> String {
    let rows = kernels
        .iter()
        .map(|kernel| {
            vec![
                kernel.name.clone(),
                kernel.release.clone(),
                human_size(kernel.disk_usage),
                kernel.used_by.to_string(),
                age(&kernel.created_at, now),
            ]
        })
        .collect();
    table(&["NAME", "RELEASE", "DISK", "USED BY", "AGE"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::example;

    #[test]
    fn the_table_has_the_documented_columns() {
        let now = "2026-01-03T00:05:00Z".parse().unwrap();
        insta::assert_snapshot!(as_table(&[example()], now), @r"
        NAME         RELEASE                DISK   USED BY   AGE
        debian-6.1   6.1.0-40-cloud-amd64   60M    0         2d
        ");
    }
}
