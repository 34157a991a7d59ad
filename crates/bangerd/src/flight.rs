//! One piece of work per name, however many ask for it.
//!
//! The first to ask starts it; the others join and see its progress. It runs in a task of its
//! own, so nobody's end ends it, except that of the last who was interested: then it is
//! cancelled, and that last one waits until it is undone.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_api::{ErrorBody, Stage};
use banger_model::{Error, Progress, Result};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Work in progress, by name.
pub(crate) struct Flights<T> {
    table: Arc<Mutex<HashMap<String, Arc<Flight<T>>>>>,
}

impl<T> Clone for Flights<T> {
    fn clone(&self) -> Self {
        Flights {
            table: self.table.clone(),
        }
    }
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Flights {
            table: Arc::default(),
        }
    }
}

struct Flight<T> {
    state: watch::Sender<State<T>>,
    cancel: CancellationToken,
    /// How many wait for it; changed with the table locked.
    interested: Mutex<usize>,
}

#[derive(Clone)]
enum State<T> {
    At(Option<Stage>),
    Ended(std::result::Result<T, ErrorBody>),
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// The result of the work called `name`: joins it when it is in progress, else starts it.
    /// `work` gets the place to report progress to and the token that ends it early.
    ///
    /// # Errors
    /// Those of the work; `cancelled` when `cancel` fires first.
    pub(crate) async fn run<F, Fut>(
        &self,
        name: &str,
        progress: &dyn Progress,
        cancel: &CancellationToken,
        work: F,
    ) -> Result<T>
    where
        F: FnOnce(Arc<dyn Progress>, CancellationToken) -> Fut,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let mut work = Some(work);
        loop {
            let joined = self.join(name, &mut work);
            let mut watcher = joined.flight.state.subscribe();
            if joined.flight.cancel.is_cancelled() {
                // Nobody wants that one any more; it is being undone. Wait, then start afresh.
                drop(joined);
                ended(&mut watcher, &mut |_| {}).await?.ok();
                continue;
            }
            let mut show = |stage: &Stage| show(progress, stage);
            let outcome = tokio::select! {
                outcome = ended(&mut watcher, &mut show) => outcome?,
                () = cancel.cancelled() => {
                    let last = joined.leave();
                    if last {
                        ended(&mut watcher, &mut |_| {}).await?.ok();
                    }
                    return Err(Error::cancelled());
                }
            };
            return outcome.map_err(Error::from);
        }
    }

    fn join<F, Fut>(&self, name: &str, work: &mut Option<F>) -> Interest<T>
    where
        F: FnOnce(Arc<dyn Progress>, CancellationToken) -> Fut,
        Fut: Future<Output = Result<T>> + Send + 'static,
    {
        let mut table = lock(&self.table);
        if let Some(flight) = table.get(name) {
            if !flight.cancel.is_cancelled() {
                *lock(&flight.interested) += 1;
            }
            return Interest::new(flight.clone(), !flight.cancel.is_cancelled());
        }
        let flight = Arc::new(Flight {
            state: watch::Sender::new(State::At(None)),
            cancel: CancellationToken::new(),
            interested: Mutex::new(1),
        });
        table.insert(name.to_owned(), flight.clone());
        // Only a caller that has not started it yet comes here.
        if let Some(work) = work.take() {
            let progress = Arc::new(Report(flight.state.clone()));
            let future = work(progress, flight.cancel.clone());
            let landing = Landing {
                table: self.table.clone(),
                name: name.to_owned(),
                flight: flight.clone(),
            };
            let span = tracing::Span::current();
            tokio::spawn(tracing::Instrument::instrument(
                async move {
                    let result = future.await;
                    landing.land(result.map_err(|error| ErrorBody::from(&error)));
                },
                span,
            ));
        }
        Interest::new(flight, true)
    }
}

/// Removes the flight from the table and says how it ended, whatever happens to its task.
struct Landing<T> {
    table: Arc<Mutex<HashMap<String, Arc<Flight<T>>>>>,
    name: String,
    flight: Arc<Flight<T>>,
}

impl<T> Landing<T> {
    fn land(&self, result: std::result::Result<T, ErrorBody>) {
        lock(&self.table).remove(&self.name);
        self.flight.state.send_replace(State::Ended(result));
    }
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        if !matches!(*self.flight.state.borrow(), State::Ended(_)) {
            let error = Error::internal("the work was given up without a result");
            self.land(Err(ErrorBody::from(&error)));
        }
    }
}

/// Somebody's interest in a flight.
struct Interest<T> {
    flight: Arc<Flight<T>>,
    counts: bool,
}

impl<T> Interest<T> {
    fn new(flight: Arc<Flight<T>>, counts: bool) -> Interest<T> {
        Interest { flight, counts }
    }

