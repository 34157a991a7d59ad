//! Long blocking work under an async caller: progress out, cancellation in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use banger_model::{Error, Progress, Result};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What blocking work holds of its caller: where to report, and whether to stop.
pub struct Work {
    events: mpsc::UnboundedSender<Event>,
    stop: Arc<Stop>,
    /// The last fraction reported of this stage, in thousandths.
    reported: AtomicU32,
}

/// [`Work::reported`] before the first report of a stage.
const NOTHING: u32 = u32::MAX;

enum Event {
    Stage(String, String),
    Fraction(f32),
}

/// Set once; readable through a descriptor so that `poll` wakes up.
struct Stop {
    asked: AtomicBool,
    event: OwnedFd,
}

impl Stop {
    fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        // Fails only when the counter would overflow, and then the descriptor is readable.
        if let Err(error) = rustix::io::write(&self.event, &1u64.to_ne_bytes()) {
            tracing::debug!(%error, "the stop event was already set");
        }
    }
}

/// Asks the work to stop when its caller goes away.
struct StopOnDrop(Arc<Stop>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.ask();
    }
}

impl Work {
    /// Ends the work here when it is not wanted any more.
    ///
    /// # Errors
    /// `cancelled`.
    pub fn check(&self) -> Result<()> {
        if self.stop.asked.load(Ordering::SeqCst) {
            return Err(Error::cancelled());
        }
        Ok(())
    }

    /// Becomes readable when the work is to stop.
    pub(crate) fn stop_event(&self) -> BorrowedFd<'_> {
        self.stop.event.as_fd()
    }

    fn send(&self, event: Event) {
        // Nobody listens any more: the stop flag says so, reports need not.
        if self.events.send(event).is_err() {
            tracing::trace!("a report of progress had no listener");
        }
    }
}

impl Progress for Work {
    fn stage(&self, name: &str, message: &str) {
        self.reported.store(NOTHING, Ordering::Relaxed);
        self.send(Event::Stage(name.to_owned(), message.to_owned()));
    }

    /// Work reports as often as it likes; only steps forward that a person can see go out.
    fn fraction(&self, done: f32) {
        let thousandths = (done.clamp(0.0, 1.0) * 1000.0) as u32;
        let last = self.reported.load(Ordering::Relaxed);
        let step = if thousandths == 1000 { 1 } else { 5 };
        if last == NOTHING || thousandths >= last.saturating_add(step) {
            self.reported.store(thousandths, Ordering::Relaxed);
            self.send(Event::Fraction(thousandths as f32 / 1000.0));
        }
    }
}

/// Runs `body` on a thread of its own and forwards its reports to `progress`.
///
/// When `cancel` fires, the work is asked to stop and this waits until it has cleaned up.
/// When the future is dropped, the work is asked to stop and cleans up by itself.
///
/// # Errors
/// What `body` returns; `internal` when it panics or no thread can be had.
pub async fn run<T: Send + 'static>(
    name: &str,
    progress: &dyn Progress,
    cancel: &CancellationToken,
    body: impl FnOnce(&Work) -> Result<T> + Send + 'static,
) -> Result<T> {
    if cancel.is_cancelled() {
        return Err(Error::cancelled());
    }
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| Error::internal("cannot make an event descriptor").because(error))?;
    let stop = Arc::new(Stop {
        asked: AtomicBool::new(false),
        event,
    });
    let _stop_on_drop = StopOnDrop(stop.clone());
    let (events, mut reports) = mpsc::unbounded_channel();
    let (give, mut result) = oneshot::channel();
    let work = Work {
        events,
        stop: stop.clone(),
        reported: AtomicU32::new(NOTHING),
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let outcome = body(&work);
            if give.send(outcome).is_err() {
                tracing::debug!("the result of abandoned work was dropped");
            }
        })
        .map_err(|error| Error::internal("cannot start a thread").because(error))?;

    let mut asked = false;
    loop {
        tokio::select! {
            biased;
            Some(event) = reports.recv() => match event {
                Event::Stage(name, message) => progress.stage(&name, &message),
                Event::Fraction(done) => progress.fraction(done),
            },
            outcome = &mut result => {
                return outcome
                    .unwrap_or_else(|_| Err(Error::internal("the thread of the work panicked")));
            }
            () = cancel.cancelled(), if !asked => {
                asked = true;
                stop.ask();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_model::{Code, Quiet};
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    impl Progress for Recorder {
        fn stage(&self, name: &str, message: &str) {
            self.0.lock().unwrap().push(format!("{name}: {message}"));
        }
        fn fraction(&self, done: f32) {
            self.0.lock().unwrap().push(format!("{done}"));
        }
    }

    #[tokio::test]
    async fn reports_arrive_in_order_before_the_result() {
        let recorder = Recorder::default();
        let answer = run("t", &recorder, &CancellationToken::new(), |work| {
            work.stage("a", "first");
            work.fraction(0.5);
            // Neither small steps nor steps back are news.
            work.fraction(0.5001);
            work.fraction(0.2);
            work.fraction(1.0);
            work.stage("b", "second");
            work.fraction(0.2);
            Ok(7)
        })
        .await
        .unwrap();
        assert_eq!(answer, 7);
        assert_eq!(
            *recorder.0.lock().unwrap(),
            ["a: first", "0.5", "1", "b: second", "0.2"]
        );
    }

    /// Blocks until the work is to stop.
    fn wait_for_stop(work: &Work) {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            work.stop_event(),
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
    }

    #[tokio::test]
    async fn cancelling_waits_for_the_clean_up() {
        let cancel = CancellationToken::new();
        let (started, running) = oneshot::channel();
        let cleaned = Arc::new(AtomicBool::new(false));
        let flag = cleaned.clone();
        let token = cancel.clone();
        let (outcome, ()) = tokio::join!(
            run("t", &Quiet, &cancel, move |work| {
                started.send(()).unwrap();
                wait_for_stop(work);
                flag.store(true, Ordering::SeqCst);
                work.check()
            }),
            async {
                running.await.unwrap();
                token.cancel();
            }
        );
        assert_eq!(outcome.unwrap_err().code(), Code::Cancelled);
        assert!(cleaned.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn dropping_the_caller_stops_the_work() {
        let (started, running) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        let cancel = CancellationToken::new();
        let work = run("t", &Quiet, &cancel, move |work| {
            started.send(()).unwrap();
            wait_for_stop(work);
            ended.send(work.check().unwrap_err().code()).unwrap();
            Ok(())
        });
        tokio::select! {
            _ = work => panic!("the work ended by itself"),
            running = running => running.unwrap(),
        }
        assert_eq!(end.await.unwrap(), Code::Cancelled);
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let outcome: Result<()> = run("t", &Quiet, &CancellationToken::new(), |_| {
            panic!("on purpose")
        })
        .await;
        assert_eq!(outcome.unwrap_err().code(), Code::Internal);
    }
}
