//! A program run as it is, without namespaces.

use std::ffi::OsStr;
use std::process::{Command, ExitStatus};

use banger_model::Result;

use crate::work::Work;
use crate::{child, programs};

/// Runs a program of the host to its end, giving every line of its output to `on_line`. The
/// program must have no children that outlive it. It dies with the calling thread.
///
/// # Errors
/// `missing_program`; `cancelled` once it has ended. How it ended is the caller's to judge.
pub fn run_program(
    program: &str,
    args: &[&OsStr],
    work: &Work,
    on_line: &mut dyn FnMut(&str),
) -> Result<ExitStatus> {
    let mut command = Command::new(programs::find(program)?);
    command.args(args);
    child::run(&mut command, work, on_line)
}
