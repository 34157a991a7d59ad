//! `banger vm workspace …`, and what `vm run` and `vm exec` do about a repository.
//!
//! ```text
//! plan ─▶ turn ─▶ keep what is there ─▶ copy ─▶ record ─▶ … ─▶ export or review
//!   │                                     │
//!   ▼ refused, nothing touched            ▼ what was there stays
//! ```
//!
//! What is copied and compared is decided in `banger_workspace`; the daemon keeps the record and
//! lets one at a time work on a machine's workspace.

mod copy;
mod drift;
mod dry_run;
mod export;
mod guest_path;
mod options;
mod pager;
mod prepare;
mod record;
mod review;
mod scratch;
mod summary;
mod turn;

use banger_model::Result;
use clap::Subcommand;

use crate::block_on;
use crate::exit::{Exit, Owner};
use crate::lazy::Lazy;
use crate::ui::Ui;

pub(super) use drift::before_exec;
pub(super) use dry_run::list;
pub(super) use guest_path::GuestPath;
pub(super) use options::SourceArgs;
pub(super) use prepare::{Outcome, Preparation, plan, say_left_out};
pub(super) use review::{OnExit, Review};

/// A git repository in a machine
#[derive(Subcommand, Debug)]
pub(crate) enum WorkspaceCommand {
    Prepare(Lazy<prepare::PrepareArgs>),
    Export(Lazy<export::ExportArgs>),
}

impl WorkspaceCommand {
    /// Whom standard output belongs to.
    pub(super) fn owner_of_stdout(&self) -> Owner {
        match self {
            WorkspaceCommand::Prepare(_) => Owner::Banger,
            WorkspaceCommand::Export(_) => Owner::Text,
        }
    }

    /// What the parser alone cannot refuse.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            WorkspaceCommand::Prepare(args) => args.check(),
            WorkspaceCommand::Export(_) => Ok(()),
        }
    }
}

pub(super) fn dispatch(ui: &Ui, command: WorkspaceCommand) -> Result<Exit> {
    match command {
        WorkspaceCommand::Prepare(Lazy(args)) => block_on(prepare::cmd_prepare(ui, *args)),
        WorkspaceCommand::Export(Lazy(args)) => block_on(export::cmd_export(ui, *args)),
    }
}
