//! Installing the tools that a repository names, before the first command runs in it.
//!
//! A repository with a file of mise's says which versions of which tools it wants. They come from
//! the network, so such a repository needs `--nat`, and that is known before anything is made.
//! In the guest mise installs them, and mise itself is installed where the image has none.
//! Commands in the workspace then find them through mise's shims, which read the file of the
//! directory they run in.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::path::Path;

use banger_guest_api::client::{self, ExecOutput};
use banger_guest_api::{ByteString, DEFAULT_PATH, Exec};
use banger_model::{Code, Error, Result};

use crate::signals::{Signal, Signals};
use crate::ui::{Tamer, Ui};

/// What names tools, in a repository's top directory.
const FILES: [&str; 3] = [".mise.toml", "mise.toml", ".tool-versions"];
/// Where mise and what it installs for root are found.
const TOOLS: &str = "/root/.local/share/mise/shims:/root/.local/bin";
/// What runs in the guest.
const SCRIPT: &str = include_str!("bootstrap/bootstrap.sh");
/// What login shells read.
const PROFILE: &str = "/etc/profile.d";
/// How many of the last lines are told when it failed and nobody has seen them.
const LAST_LINES: usize = 20;
/// The longest line that is shown, in bytes; a longer one is cut in pieces.
const MAX_LINE: usize = 4096;

/// Tools are to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    files: Vec<&'static str>,
}

/// Whether a repository whose top directory is `path` names tools.
///
/// # Errors
/// `invalid_argument` when it does, and the machine would have no network to get them from.
pub(crate) fn check(path: &Path, nat: bool, no_bootstrap: bool) -> Result<Option<Bootstrap>> {
    if no_bootstrap {
        return Ok(None);
    }
    let mut files = FILES.to_vec();
    // What is no file, or cannot be looked at, is for whoever reads the repository to say.
    files.retain(|file| path.join(file).is_file());
    let Some(first) = files.first() else {
        return Ok(None);
    };
    if !nat {
        return Err(Error::new(
            Code::InvalidArgument,
            format!(
                "`{}` names tools, which come from the network, and the machine would have none",
                path.join(first).display()
            ),
        )
        .hint("give it a network with `--nat`, or leave the tools out with `--no-bootstrap`"));
    }
    Ok(Some(Bootstrap { files }))
}

impl Bootstrap {
    /// Installs the tools, as root, for the copy at `guest_path` in the guest behind `socket`.
    /// What is printed there is shown as progress. Gives back the signal that ended it early.
    ///
    /// # Errors
    /// `build_failed` when they are not installed; `agent_failed`.
    pub(crate) async fn run(
        &self,
        ui: &Ui,
        socket: &Path,
        guest_path: impl AsRef<OsStr>,
        signals: &mut Signals,
    ) -> Result<Option<Signal>> {
        ui.say(&format!("installing what {} names", self.named()));
        let mut shown = Shown::new(ui);
        tokio::select! {
            ended = self.install(socket, guest_path.as_ref(), &mut shown) => ended.map(|()| None),
            signal = signals.next_to_end() => Ok(Some(signal)),
        }
    }

    async fn install(
        &self,
        socket: &Path,
        guest_path: &OsStr,
        shown: &mut Shown<'_>,
    ) -> Result<()> {
        let argv = ["sh", "-c", SCRIPT, "bootstrap.sh", PROFILE];
        let exec = Exec {
            argv: argv
                .iter()
                .chain(&self.files)
                .map(|arg| (*arg).into())
                .collect(),
            user: Some("root".to_owned()),
            workdir: Some(guest_path.to_owned().into()),
            ..Exec::default()
        };
        // The half that sends stays: without it the command would be hung up.
        let (_sender, mut receiver) = client::exec(socket, exec).await?;
        let why = loop {
            match receiver.next().await? {
                ExecOutput::Started { .. } => {}
                ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes) => shown.push(&bytes),
                ExecOutput::Exited(0) => {
                    shown.finish();
                    return Ok(());
                }
                ExecOutput::Exited(code) => break format!("it ended with code {code}"),
                ExecOutput::Signalled(number) => break format!("signal {number} ended it"),
                ExecOutput::Refused { message, .. } => break message,
            }
        };
        shown.finish();
        Err(self.failed(&why, &shown.unseen()))
    }

    fn failed(&self, why: &str, unseen: &str) -> Error {
        let named = self.named();
        let message = format!("the tools that {named} names are not installed");
        Error::new(Code::BuildFailed, message)
            .hint("`--no-bootstrap` runs the command without them")
            .because(io::Error::other(format!("{why}{unseen}")))
    }

    fn named(&self) -> String {
        let named: Vec<String> = self.files.iter().map(|file| format!("`{file}`")).collect();
        named.join(" and ")
    }
}

/// What the guest prints, line by line, harmless by then.
struct Shown<'a> {
    ui: &'a Ui,
    tamer: Tamer,
    line: String,
    last: VecDeque<String>,
}

impl<'a> Shown<'a> {
    fn new(ui: &'a Ui) -> Shown<'a> {
        Shown {
            ui,
            tamer: Tamer::default(),
            line: String::new(),
            last: VecDeque::new(),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        for c in self.tamer.push(bytes).chars() {
            if c == '\n' || self.line.len() >= MAX_LINE {
                self.end_line();
            }
            if c != '\n' {
                self.line.push(c);
            }
        }
    }

    fn finish(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.ui.say(&line);
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// The last lines, where they were not shown.
    fn unseen(&self) -> String {
        match self.ui.is_quiet() {
            true => self.last.iter().map(|line| format!("\n{line}")).collect(),
            false => String::new(),
        }
    }
}

/// Lets a command of root's in a workspace find what was installed there. Where nothing was, the
/// directories do not exist, which harms nobody.
pub(crate) fn put_tools_on_path(env: &mut Vec<(ByteString, ByteString)>, user: Option<&str>) {
    let user = user.unwrap_or("root");
    let name = user.split_once(':').map_or(user, |(name, _)| name);
    // Other users can neither use root's tools nor are they theirs.
    if !matches!(name, "root" | "0") {
        return;
    }
    let path = ByteString::from("PATH");
    let with = |rest: &[u8]| ByteString::from([TOOLS.as_bytes(), b":", rest].concat());
    match env.iter_mut().find(|(name, _)| *name == path) {
        Some((_, value)) => *value = with(value.as_bytes()),
        None => env.push((path, with(DEFAULT_PATH.as_bytes()))),
    }
}

#[cfg(test)]
mod tests;
