//! `banger completion`, and the answers to a shell that completes a line.
//!
//! The script that a shell loads is small: for each completion it asks this program, which knows
//! the command tree and, when the daemon runs, the machines. It never starts the daemon for that.

use std::ffi::OsStr;
use std::time::Duration;

use banger_api::Client;
use banger_config::Paths;
use banger_model::{Error, Result};
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::CompletionCandidate;
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Zsh};

use crate::cli::Cli;
use crate::connect::connect_to_running;
use crate::exit::Exit;
use crate::ui::Ui;

/// Tells this program that a shell asks for completions. Set by the scripts only.
const VARIABLE: &str = "_BANGER_COMPLETE";
/// A key press does not wait longer for names.
const LIMIT: Duration = Duration::from_millis(300);

/// Print the completion script for a shell
///
/// For example, in `~/.bashrc`: `source <(banger completion bash)`
#[derive(Args, Debug)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// The shells we have scripts for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn cmd_completion(ui: &Ui, args: CompletionArgs) -> Result<Exit> {
    ui.data(&script(args.shell)?)?;
    Ok(Exit::SUCCESS)
}

fn script(shell: Shell) -> Result<String> {
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, "banger", "banger", "banger", &mut script)
        .map_err(|error| Error::internal("cannot write the completion script").because(error))?;
    let mut script = String::from_utf8(script)
        .map_err(|error| Error::internal("the completion script is not text").because(error))?;
    if matches!(shell, Shell::Zsh) {
        // In a directory of `fpath` the file is itself the function, called for the first
        // completion, which would otherwise only register and answer nothing.
        script.push_str(
            "\n\nif [[ \"${funcstack[1]}\" = \"_banger\" ]]; then\n    \
             _clap_dynamic_completer_banger \"$@\"\nfi",
        );
    }
    Ok(script.trim_end().to_owned())
}

/// Answers and ends the program when a shell asks for completions.
pub(crate) fn answer_the_shell() {
    CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .bin("banger")
        .complete();
}

/// The names of the machines.
pub(crate) fn vm_names() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let vms = client.vms().await?;
        Ok(vms
            .into_iter()
            .map(|vm| candidate(vm.name, &vm.state.to_string()))
            .collect())
    })
}

/// The names of the images.
pub(crate) fn image_names() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let images = client.images().await?;
        Ok(images
            .into_iter()
            .map(|image| candidate(image.name, &image.source))
            .collect())
    })
}

/// The names of the images in the catalogs.
pub(crate) fn catalog_images() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let images = client.image_catalog().await?;
        Ok(images
            .into_iter()
            .map(|image| candidate(image.name, &image.description))
            .collect())
    })
}

/// The names of the kernels.
pub(crate) fn kernel_names() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let kernels = client.kernels().await?;
        Ok(kernels
            .into_iter()
            .map(|kernel| candidate(kernel.name, &kernel.release))
            .collect())
    })
}

fn candidate(name: String, help: &str) -> CompletionCandidate {
    let help = crate::ui::escape(help);
    CompletionCandidate::new(OsStr::new(&name)).help(Some(help.into()))
}

/// Asks the daemon if it runs. No answer is no candidates: a key press reports no errors.
fn ask(
    question: impl AsyncFnOnce(Client) -> Result<Vec<CompletionCandidate>>,
) -> Vec<CompletionCandidate> {
    let client = Paths::from_env().and_then(|paths| connect_to_running(&paths));
    let Ok(Some(client)) = client else {
        return Vec::new();
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return Vec::new();
    };
    let answer = runtime.block_on(async { tokio::time::timeout(LIMIT, question(client)).await });
    answer.ok().and_then(Result::ok).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_has_a_script_that_asks_this_program() {
        for shell in Shell::value_variants() {
            let script = script(*shell).unwrap();
            assert!(script.contains(VARIABLE), "{shell:?}");
            assert!(script.contains("banger"), "{shell:?}");
        }
    }
}
