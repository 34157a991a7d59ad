//! `banger vm run`: make a machine, run a command in it, give back its exit code.
//!
//! ```text
//! check ─▶ ask the daemon ─▶ follow the boot ─▶ session ─▶ delete (--rm) ─▶ exit code
//!   │             │                 │ signal: cancel,  │ signal: forward,
//!   ▼ 2           ▼ 125             ▼ wait: 128+n      ▼ then end: 128+n
//! ```
//!
//! A repository is looked at before the daemon is asked for anything, copied after the boot, and
//! its changes are reviewed after the session.
//!
//! With `--rm` the machine is deleted on every one of these ways out. Should this process be
//! killed, the lease it holds ends with it and the daemon deletes the machine.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_api::{Client, CreateVm, DeleteOptions, Operation, Vm};
use banger_config::Paths;
use banger_model::{Code, Error, Result, VmState};
use banger_workspace::Plan;
use clap::{Args, ValueEnum, ValueHint};

use super::bootstrap::{self, Bootstrap};
use super::exec::{agent_socket, open_session};
use super::keeper::Keeper;
use super::machine_args::MachineArgs;
use super::say_spec;
use super::workspace::{
    GuestPath, OnExit, Outcome, Preparation, Review, SourceArgs, list, plan, say_left_out,
};
use crate::config;
use crate::connect::{connect, warn_of_other_release};
use crate::exit::Exit;
use crate::guest_command::{CommandArgs, GuestCommand};
use crate::operation::{Followed, NOTHING_LEFT, OnSignal, follow};
use crate::session::Ended;
use crate::signals::{Signal, Signals};
use crate::ui::{Format, Progress, Ui};

