//! `banger image list`

use banger_api::Image;
use banger_config::Paths;
use banger_model::Result;
use clap::Args;
use jiff::Timestamp;

use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::ui::{Format, Ui, age, human_size, table};

/// List the images that are here
#[derive(Args, Debug)]
pub(crate) struct ListArgs {}

pub(crate) async fn cmd_list(ui: &Ui, _args: ListArgs) -> Result<Exit> {
    let (client, mut images) =
        connect_and_ask(&Paths::from_env()?, async |client| client.images().await).await?;
    warn_of_other_release(ui, &client);
    images.sort_by(|a, b| a.name.cmp(&b.name));
    match ui.format() {
        Format::Table if ui.is_quiet() => {
            ui.names(images.iter().map(|image| image.name.as_str()))?
        }
        Format::Table => ui.data(&as_table(&images, Timestamp::now()))?,
        Format::Json => ui.json(&images)?,
    }
    Ok(Exit::SUCCESS)
}

fn as_table(images: &[Image], now: Timestamp) -> String {
    let rows = images
        .iter()
        .map(|image| {
            vec![
                image.name.clone(),
                short(&image.digest),
                human_size(image.disk_usage),
                image.kernel.clone(),
                image.used_by.to_string(),
                age(&image.created_at, now),
            ]
        })
        .collect();
    table(
        &["NAME", "DIGEST", "DISK", "KERNEL", "USED BY", "AGE"],
        rows,
    )
}

/// Enough of a digest for people.
pub(super) fn short(digest: &str) -> String {
    digest
        .trim_start_matches("sha256:")
        .chars()
        .take(12)
        .collect()
}

#[cfg(test)]
mod tests {
    use banger_model::ByteSize;

    use super::*;

    #[test]
    fn the_table_has_the_documented_columns() {
        let image = Image {
            name: "debian-bookworm".into(),
            digest: format!("sha256:{}", "0a".repeat(32)),
            size: ByteSize::gib(2),
            disk_usage: ByteSize::mib(512),
            source: "bootstrap".into(),
            kernel: "debian-6.1".into(),
            created_at: "2026-01-01T00:00:00Z".into(),
            used_by: 2,
        };
        let now = "2026-01-01T00:05:00Z".parse().unwrap();
        insta::assert_snapshot!(as_table(&[image], now), @r"
        NAME              DIGEST         DISK   KERNEL       USED BY   AGE
        debian-bookworm   0a0a0a0a0a0a   512M   debian-6.1   2         5m
        ");
    }
}
