//! Carrying a planned repository into a guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use banger_api::{Lease, Stage};
use banger_model::{ByteSize, Code, Error, Result};
use banger_workspace::{Plan, Remote, Summary};
use tokio::sync::oneshot;

use super::scratch::Scratch;
use crate::signals::{Signal, Signals};
use crate::ui::{Progress, Ui, human_size};

/// Copies. A signal, and the loss of the turn, end the copy: what was in the guest stays.
///
/// # Errors
/// Those of [`Remote::copy_in`]; `agent_failed` when the turn ended, because the machine or the
/// daemon went away.
pub(super) async fn copy(
    ui: &Ui,
    remote: &Remote,
    plan: &Arc<Plan>,
    scratch: &Scratch,
    turn: &mut Lease,
    signals: &mut Signals,
) -> Result<Result<Summary, Signal>> {
    let carried = Arc::new(AtomicU64::new(0));
    // Dropped when no thread works on the copy any more.
    let (working, at_rest) = oneshot::channel::<()>();
    let count = {
        let carried = carried.clone();
        move |bytes| {
            let _working = &working;
            carried.fetch_add(bytes, Ordering::Relaxed);
        }
    };
    let given_up = tokio::select! {
        biased;
        copied = remote.copy_in(plan.clone(), scratch.path(), count) => return copied.map(Ok),
        signal = signals.next_to_end() => Ok(Err(signal)),
        ended = turn.ended() => Err(turn_lost(ended.err())),
        never = show(ui, plan, &carried) => match never {},
    };
    // What is made on this host is removed before we go on, unless somebody is in a hurry.
    tokio::select! {
        _ = at_rest => {}
        _ = signals.next_to_end() => {}
    }
    given_up
}

fn turn_lost(cause: Option<Error>) -> Error {
    let error = Error::new(
        Code::AgentFailed,
        "the daemon stopped while the repository was copied; in the guest everything is as it was",
    )
    .hint("try again");
    match cause {
        Some(cause) => error.because(cause),
        None => error,
    }
}

/// Bytes that the files take in the archive: a header each, and content in blocks.
fn total(plan: &Plan) -> u64 {
    const BLOCK: u64 = 512;
    let files = plan.entries().iter();
    files
        .map(|entry| BLOCK + entry.size.next_multiple_of(BLOCK))
        .sum()
}

/// Shows how far it is: of the files, what part; of git's own data, which is collected while the
/// files go, how much. Never ends.
async fn show(ui: &Ui, plan: &Plan, carried: &AtomicU64) -> std::convert::Infallible {
    /// A person reads no faster; what is done sooner needs no progress.
    const BETWEEN: Duration = Duration::from_millis(200);
    let mut progress = Progress::new(ui);
    let files = format!("copying {}", quantity(plan));
    if !ui.redraws() {
        progress.say(&files);
        return std::future::pending().await;
    }
    let total = total(plan);
    loop {
        tokio::time::sleep(BETWEEN).await;
        let carried = carried.load(Ordering::Relaxed);
        match carried.checked_sub(total) {
            None => progress.stage(&Stage {
                name: "copy".to_owned(),
                message: files.clone(),
                fraction: Some(carried as f32 / total as f32),
            }),
            Some(more) => {
                let more = human_size(ByteSize::bytes(more));
                progress.say(&format!("copying git's objects: {more}"));
            }
        }
    }
}

/// How much that is, for people.
pub(super) fn quantity(plan: &Plan) -> String {
    let size = size(plan.bytes());
    match plan.entries().len() {
        1 => format!("1 file, {size}"),
        count => format!("{count} files, {size}"),
    }
}

/// A size with its unit: a bare number beside a number of files would be one too many.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        more => human_size(ByteSize::bytes(more)),
    }
}
