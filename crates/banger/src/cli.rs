//! The command tree, and what happens to a line that does not parse.
//!
//! Everything that can be refused from the command line alone is refused here, with exit code
//! 2, before any file is read or written.

use std::ffi::{OsStr, OsString};

use banger_model::{Code, Error};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::completion::CompletionArgs;
use crate::config::{self, ConfigCommand};
use crate::daemon::DaemonCommand;
use crate::doctor::DoctorArgs;
use crate::exit::{Exit, Owner};
use crate::image::ImageCommand;
use crate::kernel::KernelCommand;
use crate::lazy::{self, Lazy};
use crate::man::ManArgs;
use crate::ssh::{SshConfigArgs, SshProxyArgs};
use crate::ui::{self, Format};
use crate::version::VersionArgs;
use crate::vm::VmCommand;

/// Throw-away Linux microVMs, in one command
///
/// banger boots a real virtual machine, runs a command in it and gives back its output and its
/// exit code. The daemon that looks after the machines starts by itself when it is needed.
#[derive(Parser, Debug)]
#[command(
    name = "banger",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        banger vm run --rm -- uname -a     run a command in a new machine, then delete it\n  \
        banger vm run --name box           make a machine and open a shell in it\n  \
        banger doctor                      say what this host lacks"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Args, Debug, Clone)]
pub(crate) struct Global {
    /// How to print data and errors
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t = Format::Table,
        help_heading = "Global options"
    )]
    pub(crate) output: Format,

    /// Print no progress and no notes; of a list, print the names alone
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make, use and delete machines
    #[command(subcommand)]
    Vm(Lazy<VmCommand>),
    /// Root file systems that machines start from
    #[command(subcommand)]
    Image(Lazy<ImageCommand>),
    /// Kernels that machines boot
    #[command(subcommand)]
    Kernel(Lazy<KernelCommand>),
    /// The process that looks after the machines
    #[command(subcommand)]
    Daemon(Lazy<DaemonCommand>),
    Doctor(Lazy<DoctorArgs>),
    /// The configuration
    #[command(subcommand)]
    Config(Lazy<ConfigCommand>),
    SshConfig(Lazy<SshConfigArgs>),
    #[command(hide = true)]
    SshProxy(Lazy<SshProxyArgs>),
    Completion(Lazy<CompletionArgs>),
    Version(Lazy<VersionArgs>),
    #[command(hide = true)]
    Man(Lazy<ManArgs>),
}

impl Command {
    /// Whom standard output belongs to while this command runs.
    pub(crate) fn owner_of_stdout(&self) -> Owner {
        match self {
            Command::Vm(command) => command.owner_of_stdout(),
            Command::Daemon(command) => command.owner_of_stdout(),
            Command::SshProxy(_) => Owner::Ssh,
            _ => Owner::Banger,
        }
    }

    /// What the parser alone cannot refuse.
    fn check(&self) -> Result<(), Error> {
        match self {
            Command::Vm(command) => command.check(),
            Command::Image(command) => command.check(),
            Command::Kernel(command) => command.check(),
            _ => Ok(()),
        }
    }
}

/// Parses the command line.
pub(crate) fn parse(args: &[OsString]) -> Result<Cli, Refusal> {
    let refusal = |cause| Refusal {
        cause,
        json: asks_for_json(args),
        owner: guess_owner(args),
    };
    // Most lines are good ones. What is wrong with another the whole tree says.
    let cli = lazy::chosen_only(|| accept(Cli::command(), args))
        .or_else(|_| {
            let mut command = Cli::command();
            if asks_for_help(args) {
                command = config::show_defaults_in_help(command);
            }
            accept(command, args)
        })
        .map_err(|error| refusal(Cause::Parser(error)))?;
    cli.command
        .check()
        .map_err(|error| refusal(Cause::Check(error)))?;
    Ok(cli)
}

fn accept(mut tree: clap::Command, args: &[OsString]) -> Result<Cli, clap::Error> {
    let matches = tree.try_get_matches_from_mut(args);
    // Taking the tree apart again would be a tenth of what a short command does in this process.
    std::mem::forget(tree);
    matches.and_then(|matches| Cli::from_arg_matches(&matches))
}

/// Why there is no command to run, help and `--version` included.
#[derive(Debug)]
pub(crate) struct Refusal {
    cause: Cause,
    json: bool,
    owner: Owner,
}

