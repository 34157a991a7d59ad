//! Flags that say how a repository is copied, the same for `vm run` and `vm workspace prepare`.

use banger_model::{Code, Error, Result};
use banger_workspace::{Mode, Options};
use clap::{Args, ValueEnum};

use super::guest_path::GuestPath;

/// How the repository is copied.
#[derive(Args, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceArgs {
    /// Where it goes in the guest, below /root or /home/USER; /root/repo when absent
    #[arg(long, value_name = "DIR", help_heading = "Workspace options")]
    pub(super) guest_path: Option<GuestPath>,

    /// How much of the repository goes; `overlay` when absent
    #[arg(long, value_enum, help_heading = "Workspace options")]
    mode: Option<CopyMode>,

    /// Also copy files that git does not know; ignored ones never go
    #[arg(long, help_heading = "Workspace options")]
    include_untracked: bool,

    /// Create this branch in the guest and check it out
    #[arg(long, value_name = "NEW", help_heading = "Workspace options")]
    branch: Option<String>,

    /// Start that branch at this commit, with its files instead of those of the working tree
    #[arg(long, value_name = "REF", help_heading = "Workspace options")]
    from: Option<String>,

    /// List what would be copied, and do nothing
    #[arg(long, help_heading = "Workspace options")]
    pub(crate) dry_run: bool,
}

/// How much of a repository goes into the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum CopyMode {
    /// The working tree, and the commit it stands on
    #[default]
    Overlay,
    /// The working tree, and the whole history
    FullCopy,
    /// The whole history without any file; `git sparse-checkout disable` in the guest brings them
    MetadataOnly,
}

impl SourceArgs {
    /// Refuses what makes no sense together.
    pub(crate) fn check(&self) -> Result<()> {
        if self.from.is_some() && self.branch.is_none() {
            return Err(Error::new(
                Code::InvalidArgument,
                "`--from` says where a new branch starts, and there is none",
            )
            .hint("name the branch with `--branch`"));
        }
        Ok(())
    }

    /// As the copy takes them.
    pub(crate) fn options(&self) -> Options {
        Options {
            mode: match self.mode.unwrap_or_default() {
                CopyMode::Overlay => Mode::Overlay,
                CopyMode::FullCopy => Mode::FullCopy,
                CopyMode::MetadataOnly => Mode::MetadataOnly,
            },
            include_untracked: self.include_untracked,
            branch: self.branch.clone(),
            from: self.from.clone(),
        }
    }

    /// Where it goes.
    pub(crate) fn guest_path(&self) -> GuestPath {
        self.guest_path.clone().unwrap_or_default()
    }
}
