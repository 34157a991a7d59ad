//! The command line of banger.
//!
//! It parses what was typed, asks the daemon over its unix socket, starting it when it does not
//! run, and talks to guests itself for everything that streams. It owns the terminal: no other
//! crate prints. It keeps no state of its own.
//!
//! One file per command: `vm/run.rs` has `RunArgs` and `cmd_run`. Around them:
//!
//! - `cli`: the command tree and what happens to a line that does not parse
//! - `ui`: tables, JSON, errors, progress
//! - `connect`: reaching the daemon
//! - `logs`: files that grow
//! - `ssh`: OpenSSH to machines
//! - `session`: one command in a guest, with its terminal, streams and signals
//! - `exit`: exit codes

mod cli;
mod completion;
mod config;
mod confirm;
mod connect;
mod daemon;
mod doctor;
mod env_file;
mod environment;
mod exit;
mod forwarding;
mod guest_command;
mod image;
mod kernel;
mod lazy;
mod logs;
mod man;
mod operation;
pub mod reference;
mod saved;
mod session;
mod signals;
mod ssh;
mod ui;
mod version;
mod vm;

use std::ffi::OsString;
use std::process::ExitCode;

use banger_model::{Error, Result};

use cli::{Cli, Command};
use exit::Exit;
use lazy::Lazy;
use ui::Ui;

/// Runs the program.
pub fn main() -> ExitCode {
    completion::answer_the_shell();
    let args: Vec<OsString> = std::env::args_os().collect();
    let cli = match cli::parse(&args) {
        Ok(cli) => cli,
        Err(refusal) => return refusal.print().into(),
    };
    let ui = Ui::new(&cli.global, cli.command.owner_of_stdout());
    let exit = dispatch(&ui, cli).unwrap_or_else(|failure| {
        ui.error(&failure.error);
        Exit::for_error(&failure.error, failure.owner)
    });
    ui.exit(exit).into()
}

/// An error, and whose exit codes and standard output the command speaks with.
struct Failure {
    error: Error,
    owner: exit::Owner,
}

fn dispatch(ui: &Ui, cli: Cli) -> Result<Exit, Failure> {
    let owner = cli.command.owner_of_stdout();
    let result = match cli.command {
        Command::Vm(Lazy(command)) => vm::dispatch(ui, *command),
        Command::Image(Lazy(command)) => image::dispatch(ui, *command),
        Command::Kernel(Lazy(command)) => kernel::dispatch(ui, *command),
        Command::Daemon(Lazy(command)) => daemon::dispatch(ui, *command),
        Command::Doctor(Lazy(args)) => block_on(doctor::cmd_doctor(ui, *args)),
        Command::Config(Lazy(command)) => config::dispatch(ui, *command),
        Command::SshConfig(Lazy(args)) => ssh::cmd_ssh_config(ui, *args),
        Command::SshProxy(Lazy(args)) => block_on(ssh::cmd_ssh_proxy(ui, *args)),
        Command::Completion(Lazy(args)) => completion::cmd_completion(ui, *args),
        Command::Version(Lazy(args)) => version::cmd_version(ui, *args),
        Command::Man(Lazy(args)) => man::cmd_man(ui, *args),
    };
    result.map_err(|error| Failure { error, owner })
}

/// Runs a command that waits for others, on this one thread.
fn block_on(command: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal("cannot start the event loop").because(error))?;
    let result = runtime.block_on(command);
    // Nothing that still runs in the background may delay the exit code.
    runtime.shutdown_background();
    result
}