#[derive(Debug)]
enum Cause {
    Parser(clap::Error),
    Check(Error),
}

impl Refusal {
    /// Says why and gives the exit code.
    pub(crate) fn print(self) -> Exit {
        let error = match self.cause {
            Cause::Check(error) => error,
            Cause::Parser(error) if !error.use_stderr() => {
                ui::print_help(&error.render());
                return Exit::SUCCESS;
            }
            Cause::Parser(error) => match value_error(&error) {
                Some(error) => error,
                None if self.json => Error::new(Code::InvalidArgument, first_line(&error)),
                None => {
                    // As clap prints it: with usage and what was probably meant.
                    ui::print_usage_error(&error.render());
                    return Exit::USAGE;
                }
            },
        };
        ui::print_error(&error, self.json, self.owner);
        Exit::USAGE
    }
}

/// The error of a value's own parser, with the argument it was given for.
fn value_error(error: &clap::Error) -> Option<Error> {
    use clap::error::{ContextKind, ContextValue};

    if error.kind() != ErrorKind::ValueValidation {
        return None;
    }
    let cause = std::error::Error::source(error)?.downcast_ref::<Error>()?;
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) => name.split_whitespace().next().unwrap_or_default(),
        _ => "",
    };
    // Of a positional argument there is only the place-holder, which says nothing.
    let message = match argument.starts_with('-') && !cause.message().contains(argument) {
        true => format!("{argument}: {}", cause.chain()),
        false => cause.chain(),
    };
    let mut told = Error::new(cause.code(), message);
    if let Some(hint) = cause.hint_text() {
        told = told.hint(hint);
    }
    Some(told)
}

fn first_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// The words before `--`: what follows is the guest's.
fn our_words(args: &[OsString]) -> impl Iterator<Item = &OsStr> {
    args.iter()
        .skip(1)
        .map(OsString::as_os_str)
        .take_while(|word| *word != "--")
}

fn asks_for_help(args: &[OsString]) -> bool {
    our_words(args).any(|word| word == "--help" || word == "-h")
}

/// Whether a line that does not parse asks for JSON all the same.
fn asks_for_json(args: &[OsString]) -> bool {
    let words: Vec<_> = our_words(args).collect();
    words.contains(&OsStr::new("--output=json"))
        || words.windows(2).any(|pair| pair == ["--output", "json"])
}

/// Whom standard output would have belonged to had the line parsed.
fn guess_owner(args: &[OsString]) -> Owner {
    let words: Vec<_> = our_words(args).collect();
    let has = |command: [&str; 2]| words.windows(2).any(|pair| pair == command);
    if has(["vm", "run"]) || has(["vm", "exec"]) {
        Owner::Guest
    } else if has(["vm", "ssh"]) || words.first() == Some(&OsStr::new("ssh-proxy")) {
        Owner::Ssh
    } else if has(["vm", "logs"]) || has(["daemon", "logs"]) {
        Owner::Text
    } else {
        Owner::Banger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Cli, Refusal> {
        let args: Vec<OsString> = ["banger"].iter().chain(words).map(OsString::from).collect();
        parse(&args)
    }

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_two_dashes_is_the_guests() {
        let args: Vec<OsString> = ["banger", "vm", "run", "--", "x", "--help", "--output=json"]
            .iter()
            .map(OsString::from)
            .collect();
        assert!(!asks_for_help(&args));
        assert!(!asks_for_json(&args));
        let cli = parse(&args).unwrap();
        assert_eq!(cli.command.owner_of_stdout(), Owner::Guest);
    }

    #[test]
    fn errors_know_their_format_and_stream_even_when_nothing_parses() {
        let refusal = parse_words(&["vm", "run", "--output", "json", "--nonsense"]).unwrap_err();
        assert!(refusal.json);
        assert_eq!(refusal.owner, Owner::Guest);
        let refusal = parse_words(&["vm", "list", "--output=json", "--nonsense"]).unwrap_err();
        assert!(refusal.json);
        assert_eq!(refusal.owner, Owner::Banger);
    }

    #[test]
    fn global_flags_go_anywhere() {
        for words in [
            ["-q", "vm", "list"],
            ["vm", "-q", "list"],
            ["vm", "list", "-q"],
        ] {
            assert!(parse_words(&words).unwrap().global.quiet, "{words:?}");
        }
    }
}
