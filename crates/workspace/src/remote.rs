//! A workspace in a running guest, reached through its agent.
//!
//! Unlike the rest of the crate this is asynchronous: what blocks runs in threads of its own.

mod commits;
mod copy;
mod export;
mod file;
mod nested;
mod origin;
mod run;
mod save;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use banger_model::{Error, Result};

pub use commits::Bundle;
pub use export::Exported;
pub use nested::Archive;
pub use origin::Origin;
pub use save::{Kept, Saved};

/// The longest word that a guest may answer with, in bytes.
const MAX_WORD: usize = 1 << 10;

/// A workspace in a guest.
#[derive(Clone, Debug)]
pub struct Remote {
    agent: PathBuf,
    path: OsString,
}

impl Remote {
    /// The workspace at `path`, absolute, of the guest whose agent answers on the socket `agent`.
    pub fn new(agent: &Path, path: &OsStr) -> Remote {
        Remote {
            agent: agent.to_owned(),
            path: path.to_owned(),
        }
    }

    /// The commit that the guest says its files were copied on top of: `None` when it stands on
    /// none, or says nothing that makes sense.
    ///
    /// # Errors
    /// `agent_failed` when the guest hangs or goes away.
    pub async fn base(&self) -> Result<Option<String>> {
        let words = ["rev-parse", "--verify", "--quiet", crate::guest::BASE_REF];
        let mut answer = run::Answer::within(MAX_WORD);
        let ended = self.run(self.git(&words), &mut answer).await?;
        let word = String::from_utf8_lossy(&answer.0).trim().to_owned();
        let is_id = matches!(word.len(), 40 | 64) && word.bytes().all(|b| b.is_ascii_hexdigit());
        Ok((ended.status == 0 && is_id).then_some(word))
    }

    /// The guest's git with these words, in the workspace.
    fn git(&self, words: &[&str]) -> Vec<OsString> {
        let start = [
            "git",
            "-c",
            "safe.directory=*",
            "-c",
            "core.fsmonitor=false",
            "-C",
        ];
        let start = start.map(OsString::from).into_iter();
        let words = words.iter().map(OsString::from);
        start.chain([self.path.clone()]).chain(words).collect()
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal("the work was given up").because(error)),
    }
}

/// Text of a guest's, fit for a terminal.
fn tame(text: &str) -> String {
    crate::git::shown(text.as_bytes())
}
