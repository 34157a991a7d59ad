//! `banger vm exec`

use std::ffi::OsString;
use std::path::PathBuf;

use banger_api::{Client, Vm};
use banger_config::Paths;
use banger_model::{Code, Error, Result, VmState};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::reference;
use super::workspace::before_exec;
use crate::completion::vm_names;
use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::guest_command::{CommandArgs, GuestCommand};
use crate::session::{self, Ended};
use crate::signals::Signals;
use crate::ui::Ui;

/// Run a command in a running machine
///
/// The command gets standard input; it gets a terminal when standard input and output are one.
///
/// Where a repository was copied into the machine, the command runs in it, and a warning says when
/// the repository on this host has changed since.
///
/// Exit codes: the command's own; 128+n when signal n ended it; 125 when banger failed; 126 when
/// the guest cannot execute the command, 127 when it has no such command; 2 for a command line
/// that is not valid.
#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// Name, id, or a unique beginning of either
    #[arg(value_parser = reference, add = ArgValueCandidates::new(vm_names))]
    name: String,

    /// Copy the repository again first, as it was copied before, if it has changed since
    ///
    /// Work in the guest that was not exported is first saved under refs/banger/NAME/ in the
    /// repository.
    #[arg(long)]
    auto_prepare: bool,

    #[command(flatten)]
    command_args: CommandArgs,

    /// Command to run, after `--`, and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(crate) async fn cmd_exec(ui: &Ui, args: ExecArgs) -> Result<Exit> {
    let command = GuestCommand::new(args.command_args, args.command)?;
    let paths = Paths::from_env()?;
    let mut signals = Signals::listen()?;
    let found = tokio::select! {
        found = find(&paths, &args.name) => found?,
        signal = signals.next_to_end() => return Ok(Exit::signal(signal.number())),
    };
    let (client, vm) = found;
    warn_of_other_release(ui, &client);
    agent_socket(&vm)?;
    let before = before_exec(ui, &paths, &client, &vm, args.auto_prepare, &mut signals);
    let command = match before.await? {
        Ok(Some(directory)) => command.in_directory(directory).with_tools(),
        Ok(None) => command,
        Err(signal) => return Ok(Exit::signal(signal.number())),
    };
    let ended = open_session(&client, &vm, command, &mut signals).await?;
    Ok(ended.exit())
}

async fn find(paths: &Paths, name: &str) -> Result<(Client, Vm)> {
    let (client, vm) = connect_and_ask(paths, async |client| client.vm(name).await).await?;
    Ok((client, vm))
}

/// Runs a command in a machine. When the connection breaks, finds out whether the machine went
/// away under it.
pub(super) async fn open_session(
    client: &Client,
    vm: &Vm,
    command: GuestCommand,
    signals: &mut Signals,
) -> Result<Ended> {
    let socket = agent_socket(vm)?;
    let exec = command.into_exec(&vm.image_config);
    let ended = session::run(&socket, exec, signals).await;
    match ended {
        Err(error) if error.code() == Code::AgentFailed => {
            Err(lost(client, vm, error, "the command ran").await)
        }
        ended => ended,
    }
}

/// Why the connection to a machine's agent broke while something was done in it.
pub(super) async fn lost(client: &Client, vm: &Vm, error: Error, during: &str) -> Error {
    match client.vm(&vm.id).await {
        Ok(now) if now.state != VmState::Running => went_away(&now, during).because(error),
        Err(asked) if asked.code() == Code::NotFound => deleted(vm, during).because(error),
        // The daemon may not have noticed yet, or the machine is well and its agent is not.
        _ => Error::new(
            Code::AgentFailed,
            format!("the session with `{}` broke off", vm.name),
        )
        .hint(format!(
            "`banger vm show {}` says what became of it",
            vm.name
        ))
        .because(error),
    }
}

/// Where the machine's agent answers, if it runs.
pub(crate) fn agent_socket(vm: &Vm) -> Result<PathBuf> {
    match (&vm.agent_socket, vm.state) {
        (Some(socket), VmState::Running) => Ok(PathBuf::from(socket)),
        _ => Err(not_running(vm)),
    }
}

fn not_running(vm: &Vm) -> Error {
    let name = &vm.name;
    let because = vm
        .reason
        .as_ref()
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    let message = format!("`{name}` is {}, not running{because}", vm.state);
    let hint = match vm.state {
        VmState::Stopped => format!("run `banger vm start {name}` first"),
        VmState::Broken => format!("run `banger vm delete {name}`"),
        _ => format!("`banger vm show {name}` shows how far it is"),
    };
    Error::new(Code::Conflict, message).hint(hint)
}

fn went_away(vm: &Vm, during: &str) -> Error {
    let name = &vm.name;
    let because = vm
        .reason
        .as_ref()
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    let state = match under_way(vm.state) {
        Some(act) => format!("is being {act}{because}"),
        None => format!("is {} now{because}", vm.state),
    };
    Error::new(
        Code::AgentFailed,
        format!("`{name}` {state}: the connection to it ended while {during}"),
    )
    .hint(format!("its console is in `{}`", vm.console_log))
}

/// What is being done to a machine that does not run any more, but has not come to rest.
fn under_way(state: VmState) -> Option<&'static str> {
    match state {
        VmState::Stopping => Some("stopped"),
        VmState::Deleting => Some("deleted"),
        VmState::Creating
        | VmState::Starting
        | VmState::Running
        | VmState::Stopped
        | VmState::Broken => None,
    }
}

fn deleted(vm: &Vm, during: &str) -> Error {
    Error::new(
        Code::AgentFailed,
        format!("`{}` was deleted while {during}", vm.name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::example;

    #[test]
    fn a_machine_that_does_not_run_is_refused_with_the_way_out() {
        let vm = Vm {
            state: VmState::Stopped,
            ..example()
        };
        let error = agent_socket(&vm).unwrap_err();
        assert_eq!(error.message(), "`box` is stopped, not running");
        assert_eq!(error.hint_text(), Some("run `banger vm start box` first"));
        let vm = Vm {
            state: VmState::Stopped,
            reason: Some("the guest panicked".into()),
            agent_socket: Some("/x".into()),
            ..example()
        };
        let error = agent_socket(&vm).unwrap_err();
        assert_eq!(
            error.message(),
            "`box` is stopped, not running (the guest panicked)"
        );
    }
}
