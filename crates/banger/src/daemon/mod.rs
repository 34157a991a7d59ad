//! `banger daemon …`. None of these starts it.

mod socket;
mod status;
mod stop;

use banger_model::Result;
use clap::Subcommand;

use crate::block_on;
use crate::exit::Exit;
use crate::ui::Ui;

/// The commands about the daemon.
#[derive(Subcommand, Debug)]
pub(crate) enum DaemonCommand {
    Status(status::StatusArgs),
    Stop(stop::StopArgs),
    Socket(socket::SocketArgs),
}

pub(crate) fn dispatch(ui: &Ui, command: DaemonCommand) -> Result<Exit> {
    match command {
        DaemonCommand::Status(args) => block_on(status::cmd_status(ui, args)),
        DaemonCommand::Stop(args) => block_on(stop::cmd_stop(ui, args)),
        DaemonCommand::Socket(args) => socket::cmd_socket(ui, args),
    }
}
