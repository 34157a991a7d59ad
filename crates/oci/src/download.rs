//! One blob from a registry or another server into the cache, whatever happens on the way.
//!
//! ```text
//! wait for the turn ─▶ there already? ─▶ done
//!                          │ no
//!                          ▼
//!            ┌──▶ ask from where we are ─▶ receive ─▶ all there? ─▶ right digest? ─▶ publish
//!            │         │ failed              │ broke      │ no          │ no
//!            └─ pause ◀┴─────────────────────┴────────────┘             ▼
//!                                                  taken up: once more from 0; else an error
//! ```
//!
//! Dropping the future ends it anywhere; what was received is kept for the next one.

use std::sync::Arc;

use banger_model::{Code, Digest, Error, Result};
use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap};
use tokio::sync::mpsc;

use crate::cache::{BlobCache, Partial, Slot};
use crate::failure::Failure;
use crate::file::Web;
use crate::manifest::Descriptor;
use crate::options::Options;
use crate::progress::Meter;
use crate::request::Answer;
use crate::retry::Retry;
use crate::session::Session;

/// Pieces on the way to the disk; each is at most a few hundred kilobytes.
const QUEUE: usize = 8;
/// A connection that brought this much was worth making: the download gets somewhere.
const WORTHWHILE: u64 = 256 << 10;

/// Who is asked for a blob.
pub(crate) enum Source<'a> {
    Registry(&'a Session),
    Web(&'a Web<'a>),
}

impl Source<'_> {
    /// Asks once for the blob from byte `from` on. The answer may also be the whole blob (200) or
    /// that there is nothing there (416).
    async fn ask(&self, digest: &Digest, from: u64) -> Result<Answer, Failure> {
        match self {
            Source::Registry(session) => session.blob(digest, from).await,
            Source::Web(web) => web.ask(from).await,
        }
    }

    /// The next piece of the answer.
    async fn chunk(&self, host: &str, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        match self {
            Source::Registry(session) => session.chunk(host, body).await,
            Source::Web(web) => web.http().chunk(host, body).await,
        }
    }
}

/// Sees to it that the blob is in the cache, which must be told to keep it before.
pub(crate) async fn fetch(
    source: &Source<'_>,
    cache: &BlobCache,
    blob: &Descriptor,
    options: &Options,
    meter: &Meter<'_>,
) -> Result<()> {
    let slot = cache.slot(&blob.digest);
    let mut done = slot.done.subscribe();
    // Somebody may be in the middle of it.
    meter.set(&blob.digest, *done.borrow());
    let work = fetch_in_turn(source, cache, blob, options, &slot);
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => {
                if result.is_ok() {
                    meter.set(&blob.digest, blob.size);
                }
                return result;
            }
            // The sender lives in the slot, which we hold.
            Ok(()) = done.changed() => meter.set(&blob.digest, *done.borrow_and_update()),
        }
    }
}

async fn fetch_in_turn(
    source: &Source<'_>,
    cache: &BlobCache,
    blob: &Descriptor,
    options: &Options,
    slot: &Arc<Slot>,
) -> Result<()> {
    let turn = slot.turn.clone().lock_owned().await;
    let (digest, size) = (blob.digest.clone(), blob.size);
    let (opened, slot) = (cache.clone(), slot.clone());
    let partial = blocking(move || {
        if opened.verify(&digest, size)? {
            return Ok(None);
        }
        Partial::open(&opened, &digest, size, slot, turn).map(Some)
    })
    .await?;
    match partial {
        None => Ok(()),
        Some(partial) => receive(source, cache, blob, options, partial)
            .await
            .map_err(|failure| failure.error),
    }
}

/// Asks until the blob is whole.
async fn receive(
    source: &Source<'_>,
    cache: &BlobCache,
    blob: &Descriptor,
    options: &Options,
    mut partial: Partial,
) -> Result<(), Failure> {
    let mut retry = Retry::new(options);
    // Whether part of the file is older than this download and may be anything.
    let mut taken_up = partial.len() > 0;
    loop {
        if !partial.is_full() {
            let before = partial.len();
            let part = receive_some(source, blob, partial).await?;
            partial = part.partial;
            taken_up &= !part.over;
            if let Err(failure) = part.result {
                // Starting over each time gets nowhere, however much it brings.
                if !part.over && partial.len() >= before + WORTHWHILE {
                    retry.forget();
                }
                retry.wait(failure).await?;
            }
            if !partial.is_full() {
                continue;
            }
        }
        let (published, digest) = (cache.clone(), blob.digest.clone());
        let wrong = blocking(move || partial.publish(&published, &digest))
            .await
            .map_err(Failure::lasting)?;
        let Some(found) = wrong else {
            return Ok(());
        };
        if !taken_up {
            return Err(Failure::lasting(wrong_digest(&blob.digest, &found)));
        }
        tracing::warn!(digest = %blob.digest, "the start of a download was damaged; once more");
        taken_up = false;
        // The turn went with the file: others who want the blob may be first now.
        let slot = cache.slot(&blob.digest);
        let turn = slot.turn.clone().lock_owned().await;
        let (opened, digest, size) = (cache.clone(), blob.digest.clone(), blob.size);
        let reopened = blocking(move || {
            if opened.verify(&digest, size)? {
                return Ok(None);
            }
            let mut partial = Partial::open(&opened, &digest, size, slot, turn)?;
            partial.restart()?;
            Ok(Some(partial))
        });
        match reopened.await.map_err(Failure::lasting)? {
            Some(fresh) => partial = fresh,
            None => return Ok(()),
        }
    }
}

