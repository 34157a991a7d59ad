//! Where a workspace came from, as the daemon's record has it.

use std::path::PathBuf;

use banger_api::{Workspace, WorkspaceMode};

use crate::plan::{Mode, Options};

/// What a workspace was made of.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The top directory of the host's repository.
    pub repository: PathBuf,
    /// How it was copied.
    pub options: Options,
    /// The commit that its files stood on; absent before the first one.
    pub base: Option<String>,
}

impl From<&Workspace> for Origin {
    fn from(recorded: &Workspace) -> Origin {
        Origin {
            repository: PathBuf::from(&recorded.repository),
            options: Options {
                mode: recorded.mode.into(),
                include_untracked: recorded.include_untracked,
                branch: recorded.branch.clone(),
                from: recorded.from.clone(),
            },
            base: recorded.base.clone(),
        }
    }
}

impl From<WorkspaceMode> for Mode {
    fn from(mode: WorkspaceMode) -> Mode {
        match mode {
            WorkspaceMode::Overlay => Mode::Overlay,
            WorkspaceMode::FullCopy => Mode::FullCopy,
            WorkspaceMode::MetadataOnly => Mode::MetadataOnly,
        }
    }
}

impl From<Mode> for WorkspaceMode {
    fn from(mode: Mode) -> WorkspaceMode {
        match mode {
            Mode::Overlay => WorkspaceMode::Overlay,
            Mode::FullCopy => WorkspaceMode::FullCopy,
            Mode::MetadataOnly => WorkspaceMode::MetadataOnly,
        }
    }
}