/// Make a machine and run a command in it
///
/// Makes and boots a new machine, runs COMMAND in it and ends with its exit code. Without
/// COMMAND, the image's own command or a login shell. The command gets standard input; it gets
/// a terminal when standard input and output are one. An image or kernel that is not here is
/// pulled first.
///
/// With PATH, the git repository there is copied in first: HEAD and every uncommitted change to
/// files that git knows. COMMAND, or a login shell, runs in the copy. The repository on this host
/// is only read; on a terminal, what was changed in the guest is shown at the end and may be
/// applied to it.
///
/// Without `--rm` the machine keeps running afterwards. With it, work that was not exported is
/// first saved under refs/banger/NAME/ in the repository.
///
/// Exit codes: the command's own; 128+n when signal n ended it; 125 when banger failed; 126 when
/// the guest cannot execute the command, 127 when it has no such command; 2 for a command line
/// that is not valid.
#[derive(Args, Debug, Default)]
#[command(
    override_usage = "banger vm run [OPTIONS] [PATH] [-- <COMMAND>...]",
    after_help = "Examples:\n  \
    banger vm run . -- make test\n  \
    banger vm run --rm -- sh -c 'echo $0 $$'\n  \
    tar c . | banger vm run --rm -- tar x -C /srv\n  \
    banger vm run -d --name box && banger vm exec box -- uptime"
)]
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

    #[command(flatten)]
    source: SourceArgs,

    /// What becomes of the changes in the guest when COMMAND has ended
    ///
    /// Without it they are asked about on a terminal, and otherwise stay in the guest.
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        help_heading = "Workspace options"
    )]
    on_exit: Option<OnExit>,

    /// Top directory of a git repository to copy in
    #[arg(value_name = "PATH", value_hint = ValueHint::DirPath)]
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
        if let [first, .., last] = self.path.as_slice() {
            let words = [first.display(), last.display()].map(|word| word.to_string());
            return refuse(
                format!(
                    "`{}` and `{}`: only one repository can be copied",
                    words[0], words[1]
                ),
                write_dashes(first),
            );
        }
        if self.path.is_empty() && (self.source != SourceArgs::default() || self.on_exit.is_some())
        {
            return refuse(
                "workspace options are about a repository, and none is given".into(),
                "name its top directory: `banger vm run .`".into(),
            );
        }
        self.source.check()?;
        if self.on_exit == Some(OnExit::Ask) && !OnExit::can_ask() {
            return refuse(
                "`--on-exit ask` asks, and there is no terminal to ask on".into(),
                "leave it away, or say ahead: `--on-exit keep`".into(),
            );
        }
        if self.detach && self.on_exit.is_some() {
            return refuse(
                "`--detach` runs no command, so `--on-exit` has no end to wait for".into(),
                "export the changes with `banger vm workspace export NAME`".into(),
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

/// What to do when a command was meant by what was taken for a path.
fn write_dashes(path: &Path) -> String {
    let path = path.display();
    format!("to run a command, write `--` before it: `banger vm run -- {path}`")
}

/// Looks at the repository to be copied, if there is one.
async fn look(args: &RunArgs) -> Result<Option<Arc<Plan>>> {
    let Some(path) = args.path.first() else {
        return Ok(None);
    };
    let planned = plan(path.clone(), args.source.options()).await;
    planned.map(Some).map_err(|error| match error.code() {
        Code::NotFound if args.command.is_empty() => error.hint(write_dashes(path)),
        _ => error,
    })
}

/// What is to be installed for the repository that was named.
fn bootstrap(args: &RunArgs) -> Result<Option<Bootstrap>> {
    let Some(path) = args.path.first() else {
        return Ok(None);
    };
    let nat = match args.machine.nat {
        Some(nat) => nat,
        None => config::resolve(&Paths::from_env()?)?.nat.value,
    };
    bootstrap::check(path, nat, args.no_bootstrap)
}

pub(crate) async fn cmd_run(ui: &Ui, args: RunArgs) -> Result<Exit> {
    let started = Instant::now();
    let mut signals = Signals::listen()?;
    let planned = tokio::select! {
        planned = look(&args) => planned?,
        signal = signals.next_to_end() => return Ok(Exit::signal(signal.number())),
    };
    let guest_path = args.source.guest_path();
    if let (Some(plan), true) = (&planned, args.source.dry_run) {
        list(ui, plan, &guest_path)?;
        return Ok(Exit::SUCCESS);
    }
    let bootstrap = bootstrap(&args)?;
    let command = GuestCommand::new(args.command_args, args.command)?;
    let command = match &planned {
        Some(_) if command.is_shell() => command,
        _ => command.with_entrypoint(),
    };
    let request = CreateVm {
        ephemeral: args.rm,
        ..args.machine.request()
    };
    let paths = Paths::from_env()?;

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
        repository: planned.map(|plan| (plan, guest_path)),
        bootstrap,
        on_exit: args.on_exit,
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
    /// What is copied in, and where to.
    repository: Option<(Arc<Plan>, GuestPath)>,
    /// What is installed for it.
    bootstrap: Option<Bootstrap>,
    on_exit: Option<OnExit>,
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
        let vm = match self.fill(vm, signals).await? {
            Ok(vm) => vm,
            Err(way_out) => return Ok(Err(way_out)),
        };
        self.ui
            .say(&format!("ready in {}", seconds(self.started.elapsed())));
        Ok(Ok(vm))
    }

    /// Copies the repository in, and what belongs to it. `Err` in the inner result is a way out.
    async fn fill(&self, vm: Vm, signals: &mut Signals) -> Result<Result<Vm, WayOut>> {
        let Some((plan, guest_path)) = &self.repository else {
            return Ok(Ok(vm));
        };
        say_left_out(self.ui, plan);
        let preparation = Preparation {
            ui: self.ui,
            paths: &self.paths,
            client: &self.begun.client,
            vm_id: &self.begun.id,
            plan: plan.clone(),
            guest_path: guest_path.clone(),
            is_new: true,
            discard: false,
        };
        let vm = match preparation.carry_out(signals).await? {
            Outcome::Prepared(vm, _) => *vm,
            Outcome::Interrupted(signal) => {
                let exit = Exit::signal(signal.number());
                return Ok(Err(WayOut::Exit(exit)));
            }
        };
        if let Some(bootstrap) = &self.bootstrap {
            let socket = agent_socket(&vm)?;
            let path = guest_path.to_string();
            if let Some(signal) = bootstrap.run(self.ui, &socket, path, signals).await? {
                return Ok(Err(WayOut::Exit(Exit::signal(signal.number()))));
            }
        }
        Ok(Ok(vm))
    }

    /// Asks what becomes of the changes in the guest, once the command has ended by itself.
    async fn review(&self, ended: &Ended, signals: &mut Signals) -> Result<()> {
        let is_answered = self.discard && self.on_exit.is_none();
        if self.repository.is_none() || is_answered || !matches!(ended, Ended::Exited(_)) {
            return Ok(());
        }
        let review = Review {
            ui: self.ui,
            paths: &self.paths,
            client: &self.begun.client,
            vm_id: &self.begun.id,
            on_exit: self.on_exit,
            is_last: !self.begun.is_kept,
        };
        review.carry_out(signals).await
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
        let ran = self.run(signals, command).await;
        if self.begun.is_kept && !matches!(ran, Ok(WayOut::Undone(_) | WayOut::Leave(_))) {
            self.say_kept().await;
        }
        ran
    }

    async fn run(&self, signals: &mut Signals, command: GuestCommand) -> Result<WayOut> {
        let vm = match self.ready(signals).await? {
            Ok(vm) => vm,
            Err(way_out) => return Ok(way_out),
        };
        let mut command = command;
        if let Some((_, path)) = &self.repository {
            command = command.in_directory(path.to_string()).with_tools();
        }
        let session = open_session(&self.begun.client, &vm, command, signals).await?;
        if let Err(error) = self.review(&session, signals).await {
            self.ui.error(&error);
            return Ok(WayOut::Exit(match session.exit() {
                Exit::SUCCESS => Exit::BANGER_FAILED,
                exit => exit,
            }));
        }
        Ok(WayOut::Exit(session.exit()))
    }

    /// Says that the machine keeps running, if it does.
    async fn say_kept(&self) {
        let Begun { client, id, .. } = &self.begun;
        let runs = client.vm(id).await;
        if runs.is_ok_and(|vm| vm.state == VmState::Running) {
            let name = self.name();
            self.ui.note(&format!(
                "`{name}` keeps running: `banger vm exec {name} -- COMMAND` runs another command, \
                 `banger vm delete {name}` deletes it"
            ));
        }
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
