//! `banger vm run`: make a machine, run a command in it, give back its exit code.
//!
//! ```text
//! check ─▶ ask the daemon ─▶ follow the boot ─▶ session ─▶ delete (--rm) ─▶ exit code
//!   │             │                 │ signal: cancel,  │ signal: forward,
//!   ▼ 2           ▼ 125             ▼ wait: 128+n      ▼ then end: 128+n
//! ```
//!
//! With `--rm` the machine is deleted on every one of these ways out. Should this process be
//! killed, the lease it holds ends with it and the daemon deletes the machine.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use banger_api::{Client, CreateVm, DeleteOptions, Operation, Vm};
use banger_config::Paths;
use banger_model::{Code, Error, Result};
use clap::{Args, ValueEnum};

use super::bootstrap::{self, Bootstrap};
use super::exec::{agent_socket, open_session};
use super::keeper::Keeper;
use super::machine_args::MachineArgs;
use super::say_spec;
use crate::config;
use crate::connect::{connect, warn_of_other_release};
use crate::exit::Exit;
use crate::guest_command::{CommandArgs, GuestCommand};
use crate::operation::{Followed, NOTHING_LEFT, OnSignal, follow};
use crate::signals::{Signal, Signals};
use crate::ui::{Format, Progress, Ui};

/// Make a machine and run a command in it
///
/// Makes and boots a new machine, runs COMMAND in it and ends with its exit code. Without
/// COMMAND, the image's own command or a login shell. The command gets standard input; it gets
/// a terminal when standard input and output are one. An image or kernel that is not here is
/// pulled first.
///
/// Without `--rm` the machine keeps running afterwards.
///
/// Exit codes: the command's own; 128+n when signal n ended it; 125 when banger failed; 126 when
/// the guest cannot execute the command, 127 when it has no such command; 2 for a command line
/// that is not valid.
#[derive(Args, Debug, Default)]
#[command(after_help = "Examples:\n  \
    banger vm run --rm -- sh -c 'echo $0 $$'\n  \
    tar c . | banger vm run --rm -- tar x -C /srv\n  \
    banger vm run -d --name box && banger vm exec box -- uptime")]
pub(crate) struct RunArgs {
    /// Delete the machine afterwards, however that comes about
    #[arg(long)]
    rm: bool,

    /// With `--rm`: lose work in the workspace that was not exported, instead of saving it first
    #[arg(long, requires = "rm")]
    discard: bool,

    /// Leave the machine running and print its name
    #[arg(short, long)]
    detach: bool,

    /// How far the boot must be before the machine counts as ready
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    wait_for: WaitFor,

    /// Do not install the tools that the repository names
    ///
    /// A repository with a `.mise.toml`, `mise.toml` or `.tool-versions` gets its tools installed
    /// before the command runs, for which the machine needs `--nat`.
    #[arg(long)]
    no_bootstrap: bool,

    #[command(flatten)]
    machine: MachineArgs,

    #[command(flatten)]
    command_args: CommandArgs,

    /// Reserved for the repository to copy in.
    #[arg(hide = true)]
    path: Vec<PathBuf>,

    /// Command to run, after `--`, and its arguments
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// How far the boot must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum WaitFor {
    /// Commands can run; the image's init system may still be starting services
    #[default]
    Agent,
    /// The image's init system has finished
    Boot,
}

impl RunArgs {
    /// Refuses what the parser accepts only in order to explain it.
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |message: String, hint: String| {
            Err(Error::new(Code::InvalidArgument, message).hint(hint))
        };
        // One that is there is looked at first.
        if let Some(path) = self.path.first().filter(|path| !path.is_dir()) {
            let shown = path.display();
            return refuse(
                format!("`{shown}`: copying a repository into the machine is not in this release"),
                format!("to run a command, write `--` before it: `banger vm run -- {shown}`"),
            );
        }
        if self.detach && self.rm {
            return refuse(
                "`--detach` leaves the machine running and `--rm` deletes it".into(),
                "use one of them".into(),
            );
        }
        if self.detach && !self.command.is_empty() {
            return refuse(
                "`--detach` runs no command".into(),
                "leave the command away, then run it with `banger vm exec NAME -- COMMAND`".into(),
            );
        }
        if self.detach && self.command_args != CommandArgs::default() {
            return refuse(
                "`--detach` runs no command, so it takes no command options".into(),
                "give them to `banger vm exec` instead".into(),
            );
        }
        Ok(())
    }
}

/// Where the copy of the repository is in the guest.
const WORKSPACE: &str = "/root/repo";

/// What is to be installed for the repository that was named.
fn bootstrap(args: &RunArgs) -> Result<Option<Bootstrap>> {
    let Some(path) = args.path.first() else {
        return Ok(None);
    };
    let nat = match args.machine.nat {
        Some(nat) => nat,
        None => config::resolve(&Paths::from_env()?)?.nat.value,
    };
    bootstrap::check(path, nat, args.no_bootstrap)?;
    Err(Error::new(
        Code::InvalidArgument,
        format!(
            "`{}`: copying a repository into the machine is not in this release",
            path.display()
        ),
    )
    .hint("leave the directory away, and copy it in with `banger vm cp`"))
}

