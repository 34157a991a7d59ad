//! `banger version`

use banger_model::Result;
use clap::Args;
use serde::Serialize;

use crate::exit::Exit;
use crate::ui::{Format, Ui};

/// The release of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Print the release of this program
#[derive(Args, Debug)]
pub(crate) struct VersionArgs {}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

pub(crate) fn cmd_version(ui: &Ui, _args: VersionArgs) -> Result<Exit> {
    match ui.format() {
        Format::Table => ui.data(&format!("banger {VERSION}"))?,
        Format::Json => ui.json(&Version { version: VERSION })?,
    }
    Ok(Exit::SUCCESS)
}