    /// Gives it up; true when that was the last and the work now ends.
    fn leave(mut self) -> bool {
        self.give_up()
    }

    fn give_up(&mut self) -> bool {
        if !std::mem::take(&mut self.counts) {
            return false;
        }
        let mut interested = lock(&self.flight.interested);
        *interested -= 1;
        if *interested == 0 {
            self.flight.cancel.cancel();
        }
        *interested == 0
    }
}

impl<T> Drop for Interest<T> {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Reports the progress of the work to all who wait.
struct Report<T>(watch::Sender<State<T>>);

impl<T: Send + Sync> Progress for Report<T> {
    fn stage(&self, name: &str, message: &str) {
        self.0.send_replace(State::At(Some(Stage {
            name: name.to_owned(),
            message: message.to_owned(),
            fraction: None,
        })));
    }

    fn fraction(&self, done: f32) {
        self.0.send_if_modified(|state| match state {
            State::At(Some(stage)) => {
                stage.fraction = Some(done);
                true
            }
            _ => false,
        });
    }
}

async fn ended<T: Clone>(
    watcher: &mut watch::Receiver<State<T>>,
    show: &mut (dyn FnMut(&Stage) + Send),
) -> Result<std::result::Result<T, ErrorBody>> {
    loop {
        match &*watcher.borrow_and_update() {
            State::Ended(result) => return Ok(result.clone()),
            State::At(Some(stage)) => show(stage),
            State::At(None) => {}
        }
        watcher
            .changed()
            .await
            .map_err(|_| Error::internal("the work vanished"))?;
    }
}

fn show(progress: &dyn Progress, stage: &Stage) {
    progress.stage(&stage.name, &stage.message);
    if let Some(fraction) = stage.fraction {
        progress.fraction(fraction);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use banger_model::{Code, Quiet};
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn one_runs_and_all_get_its_result() {
        let flights = Flights::<u32>::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let release = Arc::new(Notify::new());
        let ask = || {
            let (flights, runs, release) = (flights.clone(), runs.clone(), release.clone());
            tokio::spawn(async move {
                let cancel = CancellationToken::new();
                flights
                    .run("x", &Quiet, &cancel, |_, _| async move {
                        runs.fetch_add(1, Ordering::SeqCst);
                        release.notified().await;
                        Ok(7)
                    })
                    .await
            })
        };
        let askers: Vec<_> = (0..5).map(|_| ask()).collect();
        while flights
            .table
            .lock()
            .unwrap()
            .get("x")
            .is_none_or(|flight| *lock(&flight.interested) < 5)
        {
            tokio::task::yield_now().await;
        }
        release.notify_one();
        for asker in askers {
            assert_eq!(asker.await.unwrap().unwrap(), 7);
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert!(flights.table.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn only_the_last_to_leave_cancels_and_a_newcomer_starts_afresh() {
        let flights = Flights::<&'static str>::default();
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let undone = Arc::new(Notify::new());
        let wait_for_cancel = |undone: Arc<Notify>| {
            move |_progress, cancel: CancellationToken| async move {
                cancel.cancelled().await;
                undone.notified().await;
                Err(Error::new(Code::Cancelled, "undone"))
            }
        };
        let ask = |cancel: &CancellationToken| {
            let (flights, cancel) = (flights.clone(), cancel.clone());
            let work = wait_for_cancel(undone.clone());
            tokio::spawn(async move { flights.run("x", &Quiet, &cancel, work).await })
        };
        let (a, b) = (ask(&first), ask(&second));
        let interested = || {
            let table = flights.table.lock().unwrap();
            table.get("x").map_or(0, |flight| *lock(&flight.interested))
        };
        while interested() < 2 {
            tokio::task::yield_now().await;
        }
        first.cancel();
        assert_eq!(a.await.unwrap().unwrap_err().code(), Code::Cancelled);
        assert_eq!(interested(), 1);
        second.cancel();
        while interested() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!b.is_finished(), "the last one waits until it is undone");
        let newcomer = {
            let flights = flights.clone();
            tokio::spawn(async move {
                let cancel = CancellationToken::new();
                flights
                    .run("x", &Quiet, &cancel, |_, _| async { Ok("fresh") })
                    .await
            })
        };
        undone.notify_one();
        assert_eq!(b.await.unwrap().unwrap_err().code(), Code::Cancelled);
        assert_eq!(newcomer.await.unwrap().unwrap(), "fresh");
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_for_all() {
        let flights = Flights::<u32>::default();
        let error = flights
            .run("x", &Quiet, &CancellationToken::new(), |_, _| async {
                panic!("on purpose")
            })
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::Internal);
        assert!(flights.table.lock().unwrap().is_empty());
    }
}