pub(crate) async fn cmd_run(ui: &Ui, args: RunArgs) -> Result<Exit> {
    let started = Instant::now();
    let bootstrap = bootstrap(&args)?;
    let command = GuestCommand::new(args.command_args, args.command)?.with_entrypoint();
    let request = CreateVm {
        ephemeral: args.rm,
        ..args.machine.request()
    };
    let paths = Paths::from_env()?;
    let mut signals = Signals::listen()?;

    let client = tokio::select! {
        client = connect(&paths) => client?,
        signal = signals.next_to_end() => return Ok(Exit::signal(signal.number())),
    };
    let begun = match signals.hold(begin(ui, &paths, client, &request)).await {
        Ok(begun) => begun?,
        Err(signal) => {
            ui.say("the daemon does not answer; `banger vm list` shows what became of the machine");
            return Ok(Exit::signal(signal.number()));
        }
    };
    let run = Run {
        ui,
        paths,
        begun,
        started,
        wait_for: args.wait_for,
        bootstrap,
        discard: args.discard,
    };
    let way_out = match args.detach {
        true => run.detach(&mut signals).await,
        false => run.attach(&mut signals, command).await,
    };
    match args.rm {
        true => run.delete(&mut signals, way_out).await,
        false => Ok(way_out?.exit()),
    }
}

/// The machine is being made.
struct Begun {
    client: Client,
    operation: Operation,
    id: String,
    lease: Option<Keeper>,
    is_kept: bool,
}

async fn begin(ui: &Ui, paths: &Paths, client: Client, request: &CreateVm) -> Result<Begun> {
    let operation = client.create_vm(request).await?;
    warn_of_other_release(ui, &client);
    let id = operation
        .vm_id
        .clone()
        .ok_or_else(|| Error::internal("the daemon made a machine without an id"))?;
    let lease = match request.ephemeral {
        true => match client.lease(&id).await {
            Ok(lease) => Some(Keeper::new(
                paths.clone(),
                client.clone(),
                id.clone(),
                lease,
            )),
            // It has failed already; the operation says why.
            Err(error) if error.code() == Code::NotFound => None,
            Err(error) => {
                client.delete_vm(&id, DeleteOptions::default()).await?;
                return Err(error);
            }
        },
        false => None,
    };
    Ok(Begun {
        client,
        operation,
        id,
        lease,
        is_kept: !request.ephemeral,
    })
}

/// How a run ends, before the machine is deleted.
enum WayOut {
    /// With this code.
    Exit(Exit),
    /// The user does not want to wait for anything more.
    Leave(Signal),
    /// Cancelled and undone: there is no machine.
    Undone(Signal),
}

impl WayOut {
    fn exit(&self) -> Exit {
        match self {
            WayOut::Exit(exit) => *exit,
            WayOut::Leave(signal) | WayOut::Undone(signal) => Exit::signal(signal.number()),
        }
    }
}

/// One run, from the moment the daemon has accepted it.
struct Run<'a> {
    ui: &'a Ui,
    paths: Paths,
    begun: Begun,
    started: Instant,
    wait_for: WaitFor,
    bootstrap: Option<Bootstrap>,
    discard: bool,
}

