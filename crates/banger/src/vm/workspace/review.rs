//! The end of `vm run PATH`: what becomes of the changes in the guest.
//!
//! ```text
//! look ─▶ show ─▶ ask ─┬─▶ apply ──▶ refused: keep
//!   │      ▲           ├─▶ keep
//!   ▼      └── view ◀──┤
//! none                 └─▶ discard
//! ```
//!
//! What was decided about is recorded, so that the deletion of the machine does not save it once
//! more. Whatever else happens, a signal or an error, leaves that to the deletion.

mod keep;
mod question;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use banger_api::{Client, Lease, Vm, Workspace};
use banger_config::Paths;
use banger_model::{Code, Error, Result, VmState};
use banger_workspace::{Base, Export, Exported, Fingerprint, Repository, apply, changes};
use clap::ValueEnum;

use super::export::Look;
use super::prepare::{blocking, git_apply};
use super::scratch::Scratch;
use super::summary::summary;
use super::{pager, record, turn};
use crate::session::forget_typed;
use crate::signals::{Signal, Signals};
use crate::ui::Ui;
use question::{Answer, Question};

/// A larger patch is not looked into for its summary, in bytes.
const SUMMED_UP: u64 = 256 << 20;

/// What becomes of the changes in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnExit {
    /// Ask, on a terminal
    Ask,
    /// Apply them to the working tree on this host, if that has not changed
    Apply,
    /// Keep them as a patch file in the current directory
    Keep,
    /// Keep nothing
    Discard,
}

impl OnExit {
    /// Whether there is a terminal to ask on.
    pub(crate) fn can_ask() -> bool {
        std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }
}

/// The review of one machine.
pub(in crate::vm) struct Review<'a> {
    pub(in crate::vm) ui: &'a Ui,
    pub(in crate::vm) paths: &'a Paths,
    pub(in crate::vm) client: &'a Client,
    pub(in crate::vm) vm_id: &'a str,
    /// What was said ahead.
    pub(in crate::vm) on_exit: Option<OnExit>,
    /// Whether the machine is deleted afterwards.
    pub(in crate::vm) is_last: bool,
}

/// Changes that were looked for and found.
struct Found {
    patch: PathBuf,
    exported: Exported,
}

impl Review<'_> {
    /// Looks for changes and does what is wanted about them.
    ///
    /// # Errors
    /// When they cannot be looked for or kept. They are in the guest then.
    pub(in crate::vm) async fn carry_out(&self, signals: &mut Signals) -> Result<()> {
        let answer = match self.on_exit {
            Some(OnExit::Apply) => Some(Answer::Apply),
            Some(OnExit::Keep) => Some(Answer::Keep),
            Some(OnExit::Discard) => Some(Answer::Discard),
            Some(OnExit::Ask) | None if OnExit::can_ask() => None,
            Some(OnExit::Ask) | None => return Ok(()),
        };
        let mut turn = tokio::select! {
            turn = turn::take(self.ui, self.client, self.vm_id) => turn?,
            _ = signals.next_to_end() => return Ok(()),
        };
        let vm = self.client.vm(self.vm_id).await?;
        if vm.state != VmState::Running {
            let text = format!(
                "`{}` is {}, so its changes cannot be looked at",
                vm.name, vm.state
            );
            self.ui.warn(&text, "they are saved when it is deleted");
            return Ok(());
        }
        let workspace = record::complete(&vm)?;
        let scratch = Scratch::new(self.paths)?;
        let mut session = Session {
            review: self,
            vm: &vm,
            workspace,
            scratch: &scratch,
            turn: &mut turn,
            looks: 0,
        };
        session.decide(answer, signals).await
    }
}

/// A review while the turn is held.
struct Session<'a> {
    review: &'a Review<'a>,
    vm: &'a Vm,
    workspace: &'a Workspace,
    scratch: &'a Scratch,
    turn: &'a mut Lease,
    looks: u32,
}

