//! The caller's two hooks, called from wherever bytes are read.

use std::cell::Cell;

use banger_model::{Code, Error, Result};

/// Tells the caller how far the work is and asks whether to go on.
pub struct Watch<'a> {
    progress: &'a dyn Fn(u64, u64),
    cancelled: &'a dyn Fn() -> bool,
    done: Cell<u64>,
    total: Cell<u64>,
}

impl<'a> Watch<'a> {
    /// `progress` receives the bytes done and the total. They count compressed input, and
    /// twice: each layer is read once to learn what is in it, and once for its contents.
    pub fn new(progress: &'a dyn Fn(u64, u64), cancelled: &'a dyn Fn() -> bool) -> Self {
        Watch {
            progress,
            cancelled,
            done: Cell::new(0),
            total: Cell::new(0),
        }
    }

    pub(crate) fn begin(&self, total: u64) {
        self.done.set(0);
        self.total.set(total);
        (self.progress)(0, total);
    }

    /// Moves on to `done` bytes; never back, never beyond the total.
    pub(crate) fn reach(&self, done: u64) {
        let done = done.min(self.total.get());
        if done > self.done.get() {
            self.done.set(done);
            (self.progress)(done, self.total.get());
        }
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.reach(self.done.get().saturating_add(bytes));
    }

    /// Fails once the caller has given up.
    pub(crate) fn check(&self) -> Result<()> {
        if (self.cancelled)() {
            return Err(Error::new(Code::Cancelled, "the unpacking was cancelled"));
        }
        Ok(())
    }
}
