//! The image config: what an image says about running it.

use std::collections::BTreeMap;

use banger_model::{Digest, ImageConfig};
use serde::{Deserialize, Serialize};

use crate::manifest::{Refusal, json};
use crate::platform::Platform;
use crate::text::shown;

/// What an image says about itself that is not about running commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// The operating system, `linux`; empty when the image does not say.
    pub os: String,
    /// The architecture in the words of Go; empty when the image does not say.
    pub architecture: String,
    /// When it was built, as the image writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Labels, in order of the keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the image's process to end, such as `SIGRTMIN+3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// What it listens on, such as `80/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// Directories that it wants kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
}

/// A config that was read and checked against the manifest.
#[derive(Debug)]
pub(crate) struct ReadConfig {
    pub(crate) config: ImageConfig,
    pub(crate) details: Details,
    /// The digest of each layer when unpacked, the lowest first.
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

impl ReadConfig {
    /// Reads the config of an image with `layers` layers that is to run on `platform`.
    pub(crate) fn parse(bytes: &[u8], layers: usize, platform: &Platform) -> Result<Self, Refusal> {
        let raw: Raw = json(bytes)?;
        if !platform.accepts(&raw.os, &raw.architecture, raw.variant.as_deref()) {
            return Err(format!(
                "is for {}/{}, not for {platform}",
                shown(&raw.os),
                shown(&raw.architecture)
            ));
        }
        let diff_ids: Vec<Digest> = raw
            .rootfs
            .diff_ids
            .unwrap_or_default()
            .iter()
            .map(|text| {
                text.parse()
                    .map_err(|_| format!("names a layer by `{}`, not by a sha256", shown(text)))
            })
            .collect::<Result<_, _>>()?;
        if diff_ids.len() != layers {
            return Err(format!(
                "has {layers} layers, and its config speaks of {}",
                diff_ids.len()
            ));
        }
        let config = raw.config.unwrap_or_default();
        config.refuse_nul()?;
        Ok(ReadConfig {
            details: Details {
                os: raw.os,
                architecture: raw.architecture,
                created: raw.created,
                labels: config.labels.clone().unwrap_or_default(),
                stop_signal: said(&config.stop_signal),
                exposed_ports: keys(&config.exposed_ports),
                volumes: keys(&config.volumes),
            },
            config: ImageConfig {
                env: environment(config.env.unwrap_or_default()),
                user: said(&config.user),
                workdir: said(&config.working_dir),
                entrypoint: config.entrypoint.unwrap_or_default(),
                cmd: config.cmd.unwrap_or_default(),
            },
            diff_ids,
        })
    }
}

impl RawConfig {
    /// No program can be given a NUL; finding out when a VM starts would be late.
    fn refuse_nul(&self) -> Result<(), Refusal> {
        let lists = [&self.env, &self.entrypoint, &self.cmd];
        let words = [&self.user, &self.working_dir, &self.stop_signal];
        let mut texts = lists
            .into_iter()
            .flatten()
            .flatten()
            .chain(words.into_iter().flatten());
        match texts.find(|text| text.contains('\0')) {
            Some(text) => Err(format!("has a NUL in `{}`", shown(text))),
            None => Ok(()),
        }
    }
}

/// The last of several entries for a name counts, as when a process starts. An entry without
/// `=` sets nothing.
fn environment(entries: Vec<String>) -> BTreeMap<String, String> {
    entries
        .into_iter()
        .filter_map(|entry| match entry.split_once('=') {
            Some((name, value)) if !name.is_empty() => Some((name.to_owned(), value.to_owned())),
            _ => {
                tracing::warn!(entry = %shown(&entry), "an entry of the image's environment sets nothing");
                None
            }
        })
        .collect()
}

fn said(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

fn keys(map: &Option<BTreeMap<String, serde_json::Value>>) -> Vec<String> {
    map.iter().flat_map(BTreeMap::keys).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json as value};

    use super::*;

    fn diff_id() -> String {
        Digest::from_sha256(&[1; 32]).to_string()
    }

    fn parse(document: &Value, layers: usize) -> Result<ReadConfig, Refusal> {
        ReadConfig::parse(
            document.to_string().as_bytes(),
            layers,
            &Platform::default(),
        )
    }

    #[test]
    fn everything_that_matters_is_kept() {
        let read = parse(
            &value!({
                "os": "linux", "architecture": "amd64", "created": "2024-01-01T00:00:00Z",
                "config": {
                    "Env": ["PATH=/bin", "A=1=2", "A=3", "ALONE", "=x"], "User": "1000:1000",
                    "WorkingDir": "/srv", "Entrypoint": ["/e", "x y"], "Cmd": null,
                    "Labels": {"a": "b"}, "StopSignal": "SIGRTMIN+3",
                    "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}},
                },
                "rootfs": {"type": "layers", "diff_ids": [diff_id()]},
                "history": [{"created_by": "x"}],
            }),
            1,
        )
        .unwrap();
        assert_eq!(read.config.env.len(), 2);
        assert_eq!(read.config.env["A"], "3");
        assert_eq!(read.config.user.as_deref(), Some("1000:1000"));
        assert_eq!(read.config.workdir.as_deref(), Some("/srv"));
        assert_eq!(read.config.entrypoint, ["/e", "x y"]);
        assert!(read.config.cmd.is_empty());
        assert_eq!(read.details.labels["a"], "b");
        assert_eq!(read.details.stop_signal.as_deref(), Some("SIGRTMIN+3"));
        assert_eq!(read.details.exposed_ports, ["80/tcp"]);
        assert_eq!(read.details.volumes, ["/data"]);
        assert_eq!(read.diff_ids[0].as_str(), diff_id());
    }

    #[test]
    fn the_least_a_config_can_say_is_enough() {
        let read = parse(&value!({"rootfs": {"diff_ids": null}, "config": null}), 0).unwrap();
        assert_eq!(read.config, ImageConfig::default());
    }

    #[test]
    fn configs_that_do_not_fit_are_refused() {
        let rootfs = value!({"diff_ids": [diff_id()]});
        let cases = [
            (value!({"rootfs": rootfs}), 2, "speaks of 1"),
            (
                value!({"rootfs": {"diff_ids": ["md5:x"]}}),
                1,
                "not by a sha256",
            ),
            (
                value!({"rootfs": rootfs, "architecture": "arm64", "os": "linux"}),
                1,
                "is for linux/arm64",
            ),
            (
                value!({"rootfs": rootfs, "config": {"Env": ["A=\u{0}"]}}),
                1,
                "NUL",
            ),
            (
                value!({"rootfs": rootfs, "config": {"Cmd": "x"}}),
                1,
                "cannot be read",
            ),
            (value!({}), 0, "cannot be read"),
        ];
        for (document, layers, reason) in cases {
            let refusal = parse(&document, layers).unwrap_err();
            assert!(refusal.contains(reason), "{refusal}");
        }
    }
}
