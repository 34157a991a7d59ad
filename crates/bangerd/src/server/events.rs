//! Server-sent events that end when the daemon stops.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use banger_api::{Operation, OperationState};
use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::vm::{Lease, Turn};

/// The least time between two events: no display shows more than 20 a second.
const PACE: Duration = Duration::from_millis(50);

/// The operation as it is now, then each change, at a pace a client can follow. Ends after the
/// final one.
pub(super) fn operation(
    watcher: watch::Receiver<Operation>,
    shutdown: CancellationToken,
) -> Sse<impl Stream<Item = Result<Event, axum::Error>>> {
    struct Watch {
        watcher: watch::Receiver<Operation>,
        shutdown: CancellationToken,
        sent: Option<Instant>,
        ended: bool,
    }
    let watch = Watch {
        watcher,
        shutdown,
        sent: None,
        ended: false,
    };
    Sse::new(stream::unfold(watch, async |mut watch| {
        if watch.ended {
            return None;
        }
        if let Some(sent) = watch.sent {
            // A change that has not come yet; then, unless it is the last, the pace.
            tokio::select! {
                changed = watch.watcher.changed() => changed.ok()?,
                () = watch.shutdown.cancelled() => return None,
            }
            if watch.watcher.borrow().state == OperationState::Running {
                tokio::select! {
                    () = tokio::time::sleep_until(sent + PACE) => {}
                    ended = watch.watcher.wait_for(|o| o.state != OperationState::Running) => {
                        ended.ok()?;
                    }
                    () = watch.shutdown.cancelled() => return None,
                }
            }
        }
        let operation = watch.watcher.borrow_and_update().clone();
        watch.ended = operation.state != OperationState::Running;
        watch.sent = Some(Instant::now());
        Some((
            Event::default().event("operation").json_data(operation),
            watch,
        ))
    }))
}

/// One event, then nothing until the VM is gone or the daemon stops. Dropping the stream, which
/// the client's end does, ends the lease.
pub(super) fn lease(lease: Lease) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let states = stream::unfold((lease, false), async |(lease, begun)| {
        if begun {
            lease.ended().await;
            return None;
        }
        let event = Event::default().event("lease").data("held");
        Some((Ok(event), (lease, true)))
    });
    Sse::new(states)
}

/// One event when the turn comes, then nothing until the VM goes away or the daemon stops.
/// Dropping the stream, which the client's end does, makes room for the next one.
pub(super) fn turn(turn: Turn) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let states = stream::unfold((turn, false), async |(mut turn, held)| {
        if held {
            turn.ended().await;
            return None;
        }
        if !turn.comes().await {
            return None;
        }
        let event = Event::default().event("turn").data("held");
        Some((Ok(event), (turn, true)))
    });
    Sse::new(states)
}
