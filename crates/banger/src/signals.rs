//! Signals sent to us.
//!
//! A signal that was ignored when we started stays ignored: `nohup` and shells without job
//! control rely on it.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use banger_model::{Error, Result};
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

/// A signal that somebody sent us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The terminal has closed.
    Hangup,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-\.
    Quit,
    /// A polite request to end.
    Terminate,
    /// For the command to interpret.
    User1,
    /// For the command to interpret.
    User2,
}

const ALL: [Signal; 6] = [
    Signal::Hangup,
    Signal::Interrupt,
    Signal::Quit,
    Signal::Terminate,
    Signal::User1,
    Signal::User2,
];

impl Signal {
    /// The signal's number on Linux.
    pub(crate) fn number(self) -> i32 {
        match self {
            Signal::Hangup => 1,
            Signal::Interrupt => 2,
            Signal::Quit => 3,
            Signal::Terminate => 15,
            Signal::User1 => 10,
            Signal::User2 => 12,
        }
    }

    /// Whether it asks us to end, when no command runs that could have its own idea about it.
    pub(crate) fn asks_to_end(self) -> bool {
        !matches!(self, Signal::User1 | Signal::User2)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Signal::Hangup => "SIGHUP",
            Signal::Interrupt => "SIGINT",
            Signal::Quit => "SIGQUIT",
            Signal::Terminate => "SIGTERM",
            Signal::User1 => "SIGUSR1",
            Signal::User2 => "SIGUSR2",
        })
    }
}

/// Receives signals from the moment it is made; without it they end the program at once.
pub(crate) struct Signals {
    listeners: Vec<(Signal, Listener)>,
    put_back: Option<Signal>,
}

impl Signals {
    /// Begins to listen.
    pub(crate) fn listen() -> Result<Signals> {
        let mut listeners = Vec::new();
        for wanted in ALL {
            if !is_ignored(wanted.number()) {
                listeners.push((wanted, listener(SignalKind::from_raw(wanted.number()))?));
            }
        }
        Ok(Signals {
            listeners,
            put_back: None,
        })
    }

    /// The next signal. May be dropped and called again without losing one.
    pub(crate) async fn next(&mut self) -> Signal {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The next signal that asks us to end.
    pub(crate) async fn next_to_end(&mut self) -> Signal {
        loop {
            let signal = self.next().await;
            if signal.asks_to_end() {
                return signal;
            }
        }
    }

    /// Does something short that must not be torn apart: a signal meanwhile is seen by whoever
    /// asks next. A second one gives up.
    ///
    /// # Errors
    /// The first signal, when there was a second.
    pub(crate) async fn hold<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Signal> {
        tokio::pin!(work);
        let first = tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            signal = self.next_to_end() => signal,
        };
        tokio::select! {
            biased;
            done = work => {
                self.put_back = Some(first);
                Ok(done)
            }
            _ = self.next_to_end() => Err(first),
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Signal> {
        if let Some(signal) = self.put_back.take() {
            return Poll::Ready(signal);
        }
        for (signal, listener) in &mut self.listeners {
            if listener.poll_recv(context).is_ready() {
                return Poll::Ready(*signal);
            }
        }
        Poll::Pending
    }
}

/// Listens to one kind of signal.
pub(crate) fn listener(kind: SignalKind) -> Result<Listener> {
    signal(kind).map_err(|error| Error::internal("cannot listen to signals").because(error))
}

/// Whether a signal is ignored, as whoever started us wants it.
fn is_ignored(number: i32) -> bool {
    // SAFETY: plain data, for which zeroes are valid.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for the call, and nothing is changed.
    let status = unsafe { libc::sigaction(number, std::ptr::null(), &mut now) };
    status == 0 && now.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_known() {
        // By default it does nothing either, and no test waits for it.
        const SIGURG: i32 = 23;
        assert!(!is_ignored(SIGURG));
        // SAFETY: a signal's disposition is all that changes.
        unsafe { libc::signal(SIGURG, libc::SIG_IGN) };
        assert!(is_ignored(SIGURG));
        // SAFETY: as above.
        unsafe { libc::signal(SIGURG, libc::SIG_DFL) };
        assert!(!is_ignored(SIGURG));
        assert!(!is_ignored(0), "no signal at all");
    }

    #[tokio::test]
    async fn signals_arrive_by_name() {
        let mut signals = Signals::listen().unwrap();
        for expected in [Signal::User1, Signal::User2] {
            let number = match expected {
                Signal::User1 => rustix::process::Signal::USR1,
                _ => rustix::process::Signal::USR2,
            };
            rustix::process::kill_process(rustix::process::getpid(), number).unwrap();
            assert_eq!(signals.next().await, expected);
        }
    }

    #[tokio::test]
    async fn a_held_signal_is_not_lost() {
        let mut signals = Signals {
            listeners: Vec::new(),
            put_back: Some(Signal::Interrupt),
        };
        let done = signals.hold(tokio::task::yield_now()).await;
        assert_eq!(done, Ok(()));
        assert_eq!(signals.next().await, Signal::Interrupt);
    }
}
