//! Commands whose flags are put together when they are chosen.
//!
//! A line names one command, and clap would otherwise build the flags of all fifty first: 400,000
//! instructions and 500 KiB of memory, which is most of what a short command does in this process.
//! Within [`chosen_only`] the tree is complete along the line that is parsed and bare elsewhere, which
//! is enough to accept a line. Help and errors speak of other commands as well: they are made from
//! the whole tree, and so are the manual pages, the reference and completions.

use std::cell::Cell;
use std::fmt;

use clap::{ArgMatches, Args, Command, Error, FromArgMatches, Subcommand};

thread_local! {
    static CHOSEN_ONLY: Cell<bool> = const { Cell::new(false) };
}

/// Builds trees and parses lines with the flags of the chosen commands alone.
pub(crate) fn chosen_only<T>(work: impl FnOnce() -> T) -> T {
    let before = CHOSEN_ONLY.replace(true);
    let done = work();
    CHOSEN_ONLY.set(before);
    done
}

/// What a command was given, or a group of commands.
pub(crate) struct Lazy<T>(pub(crate) Box<T>);

impl<T> std::ops::Deref for Lazy<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Lazy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Now, or when the command is chosen.
fn augment(command: Command, flags: fn(Command) -> Command) -> Command {
    match CHOSEN_ONLY.get() {
        true => command.defer(flags),
        false => flags(command),
    }
}

impl<T: Args> Args for Lazy<T> {
    fn augment_args(command: Command) -> Command {
        augment(command, T::augment_args)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

impl<T: Subcommand> Subcommand for Lazy<T> {
    fn augment_subcommands(command: Command) -> Command {
        augment(command, T::augment_subcommands)
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        T::augment_subcommands_for_update(command)
    }

    fn has_subcommand(name: &str) -> bool {
        T::has_subcommand(name)
    }
}

impl<T: FromArgMatches> FromArgMatches for Lazy<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Lazy<T>, Error> {
        T::from_arg_matches(matches).map(|inner| Lazy(Box::new(inner)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn has(tree: &Command, path: [&str; 2], flag: &str) -> bool {
        let found = path
            .iter()
            .try_fold(tree, |command, name| command.find_subcommand(name));
        let mut flags = found.into_iter().flat_map(Command::get_arguments);
        flags.any(|argument| argument.get_id() == flag)
    }

    #[test]
    fn only_the_chosen_commands_flags_are_built() {
        let tree = chosen_only(|| {
            let mut tree = Cli::command();
            let line = ["banger", "vm", "exec", "box", "--", "true"];
            tree.try_get_matches_from_mut(line).expect("a good line");
            tree
        });
        assert!(has(&tree, ["vm", "exec"], "auto_prepare"));
        assert!(!has(&tree, ["vm", "run"], "image"));
        assert!(!has(&tree, ["image", "pull"], "platform"));
        let whole = Cli::command();
        assert!(has(&whole, ["vm", "run"], "image"), "afterwards all again");
        assert!(has(&whole, ["image", "pull"], "platform"));
    }

    #[test]
    fn a_tree_that_was_built_late_is_the_whole_tree() {
        let flags = |mut command: Command| {
            command.build();
            let mut flags = Vec::new();
            let mut waiting = vec![&command];
            while let Some(command) = waiting.pop() {
                let name = command.get_bin_name().unwrap_or_default();
                flags.extend(command.get_arguments().map(|flag| format!("{name} {flag}")));
                waiting.extend(command.get_subcommands());
            }
            flags.sort();
            flags
        };
        assert_eq!(chosen_only(|| flags(Cli::command())), flags(Cli::command()));
    }
}
