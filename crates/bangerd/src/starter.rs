//! Telling whoever started the daemon how that went.
//!
//! The starter passes a pipe as standard output. The daemon writes exactly one line to it,
//! `ready` once requests are answered or `error` and the error as JSON, and then lets go of it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use banger_api::ErrorBody;
use banger_model::{Error, IoContext, Result};

/// Says that requests are answered.
///
/// # Errors
/// `io` when `/dev/null` cannot be opened; a starter that has gone away is none.
pub(crate) fn ready() -> Result<()> {
    say("ready\n");
    let path = Path::new("/dev/null");
    let null = OpenOptions::new().write(true).open(path).at("open", path)?;
    rustix::stdio::dup2_stdout(&null)
        .map_err(io::Error::from)
        .at("open", path)
}

/// Says why the daemon does not start.
pub(crate) fn failed(error: &Error) {
    match serde_json::to_string(&ErrorBody::from(error)) {
        Ok(json) => say(&format!("error {json}\n")),
        Err(_) => say("error {\"code\":\"internal\",\"message\":\"the daemon did not start\"}\n"),
    }
}

fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.flush())
    {
        tracing::info!(%error, "whoever started the daemon has gone away");
    }
}