/// What one request brought.
struct Part {
    partial: Partial,
    /// Whether everything in the file is from this request.
    over: bool,
    result: Result<(), Failure>,
}

/// One request and as much of its answer as comes. The file comes back whatever happened,
/// unless it cannot be written to.
async fn receive_some(
    source: &Source<'_>,
    blob: &Descriptor,
    mut partial: Partial,
) -> Result<Part, Failure> {
    let from = partial.len();
    let nothing = |partial, failure| {
        Ok(Part {
            partial,
            over: false,
            result: Err(failure),
        })
    };
    let Answer { host, response } = match source.ask(&blob.digest, from).await {
        Ok(answer) => answer,
        Err(failure) => return nothing(partial, failure),
    };
    let start = match start_of(&host, blob, from, response.status(), response.headers()) {
        Ok(start) => start,
        Err(failure) => return nothing(partial, failure),
    };
    if !matches!(start, Start::GoOn) {
        partial = blocking(move || partial.restart().map(|()| partial))
            .await
            .map_err(Failure::lasting)?;
    }
    if matches!(start, Start::Ask) {
        return Ok(Part {
            partial,
            over: true,
            result: Ok(()),
        });
    }
    let at = partial.len();
    let (pieces, writer) = write_behind(partial);
    let result = pass_on(source, &host, blob, response.into_body(), pieces, at).await;
    let written = writer.await.unwrap_or_else(|error| Err(gone(error)));
    Ok(Part {
        partial: written.map_err(Failure::lasting)?,
        over: !matches!(start, Start::GoOn),
        result,
    })
}

#[derive(Clone, Copy)]
enum Start {
    /// The answer goes on where the file ends.
    GoOn,
    /// The answer is the whole blob.
    Over,
    /// There is nothing where the file ends: ask for everything.
    Ask,
}

/// What the head of an answer means for the file, and whether it is to be believed.
fn start_of(
    host: &str,
    blob: &Descriptor,
    from: u64,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Start, Failure> {
    let start = match status {
        StatusCode::RANGE_NOT_SATISFIABLE => return Ok(Start::Ask),
        StatusCode::PARTIAL_CONTENT => {
            if from == 0 {
                return Err(Failure::lasting(wrong_size(
                    host,
                    blob,
                    "sends a part",
                    blob.size,
                )));
            }
            // Another part than the one asked for cannot be used, but the whole can be.
            let range = headers
                .get(CONTENT_RANGE)
                .and_then(|value| value.to_str().ok());
            if range.is_some_and(|range| !range.starts_with(&format!("bytes {from}-"))) {
                return Ok(Start::Ask);
            }
            Start::GoOn
        }
        _ => Start::Over,
    };
    let announced: Option<u64> = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    let expected = match start {
        Start::GoOn => blob.size - from,
        Start::Over | Start::Ask => blob.size,
    };
    match announced {
        Some(announced) if announced != expected => Err(Failure::lasting(wrong_size(
            host,
            blob,
            &format!("announces {announced} bytes"),
            expected,
        ))),
        _ => Ok(start),
    }
}

/// Hands the body to the writer, and never more of it than the blob has.
async fn pass_on(
    source: &Source<'_>,
    host: &str,
    blob: &Descriptor,
    mut body: Incoming,
    pieces: mpsc::Sender<Bytes>,
    mut at: u64,
) -> Result<(), Failure> {
    while let Some(piece) = source.chunk(host, &mut body).await? {
        at += piece.len() as u64;
        if at > blob.size {
            return Err(Failure::lasting(wrong_size(
                host,
                blob,
                "sends more bytes",
                blob.size,
            )));
        }
        // The writer ends early only when it failed, and says so itself.
        if pieces.send(piece).await.is_err() {
            return Ok(());
        }
    }
    if at < blob.size {
        return Err(Failure::passing(wrong_size(
            host,
            blob,
            &format!("ends after {at} bytes"),
            blob.size,
        )));
    }
    Ok(())
}

/// Writes and hashes away from the async threads. It ends when the sender does, also when
/// that was dropped, and lets go of the file only then.
fn write_behind(
    mut partial: Partial,
) -> (
    mpsc::Sender<Bytes>,
    tokio::task::JoinHandle<Result<Partial>>,
) {
    let (sender, mut pieces) = mpsc::channel::<Bytes>(QUEUE);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(piece) = pieces.blocking_recv() {
            partial.write(&piece)?;
        }
        Ok(partial)
    });
    (sender, writer)
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(gone(error)))
}

fn gone(error: tokio::task::JoinError) -> Error {
    Error::internal("work on the layer cache was given up").because(error)
}

fn wrong_size(host: &str, blob: &Descriptor, what: &str, expected: u64) -> Error {
    Error::new(
        Code::FetchFailed,
        format!(
            "`{host}` {what} for blob `{}`, and there should be {expected}",
            blob.digest
        ),
    )
    .hint("try again; if it stays so, it is damaged where it comes from")
}

fn wrong_digest(expected: &Digest, found: &Digest) -> Error {
    Error::new(
        Code::FetchFailed,
        format!("what was sent for blob `{expected}` is `{found}`"),
    )
    .hint("try again; if it stays so, it is damaged where it comes from")
}
