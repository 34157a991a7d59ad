//! How long a launch waits for a VMM.

use std::io::{self, PipeReader, PipeWriter};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::process::poll_until;

/// How long a launch may wait, and whether anybody still waits for it.
#[derive(Debug)]
pub struct Patience {
    within: Duration,
    until: Instant,
    /// At its end once nobody wants the launch.
    wanted: Option<PipeReader>,
}

/// Somebody wants a launch: dropping it ends the waits of its [`Patience`] at once.
#[derive(Debug)]
#[must_use = "a launch that nobody wants gives up at once"]
pub struct Wanted {
    _open: PipeWriter,
}

/// Why a patience is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// Its time has passed.
    TimeIsUp,
    /// Nobody wants it any longer.
    Unwanted,
}

impl Patience {
    /// One that lasts this long from now, whatever happens.
    pub fn of(within: Duration) -> Patience {
        Patience {
            within,
            until: Instant::now() + within,
            wanted: None,
        }
    }

    /// One that lasts this long from now, or until the other half is dropped.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn while_wanted(within: Duration) -> io::Result<(Patience, Wanted)> {
        let (reader, writer) = io::pipe()?;
        let patience = Patience {
            wanted: Some(reader),
            ..Patience::of(within)
        };
        Ok((patience, Wanted { _open: writer }))
    }

    /// How long it lasts as a whole.
    pub(crate) fn within(&self) -> Duration {
        self.within
    }

    /// A moment not farther away than this, and not after its end.
    pub(crate) fn soon(&self, within: Duration) -> Instant {
        self.until.min(Instant::now() + within)
    }

    /// Why it is over, if it is.
    pub(crate) fn over(&self) -> io::Result<Option<Over>> {
        let now = Instant::now();
        let (_, over) = self.poll_until([], now)?;
        Ok(over.filter(|over| *over == Over::Unwanted || now >= self.until))
    }

    /// Waits until some of these are ready, which counts before everything else, and says which.
    pub(crate) fn poll<const N: usize>(
        &self,
        fds: [PollFd<'_>; N],
    ) -> io::Result<([bool; N], Option<Over>)> {
        self.poll_until(fds, self.until)
    }

    fn poll_until<const N: usize>(
        &self,
        fds: [PollFd<'_>; N],
        until: Instant,
    ) -> io::Result<([bool; N], Option<Over>)> {
        let mut fds: Vec<PollFd<'_>> = fds.into();
        fds.extend(
            self.wanted
                .iter()
                .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
        );
        poll_until(&mut fds, until)?;
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let theirs = std::array::from_fn(|nth| ready(&fds[nth]));
        let over = match theirs.contains(&true) {
            true => None,
            false if fds[N..].iter().any(ready) => Some(Over::Unwanted),
            false => Some(Over::TimeIsUp),
        };
        Ok((theirs, over))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_wait_ends_by_what_comes_first() {
        let (reader, writer) = io::pipe().unwrap();
        let on = |patience: &Patience| {
            patience
                .poll([PollFd::new(&reader, PollFlags::IN)])
                .unwrap()
        };
        assert_eq!(
            on(&Patience::of(Duration::ZERO)),
            ([false], Some(Over::TimeIsUp))
        );
        let over = |patience: &Patience| patience.over().unwrap();
        assert_eq!(over(&Patience::of(Duration::ZERO)), Some(Over::TimeIsUp));
        let (patience, wanted) = Patience::while_wanted(LONG).unwrap();
        assert_eq!(over(&patience), None);
        let waits = std::thread::spawn(move || drop(wanted));
        assert_eq!(on(&patience), ([false], Some(Over::Unwanted)));
        waits.join().unwrap();
        assert_eq!(over(&patience), Some(Over::Unwanted));
        drop(writer);
        assert_eq!(on(&patience), ([true], None));
    }
}
