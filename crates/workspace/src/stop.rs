//! Ending work that nobody waits for any more.

use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_model::{Code, Error, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Ends the processes that were started under it, and lets no other start. All clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_stopped: bool,
    running: Vec<Arc<OwnedFd>>,
}

/// A process under a [`Stop`]; dropped when it has ended.
pub(crate) struct Running<'a>(&'a Stop, Arc<OwnedFd>);

/// Stops when it is dropped.
pub(crate) struct OnDrop(Stop);

impl Stop {
    /// Ends everything.
    pub(crate) fn stop(&self) {
        let mut state = self.state();
        state.is_stopped = true;
        for process in &state.running {
            end(process);
        }
    }

    /// The same when the result is dropped.
    pub(crate) fn on_drop(&self) -> OnDrop {
        OnDrop(self.clone())
    }

    /// Fails once it was stopped.
    ///
    /// # Errors
    /// [`Code::Cancelled`].
    pub(crate) fn check(&self) -> Result<()> {
        match self.state().is_stopped {
            true => Err(Error::new(Code::Cancelled, "the work was given up")),
            false => Ok(()),
        }
    }

    /// Puts a process that was just started under it.
    ///
    /// # Errors
    /// [`Code::Io`] when this process has no file descriptor left.
    pub(crate) fn watch(&self, child: &Child) -> Result<Running<'_>> {
        let pid = Pid::from_child(child);
        let process = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| Error::new(Code::Io, "cannot watch a process").because(error))?;
        let process = Arc::new(process);
        let mut state = self.state();
        state.running.push(process.clone());
        if state.is_stopped {
            end(&process);
        }
        drop(state);
        Ok(Running(self, process))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let gone = &self.1;
        let mut state = self.0.state();
        state.running.retain(|process| !Arc::ptr_eq(process, gone));
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Git removes what it was writing. One that has ended already is fine.
fn end(process: &OwnedFd) {
    pidfd_send_signal(process, Signal::TERM).ok();
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn processes_end_and_others_do_not_start() {
        let stop = Stop::default();
        let start = || Command::new("sleep").arg("1000").spawn().unwrap();
        let (mut early, mut late) = (start(), start());
        let watched = stop.watch(&early).unwrap();
        stop.check().unwrap();
        drop(stop.on_drop());
        assert_eq!(early.wait().unwrap().signal(), Some(15));
        drop(watched);
        let watched = stop.watch(&late).unwrap();
        assert_eq!(late.wait().unwrap().signal(), Some(15));
        drop(watched);
        assert_eq!(stop.check().unwrap_err().code(), Code::Cancelled);
        assert!(stop.state().running.is_empty());
    }
}
