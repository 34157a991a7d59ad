//! `banger daemon …`. None of these starts it.

mod logs;
mod socket;
mod status;
mod stop;

use banger_model::Result;
use clap::Subcommand;

use crate::block_on;
use crate::exit::{Exit, Owner};
use crate::ui::Ui;

/// The commands about the daemon.
#[derive(Subcommand, Debug)]
pub(crate) enum DaemonCommand {
    Status(status::StatusArgs),
    Stop(stop::StopArgs),
    Socket(socket::SocketArgs),
    Logs(logs::LogsArgs),
}

impl DaemonCommand {
    /// Whom standard output belongs to.
    pub(crate) fn owner_of_stdout(&self) -> Owner {
        match self {
            DaemonCommand::Logs(_) => Owner::Text,
            _ => Owner::Banger,
        }
    }
}

pub(crate) fn dispatch(ui: &Ui, command: DaemonCommand) -> Result<Exit> {
    match command {
        DaemonCommand::Status(args) => block_on(status::cmd_status(ui, args)),
        DaemonCommand::Stop(args) => block_on(stop::cmd_stop(ui, args)),
        DaemonCommand::Socket(args) => socket::cmd_socket(ui, args),
        DaemonCommand::Logs(args) => logs::cmd_logs(ui, args),
    }
}
