//! The reference of the command line, `docs/cli.md`: the help of every command.

use clap::{Command, CommandFactory};

use crate::cli::Cli;

/// The whole reference as Markdown. A test compares it with the file in the repository.
pub fn markdown() -> String {
    let mut text = String::from(
        "<!-- Made from the program's own help: BANGER_REGENERATE=1 cargo test -p banger -->\n\n\
         # Command line\n\n\
         Defaults that depend on the host or the configuration are shown by the program's own\n\
         `--help` and by `banger config show`.\n",
    );
    let mut root = Cli::command().term_width(100);
    root.build();
    add(&mut text, root);
    text
}

fn add(text: &mut String, mut command: Command) {
    let help = command.render_long_help().to_string();
    let help: Vec<_> = help.trim_end().lines().map(str::trim_end).collect();
    let name = command
        .get_bin_name()
        .unwrap_or(command.get_name())
        .to_owned();
    text.push_str(&format!(
        "\n## `{name}`\n\n```text\n{}\n```\n",
        help.join("\n")
    ));
    for inner in command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set())
    {
        add(text, inner.clone().term_width(100));
    }
}
