//! `banger daemon status`

use banger_api::DaemonInfo;
use banger_config::Paths;
use banger_model::Result;
use clap::Args;
use serde::Serialize;

use crate::connect::{connect_to_running, warn_of_other_release};
use crate::exit::Exit;
use crate::ui::{Format, Ui, key_values};

/// Say whether the daemon runs
///
/// Ends with 0 when it does, 1 when it does not.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {}

#[derive(Serialize)]
struct Status {
    running: bool,
    #[serde(flatten)]
    daemon: Option<DaemonInfo>,
}

pub(crate) async fn cmd_status(ui: &Ui, _args: StatusArgs) -> Result<Exit> {
    let client = connect_to_running(&Paths::from_env()?)?;
    let daemon = match &client {
        Some(client) => {
            let daemon = client.daemon().await?;
            warn_of_other_release(ui, client);
            Some(daemon)
        }
        None => None,
    };
    let running = daemon.is_some();
    match (ui.format(), daemon) {
        (Format::Json, daemon) => ui.json(&Status { running, daemon })?,
        (Format::Table, Some(daemon)) => ui.data(&as_table(daemon))?,
        (Format::Table, None) => {
            ui.data("not running; the next command that needs it starts it")?
        }
    }
    Ok(if running {
        Exit::SUCCESS
    } else {
        Exit::FAILURE
    })
}

fn as_table(daemon: DaemonInfo) -> String {
    key_values(vec![
        ("release", daemon.version),
        ("pid", daemon.pid.to_string()),
        ("started", daemon.started_at),
        ("state", daemon.state_dir),
        ("running machines", daemon.running_vms.to_string()),
    ])
}