impl Run<'_> {
    fn name(&self) -> &str {
        &self.begun.operation.subject
    }

    /// Waits until commands may run. `Err` in the inner result is a way out.
    async fn ready(&self, signals: &mut Signals) -> Result<Result<Vm, WayOut>> {
        let vm = match self.boot(signals).await? {
            Ok(vm) => vm,
            Err(way_out) => return Ok(Err(way_out)),
        };
        if self.wait_for == WaitFor::Boot
            && let Some(way_out) = self.wait_for_boot(&vm, signals).await?
        {
            return Ok(Err(way_out));
        }
        self.ui
            .say(&format!("ready in {}", seconds(self.started.elapsed())));
        Ok(Ok(vm))
    }

    /// Waits for the machine. `Err` in the inner result is a way out.
    async fn boot(&self, signals: &mut Signals) -> Result<Result<Vm, WayOut>> {
        let Begun {
            client,
            operation,
            id,
            ..
        } = &self.begun;
        let vm = client.vm(id).await;
        if let Ok(vm) = &vm {
            say_spec(self.ui, &self.paths, vm);
        }
        let progress = Progress::new(self.ui);
        let followed = follow(
            self.ui,
            client,
            operation,
            signals,
            progress,
            OnSignal::Cancel,
        )
        .await?;
        match followed {
            Followed::Done => Ok(Ok(client.vm(id).await?)),
            Followed::Cancelled(signal) => Ok(Err(WayOut::Undone(signal))),
            Followed::Left(signal) => Ok(Err(WayOut::Leave(signal))),
            Followed::TooLate(signal) => {
                delete(self.ui, client, id, DeleteOptions::default(), signals).await?;
                self.ui.say(NOTHING_LEFT);
                Ok(Err(WayOut::Undone(signal)))
            }
        }
    }

    async fn detach(&self, signals: &mut Signals) -> Result<WayOut> {
        let vm = match self.ready(signals).await? {
            Ok(vm) => vm,
            Err(way_out) => return Ok(way_out),
        };
        match self.ui.format() {
            Format::Table => self.ui.data(&vm.name)?,
            Format::Json => self.ui.json(&vm)?,
        }
        Ok(WayOut::Exit(Exit::SUCCESS))
    }

    async fn attach(&self, signals: &mut Signals, command: GuestCommand) -> Result<WayOut> {
        let vm = match self.ready(signals).await? {
            Ok(vm) => vm,
            Err(way_out) => return Ok(way_out),
        };
        let way_out = self.command(&vm, command, signals).await;
        if self.begun.is_kept {
            let name = self.name();
            self.ui.note(&format!(
                "`{name}` keeps running: `banger vm exec {name} -- COMMAND` runs another command, \
                 `banger vm delete {name}` deletes it"
            ));
        }
        way_out
    }

    /// Runs the command, once it has the tools that its repository names.
    async fn command(
        &self,
        vm: &Vm,
        mut command: GuestCommand,
        signals: &mut Signals,
    ) -> Result<WayOut> {
        if let Some(bootstrap) = &self.bootstrap {
            let socket = agent_socket(vm)?;
            if let Some(signal) = bootstrap.run(self.ui, &socket, WORKSPACE, signals).await? {
                return Ok(WayOut::Exit(Exit::signal(signal.number())));
            }
            command = command.with_tools();
        }
        let session = open_session(&self.begun.client, vm, command, signals).await?;
        Ok(WayOut::Exit(session.exit()))
    }

    async fn wait_for_boot(&self, vm: &Vm, signals: &mut Signals) -> Result<Option<WayOut>> {
        let mut progress = Progress::new(self.ui);
        progress.say("waiting for the init system");
        let socket = agent_socket(vm)?;
        tokio::select! {
            booted = banger_guest_api::client::wait_boot(&socket) => booted.map(|()| None),
            signal = signals.next_to_end() => Ok(Some(WayOut::Exit(Exit::signal(signal.number())))),
        }
    }

    /// Deletes the machine, whatever happened to it, and decides what to end with.
    async fn delete(mut self, signals: &mut Signals, way_out: Result<WayOut>) -> Result<Exit> {
        let keeper = self.begun.lease.take();
        let deleted = match &way_out {
            Ok(WayOut::Undone(_) | WayOut::Leave(_)) => Ok(()),
            Ok(WayOut::Exit(_)) | Err(_) => self.delete_now(signals).await,
        };
        // Until here, so that being killed during the deletion is no way out either.
        drop(keeper);
        match (deleted, way_out) {
            (Ok(()), way_out) => Ok(way_out?.exit()),
            (Err(error), way_out) => {
                self.ui.error(&not_deleted(self.name(), error));
                match way_out?.exit() {
                    Exit::SUCCESS => Ok(Exit::BANGER_FAILED),
                    exit => Ok(exit),
                }
            }
        }
    }

    async fn delete_now(&self, signals: &mut Signals) -> Result<()> {
        // The daemon may have been restarted since.
        let client = connect(&self.paths).await?;
        let options = DeleteOptions {
            only_stopped: false,
            discard: self.discard,
        };
        delete(self.ui, &client, &self.begun.id, options, signals).await
    }
}

/// Deletes a machine. That there is none is as good.
pub(super) async fn delete(
    ui: &Ui,
    client: &Client,
    id: &str,
    options: DeleteOptions,
    signals: &mut Signals,
) -> Result<()> {
    let operation = match client.delete_vm(id, options).await {
        Err(error) if error.code() == Code::NotFound => return Ok(()),
        other => other?,
    };
    match follow(
        ui,
        client,
        &operation,
        signals,
        Progress::none(),
        OnSignal::Insist,
    )
    .await
    {
        Err(error) if error.code() == Code::NotFound => Ok(()),
        other => other.map(|_| ()),
    }
}

fn not_deleted(name: &str, error: Error) -> Error {
    let again = || format!("run `banger vm delete {name}`");
    let hint = error.hint_text().map_or_else(again, str::to_owned);
    Error::new(error.code(), format!("the machine `{name}` is not deleted"))
        .hint(hint)
        .because(error)
}

fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_decimal() {
        assert_eq!(seconds(Duration::from_millis(1940)), "1.9s");
        assert_eq!(seconds(Duration::from_secs(61)), "61.0s");
    }

    #[test]
    fn a_failed_deletion_names_the_machine_and_the_way_out() {
        let error = not_deleted("box", Error::new(Code::Io, "cannot remove `/x`"));
        assert_eq!(
            error.chain(),
            "the machine `box` is not deleted: cannot remove `/x`"
        );
        assert_eq!(error.hint_text(), Some("run `banger vm delete box`"));
    }
}
