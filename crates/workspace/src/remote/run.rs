//! Commands in the guest, and what they say.

use std::ffi::OsString;
use std::time::Duration;

use banger_guest_api::Exec;
use banger_guest_api::client::{self, ExecOutput};
use banger_model::{Code, Error, Result};

use super::Remote;

/// How long a guest may say nothing while it makes a patch: a large tree is read whole, and its
/// processor may be emulated.
const QUIET: Duration = Duration::from_secs(300);
/// How much a guest may say on standard error, in bytes.
const MAX_SAID: usize = 16 << 10;

/// A command that came to its end.
pub(super) struct Finished {
    pub(super) status: i32,
    /// What it wrote to standard error, up to a limit.
    pub(super) said: Vec<u8>,
}

/// Takes what a command writes.
pub(super) trait Output {
    async fn take(&mut self, bytes: &[u8]) -> Result<()>;
}

/// What a command writes, up to a limit.
pub(super) struct Answer(pub(super) Vec<u8>, usize);

impl Answer {
    pub(super) fn within(limit: usize) -> Answer {
        Answer(Vec::new(), limit)
    }
}

impl Output for Answer {
    async fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let room = self.1.saturating_sub(self.0.len()).min(bytes.len());
        self.0.extend_from_slice(&bytes[..room]);
        Ok(())
    }
}

impl Remote {
    /// Runs a command as root, with its output into `output`.
    pub(super) async fn run(
        &self,
        argv: Vec<OsString>,
        output: &mut impl Output,
    ) -> Result<Finished> {
        let exec = Exec {
            argv: argv.into_iter().map(Into::into).collect(),
            workdir: Some("/".into()),
            ..Exec::default()
        };
        let (_sender, mut receiver) = client::exec(&self.agent, exec).await?;
        let mut said = Vec::new();
        let status = loop {
            let next = tokio::time::timeout(QUIET, receiver.next()).await;
            let next = next.map_err(|elapsed| {
                let message = format!(
                    "the guest has said nothing for {} s while it looked for changes",
                    QUIET.as_secs()
                );
                Error::new(Code::AgentFailed, message).because(elapsed)
            })?;
            match next? {
                ExecOutput::Started { .. } => {}
                ExecOutput::Stdout(bytes) => output.take(&bytes).await?,
                ExecOutput::Stderr(bytes) => {
                    let room = MAX_SAID.saturating_sub(said.len()).min(bytes.len());
                    said.extend_from_slice(&bytes[..room]);
                }
                ExecOutput::Exited(status) => break status,
                ExecOutput::Signalled(signal) => break 128 + signal,
                ExecOutput::Refused { code, message } => {
                    said = message.into_bytes();
                    break code;
                }
            }
        };
        Ok(Finished { status, said })
    }
}
