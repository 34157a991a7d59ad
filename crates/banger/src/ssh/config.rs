//! `banger ssh-config`

use std::path::{Path, PathBuf};

use banger_config::{Paths, ensure_private_dir};
use banger_model::{Code, Error, Result};
use clap::{Args, ValueHint};
use serde::Serialize;

use super::fence::{self, Damaged, Without};
use super::{Files, options, quoted_path, user_file};
use crate::environment;
use crate::exit::Exit;
use crate::ui::{Format, Ui};

/// Make ssh, scp, sftp, rsync and git reach machines as NAME.vm
///
/// Prints the configuration that OpenSSH needs. `--install` adds one line at the top of your
/// `~/.ssh/config` that includes it, and touches nothing else there; `--uninstall` gives the file
/// back byte for byte.
///
/// Host keys are pinned: a machine that shows another key than the one it was given is refused.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    banger ssh-config --install && ssh box.vm\n  \
    rsync -a src/ box.vm:src/\n  \
    ssh -o ProxyCommand='banger ssh-proxy %h %p' root@box.vm")]
pub(crate) struct SshConfigArgs {
    /// Include it in your configuration
    #[arg(long)]
    install: bool,

    /// Take it out of your configuration
    #[arg(long, conflicts_with = "install")]
    uninstall: bool,

    /// Your configuration; the one that ssh reads when absent
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
}

/// What was printed, as JSON.
#[derive(Serialize)]
struct Printed {
    config: String,
}

/// What was done to the user's file, as JSON.
#[derive(Serialize)]
struct Changed {
    file: String,
    changed: bool,
}

pub(crate) fn cmd_ssh_config(ui: &Ui, args: SshConfigArgs) -> Result<Exit> {
    let files = Files::new(&Paths::from_env()?);
    if !args.install && !args.uninstall {
        let config = block(&files)?;
        match ui.format() {
            Format::Table => ui.data(config.trim_end())?,
            Format::Json => ui.json(&Printed { config })?,
        }
        return Ok(Exit::SUCCESS);
    }
    let file = match args.file {
        Some(file) => file,
        None => environment::home_for_ssh()?.join(".ssh/config"),
    };
    let changed = match args.install {
        true => install(&files, &file)?,
        false => uninstall(&files, &file)?,
    };
    let shown = file.display().to_string();
    if ui.format() == Format::Json {
        let file = shown.clone();
        ui.json(&Changed { file, changed })?;
    }
    ui.say(&match (args.install, changed) {
        (true, true) => format!("added to `{shown}`: `ssh NAME.vm` reaches a machine"),
        (true, false) => format!("`{shown}` has it already"),
        (false, true) => format!("taken out of `{shown}`"),
        (false, false) => format!("`{shown}` does not have it"),
    });
    Ok(Exit::SUCCESS)
}

/// The configuration for all machines.
fn block(files: &Files) -> Result<String> {
    let mut text = String::from(
        "# Made by `banger ssh-config`. Reaches running machines as NAME.vm.\n\
         # A name that could end the quotes of the command below is none of ours.\n\
         Host *.vm \"!*'*\"\n",
    );
    for (keyword, value) in options(files, &files.identity())? {
        text.push_str(&format!("    {keyword} {value}\n"));
    }
    Ok(text)
}

/// Whether that changed the user's file.
fn install(files: &Files, file: &Path) -> Result<bool> {
    let include = format!("Include {}", quoted_path(&files.config())?);
    let old = user_file::read(file)?;
    let new = fence::put_in(old.as_deref(), &include).map_err(|Damaged| damaged(file))?;
    // First what is included, then the line that includes it.
    ensure_private_dir(&files.directory)?;
    user_file::replace(&files.config(), block(files)?.as_bytes())?;
    if old.as_deref() == Some(&new) {
        return Ok(false);
    }
    write_unless_changed(file, old.as_deref(), &new).map_err(|error| {
        let by_hand = format!("put this line at its top yourself: `{include}`");
        match error.code() {
            Code::Io => error.hint(by_hand),
            _ => error,
        }
    })?;
    Ok(true)
}

/// Whether that changed the user's file.
fn uninstall(files: &Files, file: &Path) -> Result<bool> {
    let changed = match user_file::read(file)? {
        None => false,
        Some(old) => match fence::take_out(&old).map_err(|Damaged| damaged(file))? {
            Without::Unchanged => false,
            Without::Rest(rest) => {
                write_unless_changed(file, Some(&old), &rest)?;
                true
            }
            Without::NoFile => {
                user_file::remove(file)?;
                true
            }
        },
    };
    user_file::remove(&files.config())?;
    Ok(changed)
}

/// Writes the file, unless somebody else has since it was read.
fn write_unless_changed(file: &Path, old: Option<&[u8]>, new: &[u8]) -> Result<()> {
    if user_file::read(file)?.as_deref() != old {
        return Err(Error::new(
            Code::Conflict,
            format!("`{}` was changed meanwhile", file.display()),
        )
        .hint("run it again"));
    }
    user_file::replace(file, new)
}

fn damaged(file: &Path) -> Error {
    Error::new(
        Code::Conflict,
        format!(
            "the lines between `# banger begin` and `# banger end` in `{}` are not complete",
            file.display()
        ),
    )
    .hint("remove what is left of them, then run it again")
}
