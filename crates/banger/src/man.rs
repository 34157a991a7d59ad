//! `banger man`: writes the manual pages, for `make install`.

use std::path::PathBuf;

use banger_model::{IoContext, Result};
use clap::{Args, CommandFactory};

use crate::cli::Cli;
use crate::exit::Exit;
use crate::ui::Ui;

/// Write the manual pages into a directory
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// The directory; it must exist
    directory: PathBuf,
}

pub(crate) fn cmd_man(_ui: &Ui, args: ManArgs) -> Result<Exit> {
    clap_mangen::generate_to(Cli::command(), &args.directory)
        .at("write the manual pages into", &args.directory)?;
    Ok(Exit::SUCCESS)
}
