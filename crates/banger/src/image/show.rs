//! `banger image show`

use banger_api::ImageDetails;
use banger_config::Paths;
use banger_model::{ImageName, Result};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use crate::completion::image_names;
use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::ui::{Format, Ui, human_size, key_values};

/// Show everything about an image
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Its name
    #[arg(add = ArgValueCandidates::new(image_names))]
    name: ImageName,
}

pub(crate) async fn cmd_show(ui: &Ui, args: ShowArgs) -> Result<Exit> {
    let (client, image) = connect_and_ask(&Paths::from_env()?, async |client| {
        client.image(args.name.as_str()).await
    })
    .await?;
    warn_of_other_release(ui, &client);
    match ui.format() {
        Format::Table => ui.data(&as_table(image))?,
        Format::Json => ui.json(&image)?,
    }
    Ok(Exit::SUCCESS)
}

fn as_table(details: ImageDetails) -> String {
    let (image, config) = (details.image, details.config);
    let list = |items: Vec<String>| (!items.is_empty()).then(|| items.join(", "));
    let pairs = |map: std::collections::BTreeMap<String, String>| {
        list(
            map.into_iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
        )
    };
    // As a list, so that it can be seen where one argument ends.
    let words = |words: Vec<String>| (!words.is_empty()).then(|| format!("{words:?}"));
    let rows = [
        ("name", Some(image.name)),
        ("digest", Some(image.digest)),
        ("root digest", details.rootfs_digest),
        ("size", Some(human_size(image.size))),
        ("disk", Some(human_size(image.disk_usage))),
        ("kernel", Some(image.kernel)),
        ("source", Some(image.source)),
        ("reference", details.reference),
        ("manifest", details.manifest_digest),
        ("platform", details.platform),
        ("created", Some(image.created_at)),
        ("built", details.built_at),
        ("environment", pairs(config.env)),
        ("user", config.user),
        ("directory", config.workdir),
        ("entrypoint", words(config.entrypoint)),
        ("command", words(config.cmd)),
        ("ports", list(details.exposed_ports)),
        ("labels", pairs(details.labels)),
        ("used by", list(details.vms)),
    ];
    key_values(
        rows.into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use banger_api::Image;
    use banger_model::{ByteSize, ImageConfig};

    use super::*;

    #[test]
    fn what_is_not_known_has_no_line_and_arguments_stay_apart() {
        let details = ImageDetails {
            image: Image {
                name: "alpine:3.20".into(),
                digest: "sha256:00".into(),
                size: ByteSize::mib(16),
                disk_usage: ByteSize::mib(8),
                source: "pulled from docker.io/library/alpine:3.20".into(),
                kernel: "debian-bookworm".into(),
                created_at: "2026-01-01T00:00:00Z".into(),
                used_by: 1,
            },
            rootfs_digest: None,
            config: ImageConfig {
                env: [("PATH".to_owned(), "/bin".to_owned())].into(),
                cmd: vec!["sh".into(), "-c".into(), "a b".into()],
                ..ImageConfig::default()
            },
            reference: None,
            manifest_digest: None,
            platform: Some("linux/amd64".into()),
            built_at: None,
            labels: Default::default(),
            exposed_ports: Vec::new(),
            vms: vec!["box".into()],
        };
        insta::assert_snapshot!(as_table(details), @r#"
        name:          alpine:3.20
        digest:        sha256:00
        size:          16M
        disk:          8M
        kernel:        debian-bookworm
        source:        pulled from docker.io/library/alpine:3.20
        platform:      linux/amd64
        created:       2026-01-01T00:00:00Z
        environment:   PATH=/bin
        command:       ["sh", "-c", "a b"]
        used by:       box
        "#);
    }
}
