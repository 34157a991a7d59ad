//! `banger vm workspace prepare`, and the copy as `vm run` and `vm exec` make it too.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use banger_api::{Client, Vm, Workspace};
use banger_config::Paths;
use banger_guest_api::client::{self, ExecOutput};
use banger_guest_api::{ByteString, Exec};
use banger_model::{Code, Error, Result};
use banger_workspace::{Kept, Options, Origin, Plan, Remote, Repository, Summary};
use clap::{Args, ValueHint};
use clap_complete::engine::ArgValueCandidates;
use serde::Serialize;

use super::copy::{copy, quantity};
use super::guest_path::GuestPath;
use super::options::SourceArgs;
use super::record;
use super::scratch::Scratch;
use super::{dry_run, turn};
use crate::completion::vm_names;
use crate::connect::{connect, warn_of_other_release};
use crate::exit::Exit;
use crate::signals::{Signal, Signals};
use crate::ui::{Format, Ui};
use crate::vm::{agent_socket, lost, reference};

/// Copy a git repository into a running machine
///
/// What goes is HEAD and every uncommitted change to files that git knows; with
/// `--include-untracked` also files that it does not know and does not ignore. The repository on
/// this host is only read.
///
/// The copy takes the place of what is there at once and whole. Work in an earlier copy that was
/// not exported is first saved under refs/banger/NAME/ in the repository, unless `--discard`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    banger vm workspace prepare box .\n  \
    banger vm workspace prepare box . --branch try --from v1.0")]
pub(crate) struct PrepareArgs {
    /// Name, id, or a unique beginning of either
    #[arg(value_parser = reference, add = ArgValueCandidates::new(vm_names))]
    name: String,

    /// Top directory of the repository
    #[arg(value_hint = ValueHint::DirPath)]
    path: PathBuf,

    #[command(flatten)]
    source: SourceArgs,

    /// Do not save what is in the guest and was not exported
    #[arg(long)]
    discard: bool,
}

impl PrepareArgs {
    pub(super) fn check(&self) -> Result<()> {
        self.source.check()
    }
}

/// What was copied, as JSON.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    files: u64,
    bytes: u64,
    untracked_left_out: u64,
    workspace: &'a Workspace,
}

pub(crate) async fn cmd_prepare(ui: &Ui, args: PrepareArgs) -> Result<Exit> {
    let mut signals = Signals::listen()?;
    let guest_path = args.source.guest_path();
    let options = args.source.options();
    let planned = tokio::select! {
        planned = plan(args.path, options) => planned?,
        signal = signals.next_to_end() => return Ok(Exit::signal(signal.number())),
    };
    if args.source.dry_run {
        dry_run::list(ui, &planned, &guest_path)?;
        return Ok(Exit::SUCCESS);
    }
    let paths = Paths::from_env()?;
    let client = tokio::select! {
        client = connect(&paths) => client?,
        signal = signals.next_to_end() => return Ok(Exit::signal(signal.number())),
    };
    let vm = client.vm(&args.name).await?;
    warn_of_other_release(ui, &client);
    agent_socket(&vm)?;
    say_left_out(ui, &planned);
    let preparation = Preparation {
        ui,
        paths: &paths,
        client: &client,
        vm_id: &vm.id,
        plan: planned.clone(),
        guest_path,
        is_new: false,
        discard: args.discard,
    };
    let (vm, summary) = match preparation.carry_out(&mut signals).await? {
        Outcome::Prepared(vm, summary) => (vm, summary),
        Outcome::Interrupted(signal) => return Ok(Exit::signal(signal.number())),
    };
    if ui.format() == Format::Json {
        ui.json(&Report {
            name: &vm.name,
            files: summary.files,
            bytes: planned.bytes(),
            untracked_left_out: planned.untracked_left_out(),
            workspace: record::complete(&vm)?,
        })?;
    }
    Ok(Exit::SUCCESS)
}

/// Finds out what would be copied. Nothing is written.
///
/// # Errors
/// Those of [`Repository::open`] and [`Repository::plan`].
pub(in crate::vm) async fn plan(path: PathBuf, options: Options) -> Result<Arc<Plan>> {
    blocking(move || {
        let plan = Repository::open(&path)?.plan(&options)?;
        Ok(Arc::new(plan))
    })
    .await
}

