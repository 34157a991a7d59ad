//! Server-sent events, as far as the daemon uses them: `data:` lines and blank lines.

use std::fmt;

use banger_model::{Code, Error, Result};

use super::connection::Answer;
use crate::Operation;

/// The largest event: an operation with the tail of a console in its error is a few KiB.
const EVENT_MAX: usize = 1 << 20;

/// The snapshots of one operation, newest last. Dropping it closes the connection; the
/// operation goes on.
pub struct Events {
    answer: Answer,
    parser: Parser,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    pub(super) fn new(answer: Answer) -> Events {
        Events {
            answer,
            parser: Parser::default(),
        }
    }

    /// The next snapshot; `None` after the final one, or when the daemon stops serving.
    ///
    /// # Errors
    /// `daemon_unavailable` when the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Operation>> {
        loop {
            if let Some(data) = self.parser.next_event()? {
                return serde_json::from_str(&data)
                    .map(Some)
                    .map_err(|error| not_events().because(error));
            }
            match self.answer.chunk().await? {
                Some(bytes) => self.parser.push(&bytes),
                None => return Ok(None),
            }
        }
    }
}

/// Something that is held as long as this exists: an ephemeral VM, which the daemon deletes once
/// nobody keeps it, or the turn at a workspace. Dropping it closes the connection.
pub struct Lease {
    answer: Answer,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lease")
    }
}

impl Lease {
    pub(super) fn new(answer: Answer) -> Lease {
        Lease { answer }
    }

    /// Waits until it is held.
    pub(super) async fn held(&mut self) -> Result<()> {
        let mut parser = Parser::default();
        loop {
            if parser.next_event()?.is_some() {
                return Ok(());
            }
            match self.answer.chunk().await? {
                Some(bytes) => parser.push(&bytes),
                None => return Err(never_held()),
            }
        }
    }

    /// Waits until the daemon ends the lease: `Ok` when the VM is gone or the daemon stops in
    /// good order, an error when the connection broke. The VM lives on in the latter two cases
    /// until the daemon's grace period is over; take a new lease before that to keep it.
    ///
    /// # Errors
    /// `daemon_unavailable` when the connection breaks.
    pub async fn ended(&mut self) -> Result<()> {
        while self.answer.chunk().await?.is_some() {}
        Ok(())
    }
}

fn never_held() -> Error {
    Error::new(
        Code::Conflict,
        "the VM went away, or the daemon stopped, before it was this command's turn",
    )
    .hint("`banger vm list` shows what there is; then try again")
}

/// Turns bytes, in whatever pieces they arrive, into the data of events.
#[derive(Debug, Default)]
struct Parser {
    buffer: Vec<u8>,
    data: String,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn next_event(&mut self) -> Result<Option<String>> {
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8(line).map_err(|error| not_events().because(error))?;
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                if !self.data.is_empty() {
                    return Ok(Some(std::mem::take(&mut self.data)));
                }
            } else if let Some(data) = line.strip_prefix("data:") {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            }
            // Other fields and comments mean nothing here.
        }
        if self.buffer.len() + self.data.len() > EVENT_MAX {
            return Err(not_events());
        }
        Ok(None)
    }
}

fn not_events() -> Error {
    Error::new(
        Code::DaemonUnavailable,
        "the daemon sent something else than the events this release expects",
    )
    .hint("`banger daemon stop` ends it; the next command starts one of this release")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_any_fragmentation() {
        let stream = ": comment\n\nevent: operation\ndata: {\"a\":1}\n\ndata: x\r\ndata:y\r\n\r\n";
        for piece in 1..stream.len() {
            let mut parser = Parser::default();
            let mut got = Vec::new();
            for chunk in stream.as_bytes().chunks(piece) {
                parser.push(chunk);
                while let Some(event) = parser.next_event().unwrap() {
                    got.push(event);
                }
            }
            assert_eq!(got, ["{\"a\":1}", "x\ny"], "pieces of {piece}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = Parser::default();
        parser.push(&vec![b'x'; EVENT_MAX + 1]);
        assert!(parser.next_event().is_err());
    }
}
