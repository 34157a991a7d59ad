//! `banger config show`

use banger_config::{Config, Paths};
use banger_model::Result;
use clap::Args;
use serde::Serialize;

use crate::exit::Exit;
use crate::ui::{Format, Ui, table};

/// Show every setting and where its value comes from
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {}

/// One setting, as JSON.
#[derive(Serialize)]
struct Setting {
    key: String,
    value: String,
    source: String,
}

pub(crate) fn cmd_show(ui: &Ui, _args: ShowArgs) -> Result<Exit> {
    let paths = Paths::from_env()?;
    let settings = settings(&paths)?;
    match ui.format() {
        Format::Json => ui.json(&settings)?,
        Format::Table => {
            let rows = settings
                .into_iter()
                .map(|setting| vec![setting.key, setting.value, setting.source])
                .collect();
            ui.data(&table(&["KEY", "VALUE", "FROM"], rows))?;
            let file = paths.config_file.display();
            ui.note(&match paths.config_file.exists() {
                true => format!("the configuration file is `{file}`"),
                false => format!("there is no configuration file; it would be `{file}`"),
            });
        }
    }
    Ok(Exit::SUCCESS)
}

fn settings(paths: &Paths) -> Result<Vec<Setting>> {
    let setting = |key: &str, value: String, source: &str| Setting {
        key: key.to_owned(),
        value,
        source: source.to_owned(),
    };
    let mut settings: Vec<_> = super::resolve(paths)?
        .rows()
        .into_iter()
        .map(|(key, value, source)| setting(key, value, &source.to_string()))
        .collect();
    let config = Config::load(&paths.config_file)?;
    let firecracker = match &paths.firecracker {
        Some(path) => Some((path.clone(), "BANGER_FIRECRACKER")),
        None => config.firecracker_bin.map(|path| (path, "config")),
    };
    let qemu = config.qemu_bin.map(|path| (path, "config"));
    for (key, program) in [("firecracker_bin", firecracker), ("qemu_bin", qemu)] {
        if let Some((path, source)) = program {
            settings.push(setting(key, path.display().to_string(), source));
        }
    }
    if let Some(mirror) = config.images.mirror {
        settings.push(setting("images.mirror", mirror, "config"));
    }
    for (index, sync) in config.file_sync.iter().enumerate() {
        let key = format!("file_sync[{index}]");
        settings.push(setting(&key, sync.to_string(), "config"));
    }
    Ok(settings)
}