impl Session<'_> {
    async fn decide(&mut self, answer: Option<Answer>, signals: &mut Signals) -> Result<()> {
        if let Some(answer) = answer {
            return self.decide_ahead(answer, signals).await;
        }
        let Some(mut found) = self.look(Base::Prepared, signals).await? else {
            return Ok(());
        };
        while found.exported.size > 0 {
            self.show(&found).await;
            let answer = loop {
                match self.ask(signals).await? {
                    Ok(Answer::View) => {
                        if pager::show(&found.patch, signals).await?.is_some() {
                            return Ok(());
                        }
                    }
                    Ok(answer) => break answer,
                    Err(_) => return Ok(()),
                }
            };
            let Some((all, now)) = self.look_at_all(signals).await? else {
                return Ok(());
            };
            let is_same = now.exported.digest == found.exported.digest;
            found = now;
            if is_same {
                self.carry_out(answer, &found).await?;
                return self.record(all.exported.digest, signals).await;
            }
            let ui = self.review.ui;
            ui.say("meanwhile more was changed in the guest; this is what there is now");
        }
        Ok(())
    }

    async fn decide_ahead(&mut self, answer: Answer, signals: &mut Signals) -> Result<()> {
        let Some((all, found)) = self.look_at_all(signals).await? else {
            return Ok(());
        };
        if found.exported.size == 0 {
            return Ok(());
        }
        self.show(&found).await;
        self.carry_out(answer, &found).await?;
        self.record(all.exported.digest, signals).await
    }

    /// Looks at all that the deletion would save, and only then at what was done in the guest:
    /// what is done in between is in the second, and is not taken for decided about.
    async fn look_at_all(&mut self, signals: &mut Signals) -> Result<Option<(Found, Found)>> {
        let Some(all) = self.look(Base::Recorded, signals).await? else {
            return Ok(None);
        };
        let done = self.look(Base::Prepared, signals).await?;
        Ok(done.map(|done| (all, done)))
    }

    /// Looks for changes; nothing when a signal says that nobody waits for them.
    async fn look(&mut self, base: Base, signals: &mut Signals) -> Result<Option<Found>> {
        self.looks += 1;
        let patch = self.scratch.file(&format!("patch-{}", self.looks));
        let mut look = Look {
            ui: self.review.ui,
            client: self.review.client,
            vm: self.vm,
            workspace: self.workspace,
            scratch: self.scratch,
            turn: self.turn,
        };
        let export = Export {
            base,
            ..Export::default()
        };
        tokio::select! {
            biased;
            exported = look.export(export, &patch) => Ok(Some(Found {
                exported: exported?,
                patch,
            })),
            _ = signals.next_to_end() => Ok(None),
        }
    }

    /// Shows what the patch changes.
    async fn show(&self, found: &Found) {
        let ui = self.review.ui;
        for line in &found.exported.left_out {
            ui.warn(line, "copy it out with `banger vm cp`");
        }
        let patch = found.patch.clone();
        let listed = match found.exported.size {
            0..SUMMED_UP => blocking(move || changes(&patch)).await,
            _ => Err(Error::new(Code::NoSpace, "the patch is very large")),
        };
        let text = match listed {
            Ok(changes) => summary(&changes, &self.vm.name),
            // What cannot be listed can be kept all the same.
            Err(_) => format!("`{}` has changes", self.vm.name),
        };
        for line in text.lines() {
            ui.say(line);
        }
    }

    async fn ask(&self, signals: &mut Signals) -> Result<Result<Answer, Signal>> {
        forget_typed();
        let mut question = Question::new(self.review.ui, &self.workspace.repository)?;
        question.ask(signals).await
    }

    async fn carry_out(&self, answer: Answer, found: &Found) -> Result<()> {
        let ui = self.review.ui;
        let repository = &self.workspace.repository;
        match answer {
            Answer::Apply => match self.apply(&found.patch).await {
                Ok(()) => {
                    ui.say(&format!("applied to `{repository}`; nothing is staged"));
                    Ok(())
                }
                Err(error) => {
                    ui.error(&error);
                    self.keep(&found.patch).await
                }
            },
            Answer::Keep | Answer::View => self.keep(&found.patch).await,
            Answer::Discard => {
                let name = &self.vm.name;
                ui.say(&match self.review.is_last {
                    true => format!("the changes in `{name}` are not kept"),
                    false => format!("the changes are in `{name}` and nowhere else"),
                });
                Ok(())
            }
        }
    }

    async fn apply(&self, patch: &Path) -> Result<()> {
        let repository = PathBuf::from(&self.workspace.repository);
        let fingerprint: Fingerprint = self.workspace.fingerprint.parse()?;
        let patch = patch.to_owned();
        blocking(move || apply(&Repository::find(&repository)?, &patch, &fingerprint)).await
    }

    async fn keep(&self, patch: &Path) -> Result<()> {
        let name = self.vm.name.clone();
        let patch = patch.to_owned();
        let file = blocking(move || keep::keep(&patch, &name)).await?;
        let command = git_apply(&self.workspace.repository, &file);
        self.review.ui.say(&format!(
            "the changes are in `{}`; to apply them: {command}",
            file.display()
        ));
        Ok(())
    }

    /// Records that what the digest is of has been decided about.
    async fn record(&self, digest: String, signals: &mut Signals) -> Result<()> {
        let workspace = Workspace {
            exported: Some(digest),
            ..self.workspace.clone()
        };
        let client = self.review.client;
        match signals
            .hold(client.set_workspace(&self.vm.id, &workspace))
            .await
        {
            Ok(recorded) => recorded.map(|_| ()),
            // Then it is saved once more, which is no harm.
            Err(_) => Ok(()),
        }
    }
}