/// Says that files stay behind because git does not know them.
pub(in crate::vm) fn say_left_out(ui: &Ui, plan: &Plan) {
    let files = match plan.untracked_left_out() {
        0 => return,
        1 => "1 untracked file is".to_owned(),
        count => format!("{count} untracked files are"),
    };
    let options = plan.options();
    ui.say(&match options.include_untracked || options.from.is_some() {
        true => format!("{files} left out"),
        false => format!("{files} left out; `--include-untracked` copies what is not ignored"),
    });
}

/// One copy of a repository into a machine.
pub(in crate::vm) struct Preparation<'a> {
    pub(in crate::vm) ui: &'a Ui,
    pub(in crate::vm) paths: &'a Paths,
    pub(in crate::vm) client: &'a Client,
    pub(in crate::vm) vm_id: &'a str,
    pub(in crate::vm) plan: Arc<Plan>,
    pub(in crate::vm) guest_path: GuestPath,
    /// Whether nobody has worked in the machine yet.
    pub(in crate::vm) is_new: bool,
    /// Whether what is in the guest may be lost.
    pub(in crate::vm) discard: bool,
}

/// How a copy ended that did not fail.
pub(in crate::vm) enum Outcome {
    /// The machine has the workspace.
    Prepared(Box<Vm>, Summary),
    /// A signal ended it; in the guest everything is as it was.
    Interrupted(Signal),
}

