//! Everything that is printed.
//!
//! Data goes to standard output, everything else to standard error. With `--output json`,
//! errors are `{"error":{"code","message","hint","op_id"}}` on standard output too, except where
//! standard output belongs to somebody else (`vm run`, `vm exec`, `vm ssh`) or is lines without
//! end (`vm logs`, `daemon logs`): there errors go to standard error. Colour, spinners and characters beyond ASCII appear only where the
//! terminal has them. Text from a daemon or guest is never sent to a terminal as it is: control
//! characters are escaped.

mod caret;
mod error;
mod progress;
mod table;
mod tamer;
mod text;

use std::cell::Cell;
use std::io::{IsTerminal, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use banger_model::{Error, Result};
use clap::ValueEnum;
use clap::builder::StyledStr;
use serde::Serialize;

use crate::cli::Global;
use crate::environment;
use crate::exit::{Exit, Owner};

pub(crate) use error::{ErrorReport, print_error};
pub(crate) use progress::Progress;
pub(crate) use table::{key_values, table};
pub(crate) use tamer::Tamer;
pub(crate) use text::{age, escape, human_size, json_line};

/// Beside the point.
pub(crate) const DIM: Style = Style::new().dimmed();
/// Well.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Worth knowing.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Broken.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// How to print data and errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs: stable and documented
    Json,
}

/// Where and how to print.
pub(crate) struct Ui {
    format: Format,
    quiet: bool,
    owner: Owner,
    stderr_is_terminal: bool,
    utf8: bool,
    output_closed: Cell<bool>,
}

impl Ui {
    /// Looks at the flags and the terminal.
    pub(crate) fn new(global: &Global, owner: Owner) -> Ui {
        Ui {
            format: global.output,
            quiet: global.quiet,
            owner,
            stderr_is_terminal: std::io::stderr().is_terminal(),
            utf8: environment::terminal_is_utf8(),
            output_closed: Cell::new(false),
        }
    }

    /// How to print data.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Whether progress and notes are unwanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether progress is a line that is redrawn, and may change all the time.
    pub(crate) fn redraws(&self) -> bool {
        !self.quiet && self.stderr_is_terminal
    }

    /// Prints a line of data, or several, to standard output.
    pub(crate) fn data(&self, text: &str) -> Result<()> {
        let mut out = anstream::stdout().lock();
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        match written {
            // The reader has what it wanted; see `exit`.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                self.output_closed.set(true);
                Ok(())
            }
            other => other.map_err(|error| {
                Error::new(banger_model::Code::Io, "cannot write to standard output").because(error)
            }),
        }
    }

    /// Prints names, one a line: what a list is to a script.
    pub(crate) fn names<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<()> {
        for name in names {
            self.data(name)?;
        }
        Ok(())
    }

    /// Prints data as JSON to standard output.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<()> {
        self.data(&text::json(value)?)
    }

    /// Remembers that the reader of standard output has gone; see `exit`.
    pub(crate) fn output_was_closed(&self) {
        self.output_closed.set(true);
    }

    /// Prints a line about what happens to standard error.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            print_line(&escape(text));
        }
    }

    /// Prints a question to standard error, quiet or not: somebody has to answer it. The cursor
    /// stays behind it. Line breaks are kept.
    pub(crate) fn ask(&self, text: &str) {
        let mut out = AutoStream::auto(std::io::stderr().lock());
        let lines: Vec<_> = text.split('\n').map(escape).collect();
        // When that fails there is nobody to answer either.
        out.write_all(lines.join("\n").as_bytes())
            .and_then(|()| out.flush())
            .ok();
    }

    /// Prints a line that may help a person, and only a person.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && self.stderr_is_terminal {
            print_line(&format!("{DIM}{}{DIM:#}", escape(text)));
        }
    }

    /// Prints what should be known although nothing failed.
    pub(crate) fn warn(&self, text: &str, hint: &str) {
        self.warn_only(text);
        print_line(&format!("{DIM}  hint: {}{DIM:#}", escape(hint)));
    }

    /// The same, for what says by itself what to do.
    pub(crate) fn warn_only(&self, text: &str) {
        print_line(&format!("{WARNING}warning{WARNING:#}: {}", escape(text)));
    }

    /// Prints an error.
    pub(crate) fn error(&self, error: &Error) {
        print_error(error, self.format == Format::Json, self.owner);
    }

    /// The exit code, given that perhaps nobody reads our output any more.
    pub(crate) fn exit(&self, exit: Exit) -> Exit {
        match self.output_closed.get() {
            true if exit == Exit::SUCCESS => Exit::output_closed(),
            _ => exit,
        }
    }
}

/// Prints help or the version.
pub(crate) fn print_help(text: &StyledStr) {
    let mut out = anstream::stdout().lock();
    write!(out, "{}", text.ansi())
        .and_then(|()| out.flush())
        .ok();
}

/// Prints why a command line does not parse, as clap words it.
pub(crate) fn print_usage_error(text: &StyledStr) {
    let mut out = AutoStream::auto(std::io::stderr());
    write!(out, "{}", text.ansi()).ok();
}

/// Prints one line to standard error. When that fails there is nobody left to tell.
fn print_line(text: &str) {
    let mut out = AutoStream::auto(std::io::stderr().lock());
    out.write_all(format!("{text}\n").as_bytes()).ok();
}
