//! A shell script run as root of its own namespaces.

use std::ffi::OsStr;
use std::path::Path;

use banger_model::Result;

use crate::classify::classify;
use crate::output::Tail;
use crate::work::Work;
use crate::{child, namespace};

/// A step of a build that needs to see and write files of several users.
pub struct Script<'a> {
    /// The script, for `sh -eu`.
    pub text: &'a str,
    /// Its variables; values never become part of the text.
    pub variables: &'a [(&'a str, &'a OsStr)],
    /// Its working directory, and its `TMPDIR`.
    pub directory: &'a Path,
}

impl Script<'_> {
    /// Runs the script to its end; `on_line` receives every line of its output.
    ///
    /// # Errors
    /// What the last lines of its output say; `cancelled` once everything has ended.
    pub fn run(&self, work: &Work, on_line: &mut dyn FnMut(&str)) -> Result<()> {
        let mut command = namespace::isolated("sh")?;
        command
            .args(["-euc", self.text])
            .envs(self.variables.iter().copied())
            .env("TMPDIR", self.directory)
            .current_dir(self.directory);
        let mut tail = Tail::default();
        let status = child::run(&mut command, work, &mut |line| {
            tail.push(line);
            on_line(line);
        })?;
        if status.success() {
            return Ok(());
        }
        Err(classify("sh", status, &tail.lines()))
    }
}