impl Preparation<'_> {
    /// Waits for its turn, keeps what is in the way, copies, and records it.
    ///
    /// # Errors
    /// Those of the copy. In the guest everything is then as it was.
    pub(in crate::vm) async fn carry_out(self, signals: &mut Signals) -> Result<Outcome> {
        let ui = self.ui;
        let new = record::record(&self.plan, &self.guest_path, false)?;
        let mut turn = tokio::select! {
            turn = turn::take(ui, self.client, self.vm_id) => turn?,
            signal = signals.next_to_end() => return Ok(Outcome::Interrupted(signal)),
        };
        // As it is now that nobody else changes it.
        let vm = self.client.vm(self.vm_id).await?;
        let remote = record::remote(&vm, &new)?;
        let scratch = Scratch::new(self.paths)?;
        if !self.discard && !self.is_new {
            tokio::select! {
                kept = self.keep(&vm, &remote, &scratch) => kept?,
                signal = signals.next_to_end() => return Ok(Outcome::Interrupted(signal)),
            }
        }
        if vm.workspace.is_none() {
            self.client.set_workspace(&vm.id, &new).await?;
        }
        let copied = copy(ui, &remote, &self.plan, &scratch, &mut turn, signals).await;
        let summary = match copied {
            Ok(Ok(summary)) => summary,
            Ok(Err(signal)) => {
                ui.say("interrupted; in the guest everything is as it was");
                return Ok(Outcome::Interrupted(signal));
            }
            Err(error) if error.code() == Code::AgentFailed => {
                return Err(lost(self.client, &vm, error, "the repository was copied").await);
            }
            Err(error) => return Err(error),
        };
        let complete = Workspace {
            complete: true,
            copied_at: jiff::Timestamp::now().to_string(),
            ..new
        };
        let recorded = signals.hold(self.client.set_workspace(&vm.id, &complete));
        let vm = match recorded.await {
            Ok(recorded) => recorded?,
            Err(signal) => return Ok(Outcome::Interrupted(signal)),
        };
        drop(turn);
        ui.say(&format!(
            "copied {} to {}:{}",
            quantity(&self.plan),
            vm.name,
            self.guest_path
        ));
        Ok(Outcome::Prepared(Box::new(vm), summary))
    }

    /// Keeps what the copy would take the place of.
    async fn keep(&self, vm: &Vm, remote: &Remote, scratch: &Scratch) -> Result<()> {
        let Some(old) = &vm.workspace else {
            return self.check_vacant(vm).await;
        };
        if old.guest_path != self.guest_path.as_str() {
            self.check_vacant(vm).await?;
            self.ui.say(&format!(
                "`{}` in the guest stays there, and is no longer looked after",
                old.guest_path
            ));
        }
        let old_remote = match old.guest_path == self.guest_path.as_str() {
            true => remote.clone(),
            false => record::remote(vm, old)?,
        };
        let kept_dir = self.paths.state_dir.join("saved");
        let origin = Origin::from(old);
        let saved = old_remote.save(
            &origin,
            &vm.name,
            old.exported.as_deref(),
            &kept_dir,
            scratch.path(),
        );
        let saved = saved.await.map_err(|error| {
            let message = format!(
                "the work in `{}`, `{}`, cannot be saved, so nothing takes its place",
                vm.name, old.guest_path
            );
            Error::new(error.code(), message)
                .hint("give `--discard` if it may be lost")
                .because(error)
        })?;
        if let Some(kept) = &saved.work {
            say_kept(self.ui, vm, old, kept);
        }
        if let Some(bundle) = &saved.commits {
            self.ui.warn(
                &format!(
                    "commits on other branches in `{}` are now in `{}`",
                    vm.name,
                    bundle.file.display()
                ),
                &format!("to get them back: {}", bundle.restore),
            );
        }
        if let Some(nested) = &saved.nested {
            self.ui.warn(
                &format!(
                    "repositories inside the workspace of `{}`, {}, are now in `{}`",
                    vm.name,
                    nested.names.join(", "),
                    nested.file.display()
                ),
                &format!("to get them back: {}", nested.restore),
            );
        }
        Ok(())
    }

    /// Refuses to take the place of what is none of ours.
    async fn check_vacant(&self, vm: &Vm) -> Result<()> {
        /// 0 when there is nothing, or an empty directory.
        const LOOK: &str = r#"[ ! -L "$1" ] || exit 9; [ -e "$1" ] || exit 0
            [ -d "$1" ] && [ -z "$(ls -A -- "$1")" ] || exit 9"#;
        let argv = ["sh", "-c", LOOK, "sh", self.guest_path.as_str()];
        let exec = Exec {
            argv: argv.map(ByteString::from).into(),
            workdir: Some("/".into()),
            ..Exec::default()
        };
        let (_sender, mut receiver) = client::exec(&agent_socket(vm)?, exec).await?;
        loop {
            match receiver.next().await? {
                ExecOutput::Exited(9) => {
                    let message = format!(
                        "there is something at `{}` in `{}` that is no workspace",
                        self.guest_path, vm.name
                    );
                    return Err(Error::new(Code::Conflict, message).hint(
                        "choose another place with `--guest-path`, or give `--discard` if it may \
                         be lost",
                    ));
                }
                // Where there is no shell there is nobody's work.
                ExecOutput::Exited(_) | ExecOutput::Signalled(_) | ExecOutput::Refused { .. } => {
                    return Ok(());
                }
                ExecOutput::Started { .. } | ExecOutput::Stdout(_) | ExecOutput::Stderr(_) => {}
            }
        }
    }
}

/// Says where work is and how to get it back: quiet or not, it is all that is left of it.
fn say_kept(ui: &Ui, vm: &Vm, workspace: &Workspace, kept: &Kept) {
    match kept {
        Kept::Reference(saved) => ui.warn(
            &format!(
                "the work in `{}` that was not exported is now under `{}` in `{}`",
                vm.name, saved.reference, workspace.repository
            ),
            &format!("to get it back: {}", saved.restore),
        ),
        Kept::Patch {
            file,
            because,
            restore,
        } => ui.warn(
            &format!(
                "the work in `{}` that was not exported is now in `{}`: {because}",
                vm.name,
                file.display()
            ),
            &format!("to get it back: {restore}"),
        ),
    }
}

/// The command that puts a patch into a repository, for a shell.
pub(super) fn git_apply(repository: &str, patch: &Path) -> String {
    let word = banger_workspace::quoted;
    let patch = word(&patch.to_string_lossy());
    format!("git -C {} apply {patch}", word(repository))
}

/// Runs what blocks beside the event loop.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("the work was given up").because(error)),
    }
}
