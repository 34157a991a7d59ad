//! What a signal sent to us means while a command runs in a guest. No I/O.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::signals::Signal;

/// How long a command may take to end after SIGTERM or SIGHUP.
const GRACE: Duration = Duration::from_secs(5);
/// So many SIGINT within so long: the command does not listen.
const IMPATIENT: (usize, Duration) = (3, Duration::from_secs(2));

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Pass it on.
    Forward,
    /// Pass it on, and end the session if the command still runs after this long.
    ForwardAndHangUpAfter(Duration),
    /// End the session now.
    HangUp,
}

/// Remembers what was sent before.
#[derive(Debug, Default)]
pub(super) struct Policy {
    interrupts: VecDeque<Instant>,
}

impl Policy {
    /// A signal arrives.
    pub(super) fn on(&mut self, signal: Signal, now: Instant) -> Action {
        match signal {
            Signal::Interrupt => {
                let (enough, window) = IMPATIENT;
                self.interrupts.push_back(now);
                self.interrupts
                    .retain(|at| now.duration_since(*at) < window);
                match self.interrupts.len() >= enough {
                    true => Action::HangUp,
                    false => Action::Forward,
                }
            }
            Signal::Terminate | Signal::Hangup => Action::ForwardAndHangUpAfter(GRACE),
            Signal::Quit | Signal::User1 | Signal::User2 => Action::Forward,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_interrupts_in_two_seconds_end_the_session() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut policy = Policy::default();
        assert_eq!(policy.on(Signal::Interrupt, at(0)), Action::Forward);
        assert_eq!(policy.on(Signal::Interrupt, at(900)), Action::Forward);
        assert_eq!(policy.on(Signal::Quit, at(950)), Action::Forward);
        assert_eq!(policy.on(Signal::Interrupt, at(2100)), Action::Forward);
        assert_eq!(policy.on(Signal::Interrupt, at(2800)), Action::HangUp);
    }

    #[test]
    fn a_request_to_end_has_a_limit() {
        let now = Instant::now();
        for signal in [Signal::Terminate, Signal::Hangup] {
            assert_eq!(
                Policy::default().on(signal, now),
                Action::ForwardAndHangUpAfter(Duration::from_secs(5))
            );
        }
    }
}
