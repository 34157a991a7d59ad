//! `banger daemon socket`

use banger_config::Paths;
use banger_model::Result;
use clap::Args;
use serde::Serialize;

use crate::exit::Exit;
use crate::ui::{Format, Ui};

/// Print where the daemon listens, or would
#[derive(Args, Debug)]
pub(crate) struct SocketArgs {}

#[derive(Serialize)]
struct Socket {
    socket: String,
}

pub(crate) fn cmd_socket(ui: &Ui, _args: SocketArgs) -> Result<Exit> {
    let socket = Paths::from_env()?.daemon_socket().display().to_string();
    match ui.format() {
        Format::Table => ui.data(&socket)?,
        Format::Json => ui.json(&Socket { socket })?,
    }
    Ok(Exit::SUCCESS)
}
