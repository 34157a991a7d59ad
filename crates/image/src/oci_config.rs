//! An image config in the form of OCI, as `skopeo inspect --config` prints it.

use std::collections::BTreeMap;

use banger_model::{Code, Error, ImageConfig, Result};
use banger_oci::Details;
use serde::Deserialize;
use serde_json::Value;

/// The part of the config that is about running commands; the rest is of no use here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Raw {
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
}

/// Reads a whole OCI image config, or the object `config` in it alone. Also gives what
/// else it says.
///
/// # Errors
/// `invalid_argument`, saying what is wrong.
pub fn parse_config(document: &Value) -> Result<(ImageConfig, Details)> {
    let refuse = |why: &str| {
        Error::new(
            Code::InvalidArgument,
            format!("the image config cannot be used: {why}"),
        )
        .hint(
            "write it as OCI does: {\"config\": {\"Env\": [\"A=b\"], \"User\": \"app\", \
             \"WorkingDir\": \"/srv\", \"Entrypoint\": [\"/entry\"], \"Cmd\": [\"serve\"]}}",
        )
    };
    let Some(object) = document.as_object() else {
        return Err(refuse("it is no JSON object"));
    };
    let inner = match object.get("config") {
        Some(Value::Null) => &Value::Object(serde_json::Map::new()),
        Some(inner) => inner,
        // A whole config without one is not taken for the inner object.
        None if object.contains_key("rootfs") => &Value::Object(serde_json::Map::new()),
        None => document,
    };
    let raw = Raw::deserialize(inner).map_err(|error| refuse(&error.to_string()))?;
    let mut env = BTreeMap::new();
    for entry in raw.env.unwrap_or_default() {
        // The last of several counts, as when a process starts.
        match entry.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                env.insert(name.to_owned(), value.to_owned());
            }
            _ => {
                let why = format!("`{}` in `Env` is not `NAME=VALUE`", entry.escape_debug());
                return Err(refuse(&why));
            }
        }
    }
    let said = |text: Option<String>| text.filter(|text| !text.is_empty());
    let config = ImageConfig {
        env,
        user: said(raw.user),
        workdir: said(raw.working_dir),
        entrypoint: raw.entrypoint.unwrap_or_default(),
        cmd: raw.cmd.unwrap_or_default(),
    };
    check(&config).map_err(|why| refuse(&why))?;
    let details = Details {
        labels: raw.labels.unwrap_or_default(),
        ..Details::default()
    };
    Ok((config, details))
}

/// No program can be given a NUL; finding that out when a VM starts would be late.
fn check(config: &ImageConfig) -> Result<(), String> {
    let words = config
        .env
        .iter()
        .flat_map(|(name, value)| [name, value])
        .chain(&config.user)
        .chain(&config.workdir)
        .chain(&config.entrypoint)
        .chain(&config.cmd);
    for word in words {
        if word.contains('\0') {
            return Err(format!("`{}` contains a NUL", word.escape_debug()));
        }
    }
    match &config.workdir {
        Some(dir) if !dir.starts_with('/') => Err(format!(
            "`WorkingDir` is `{}`, which is not absolute",
            dir.escape_debug()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_whole_config_and_its_inner_object_say_the_same() {
        let inner = json!({
            "Env": ["A=1", "B=x=y", "A=2"], "User": "app:staff", "WorkingDir": "/srv",
            "Entrypoint": ["/e"], "Cmd": ["a", "b c"], "Labels": {"l": "v"}, "Volumes": {},
        });
        let whole = json!({"architecture": "amd64", "rootfs": {}, "config": inner});
        for document in [&inner, &whole] {
            let (config, details) = parse_config(document).unwrap();
            assert_eq!(config.env["A"], "2");
            assert_eq!(config.env["B"], "x=y");
            assert_eq!(config.user.as_deref(), Some("app:staff"));
            assert_eq!(config.workdir.as_deref(), Some("/srv"));
            assert_eq!(config.entrypoint, ["/e"]);
            assert_eq!(config.cmd, ["a", "b c"]);
            assert_eq!(details.labels["l"], "v");
        }
        for empty in [
            json!({}),
            json!({"config": null}),
            json!({"rootfs": {}}),
            json!({"User": "", "WorkingDir": "", "Env": null}),
        ] {
            assert_eq!(parse_config(&empty).unwrap().0, ImageConfig::default());
        }
    }

    #[test]
    fn what_could_not_be_run_is_refused() {
        for bad in [
            json!([]),
            json!("x"),
            json!({"Env": ["A"]}),
            json!({"Env": ["=x"]}),
            json!({"Env": {"A": "b"}}),
            json!({"Cmd": "sh -c x"}),
            json!({"Cmd": ["a\0b"]}),
            json!({"WorkingDir": "srv"}),
        ] {
            let error = parse_config(&bad).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{bad}");
            assert!(error.hint_text().is_some(), "{bad}");
        }
    }
}
