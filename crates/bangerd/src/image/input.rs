//! Bytes that a client sends to an operation, on their way to code that reads and may block.
//!
//! They come in a request of their own, so that the operation has an id, shows its progress and
//! can be cancelled while they come. An input that breaks off is an error, never an end.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use banger_model::{Code, Error, Result};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long an operation waits for its input to begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(30);
/// Pieces under way. Each is what one read of the connection gave, some 100 KiB at most.
const UNDER_WAY: usize = 8;

/// The operations that wait for input, by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs(Arc<Mutex<HashMap<String, Sink>>>);

/// Where the input of one operation goes.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    pieces: mpsc::Sender<Piece>,
    /// Fires when the operation wants no more.
    pub(crate) over: CancellationToken,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    End,
}

/// The other end: reads what a client sends.
#[derive(Debug)]
pub(crate) struct Reader {
    pieces: mpsc::Receiver<Piece>,
    rest: Bytes,
    ended: bool,
    _over: tokio_util::sync::DropGuard,
}

impl Inputs {
    /// Expects the input of this operation. `cancel` ends it.
    pub(crate) fn expect(&self, operation: &str, cancel: &CancellationToken) -> Reader {
        let (sender, pieces) = mpsc::channel(UNDER_WAY);
        let over = cancel.child_token();
        let sink = Sink {
            pieces: sender,
            over: over.clone(),
        };
        self.table().insert(operation.to_owned(), sink);
        // One that nobody sends does not hold the operation for ever.
        let (inputs, id, token) = (self.clone(), operation.to_owned(), over.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(BEGINS_WITHIN) => {}
                () = token.cancelled() => {}
            }
            inputs.table().remove(&id);
        });
        Reader {
            pieces,
            rest: Bytes::new(),
            ended: false,
            _over: over.drop_guard(),
        }
    }

    /// Takes the place to send the input of this operation to.
    ///
    /// # Errors
    /// `conflict` when it expects none, or somebody else sends it.
    pub(crate) fn take(&self, operation: &str) -> Result<Sink> {
        self.table().remove(operation).ok_or_else(|| {
            Error::new(
                Code::Conflict,
                format!(
                    "the operation `{}` expects no input",
                    operation.escape_debug()
                ),
            )
            .hint("its outcome says why: it may have ended, or somebody else sends its input")
        })
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Sink>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    /// Hands over the next bytes; false when nobody wants them any more.
    pub(crate) async fn send(&self, data: Bytes) -> bool {
        self.pass(Piece::Data(data)).await
    }

    /// Says that this was all.
    pub(crate) async fn end(&self) -> bool {
        self.pass(Piece::End).await
    }

    async fn pass(&self, piece: Piece) -> bool {
        tokio::select! {
            sent = self.pieces.send(piece) => sent.is_ok(),
            () = self.over.cancelled() => false,
        }
    }
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => self.rest = data,
                Some(Piece::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the client that sent it broke off",
                    ));
                }
            }
        }
        let count = self.rest.len().min(into.len());
        into[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(mut reader: Reader) -> tokio::task::JoinHandle<io::Result<Vec<u8>>> {
        tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        })
    }

    #[tokio::test]
    async fn what_is_sent_arrives_and_only_an_end_is_an_end() {
        let inputs = Inputs::default();
        let cancel = CancellationToken::new();
        let reading = read_all(inputs.expect("a", &cancel));
        let sink = inputs.take("a").unwrap();
        assert_eq!(inputs.take("a").unwrap_err().code(), Code::Conflict);
        for _ in 0..100 {
            assert!(sink.send(Bytes::from_static(b"0123456789")).await);
        }
        assert!(sink.end().await);
        assert_eq!(reading.await.unwrap().unwrap().len(), 1000);

        let reading = read_all(inputs.expect("b", &cancel));
        let sink = inputs.take("b").unwrap();
        assert!(sink.send(Bytes::from_static(b"half")).await);
        drop(sink);
        let error = reading.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn nobody_hangs_when_the_other_side_has_gone() {
        let inputs = Inputs::default();
        let cancel = CancellationToken::new();
        let reader = inputs.expect("a", &cancel);
        let sink = inputs.take("a").unwrap();
        drop(reader);
        assert!(!sink.send(Bytes::from_static(b"x")).await || sink.over.is_cancelled());

        // An operation that is cancelled before anything came.
        let reading = read_all(inputs.expect("b", &cancel));
        cancel.cancel();
        assert!(reading.await.unwrap().is_err());
        assert!(inputs.take("b").is_err());
    }
}
