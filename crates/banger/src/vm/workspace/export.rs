//! `banger vm workspace export`

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use banger_api::{Client, Lease, Vm, Workspace};
use banger_config::Paths;
use banger_model::{Code, Error, IoContext, Result};
use banger_workspace::{Base, Export, Exported, Origin};
use clap::Args;
use clap_complete::engine::ArgValueCandidates;

use super::prepare::blocking;
use super::scratch::Scratch;
use super::{record, turn};
use crate::completion::vm_names;
use crate::connect::{connect_and_ask, warn_of_other_release};
use crate::exit::Exit;
use crate::signals::Signals;
use crate::ui::{Progress, Tamer, Ui};
use crate::vm::{lost, reference};

/// Print what was changed in a machine's workspace, as a patch
///
/// Everything that the commit the copy stands on does not have: commits made in the guest,
/// uncommitted edits, those that were copied in included, and new files that are not ignored.
/// `git apply` takes it, binary files and modes included. Nothing is changed in the guest.
///
/// On a terminal, control sequences are left out; into files and pipes the bytes go as they are.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    banger vm workspace export box > work.patch\n  \
    banger vm workspace export box | git apply --index")]
pub(crate) struct ExportArgs {
    /// Name, id, or a unique beginning of either
    #[arg(value_parser = reference, add = ArgValueCandidates::new(vm_names))]
    name: String,

    /// Compare with this commit instead, which must be in the guest
    #[arg(long, value_name = "SHA", value_parser = commit)]
    base_commit: Option<String>,
}

fn commit(text: &str) -> Result<String> {
    let is_id = (4..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if is_id {
        return Ok(text.to_owned());
    }
    let message = format!("`{}` is not the id of a commit", text.escape_debug());
    Err(Error::new(Code::InvalidArgument, message).hint("`git rev-parse NAME` prints it"))
}

pub(crate) async fn cmd_export(ui: &Ui, args: ExportArgs) -> Result<Exit> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        biased;
        exported = export(ui, &args) => exported.map(|()| Exit::SUCCESS),
        signal = signals.next_to_end() => Ok(Exit::signal(signal.number())),
    }
}

async fn export(ui: &Ui, args: &ExportArgs) -> Result<()> {
    let paths = Paths::from_env()?;
    let (client, vm) = connect_and_ask(&paths, async |client| client.vm(&args.name).await).await?;
    warn_of_other_release(ui, &client);
    record::complete(&vm)?;
    let mut turn = turn::take(ui, &client, &vm.id).await?;
    let vm = client.vm(&vm.id).await?;
    let workspace = record::complete(&vm)?;
    let scratch = Scratch::new(&paths)?;
    let patch = scratch.file("patch");
    let export = Export {
        base: args
            .base_commit
            .clone()
            .map_or(Base::Recorded, Base::Commit),
        ..Export::default()
    };
    let mut look = Look {
        ui,
        client: &client,
        vm: &vm,
        workspace,
        scratch: &scratch,
        turn: &mut turn,
    };
    let exported = look.export(export, &patch).await?;
    for line in &exported.left_out {
        ui.warn(line, "copy it out with `banger vm cp`");
    }
    if exported.size == 0 {
        ui.say(&format!("nothing was changed in `{}`", vm.name));
    }
    if !print(ui, patch).await? {
        return Ok(());
    }
    if args.base_commit.is_none() {
        let workspace = Workspace {
            exported: Some(exported.digest),
            ..workspace.clone()
        };
        client.set_workspace(&vm.id, &workspace).await?;
    }
    Ok(())
}

/// Looking for changes in a guest, while the turn is held.
pub(super) struct Look<'a> {
    pub(super) ui: &'a Ui,
    pub(super) client: &'a Client,
    pub(super) vm: &'a Vm,
    pub(super) workspace: &'a Workspace,
    pub(super) scratch: &'a Scratch,
    pub(super) turn: &'a mut Lease,
}

impl Look<'_> {
    /// Writes the changes to the new file `patch`.
    ///
    /// # Errors
    /// Those of [`banger_workspace::Remote::export`]; `agent_failed` when the machine or the
    /// daemon goes away meanwhile.
    pub(super) async fn export(&mut self, export: Export, patch: &Path) -> Result<Exported> {
        let mut progress = Progress::new(self.ui);
        if self.ui.redraws() {
            progress.say("looking for changes in the guest");
        }
        let remote = record::remote(self.vm, self.workspace)?;
        let origin = Origin::from(self.workspace);
        let exported = tokio::select! {
            biased;
            exported = remote.export(&export, &origin, patch, self.scratch.path()) => exported,
            ended = self.turn.ended() => {
                let error = Error::new(Code::AgentFailed, "the daemon let go of the workspace");
                Err(match ended {
                    Ok(()) => error,
                    Err(cause) => error.because(cause),
                })
            }
        };
        drop(progress);
        match exported {
            Err(error) if error.code() == Code::AgentFailed => {
                Err(lost(self.client, self.vm, error, "its changes were looked for").await)
            }
            other => other,
        }
    }
}

/// Prints the patch. False when nobody reads it to its end.
async fn print(ui: &Ui, patch: PathBuf) -> Result<bool> {
    let printed = blocking(move || {
        let mut file = File::open(&patch).at("open", &patch)?;
        let mut out = io::stdout().lock();
        let mut tamer = out.is_terminal().then(Tamer::default);
        let mut piece = vec![0; 256 << 10];
        loop {
            let count = file.read(&mut piece).at("read", &patch)?;
            let bytes = &piece[..count];
            let written = match &mut tamer {
                Some(tamer) => out.write_all(tamer.push(bytes).as_bytes()),
                None => out.write_all(bytes),
            };
            match written.and_then(|()| out.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                Err(error) => {
                    return Err(
                        Error::new(Code::Io, "cannot write to standard output").because(error)
                    );
                }
                Ok(()) if count == 0 => return Ok(true),
                Ok(()) => {}
            }
        }
    });
    let whole = printed.await?;
    if !whole {
        ui.output_was_closed();
    }
    Ok(whole)
}
