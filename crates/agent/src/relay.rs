//! Two stream sockets made into one connection.
//!
//! Each direction has one buffer and is read only when that is empty, so the slower side holds
//! back the faster. The end of one direction is passed on as such and leaves the other alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use crate::socket::{Socket, timespec};

const BUFFER: usize = 64 << 10;
/// A host that has ended its half and then goes away altogether is not always reported, so it is
/// looked for this often, and only then.
const LOOK_FOR_HOST: Duration = Duration::from_secs(5);

/// Carries bytes until both directions have ended, one of the sockets fails or the host is gone.
///
/// # Errors
/// Those of either socket; both are closed by then.
pub(crate) fn run(host: Socket, guest: OwnedFd) -> io::Result<()> {
    host.set_nonblocking(true)?;
    rustix::io::ioctl_fionbio(&guest, true)?;
    let mut inward = Direction::new();
    let mut outward = Direction::new();
    loop {
        inward.carry(host.as_fd(), guest.as_fd())?;
        outward.carry(guest.as_fd(), host.as_fd())?;
        if inward.ended && outward.ended {
            return Ok(());
        }
        if wait(&host, &guest, &inward, &outward)? || !inward.ended {
            continue;
        }
        // A send of nothing fails when the other side takes no more.
        rustix::net::send(host.as_fd(), &[], SendFlags::NOSIGNAL)?;
    }
}

/// Waits until a direction can go on; false when none could for a while.
fn wait(
    host: &Socket,
    guest: &OwnedFd,
    inward: &Direction,
    outward: &Direction,
) -> io::Result<bool> {
    let host_events = inward.source_events() | outward.target_events();
    let guest_events = outward.source_events() | inward.target_events();
    // A socket nothing is expected of is left out: its hang-up would be reported for ever.
    let mut polled: Vec<PollFd<'_>> = [(host.as_fd(), host_events), (guest.as_fd(), guest_events)]
        .into_iter()
        .filter(|(_, events)| !events.is_empty())
        .map(|(fd, events)| PollFd::from_borrowed_fd(fd, events))
        .collect();
    let patience = inward.ended.then(|| timespec(LOOK_FOR_HOST));
    match rustix::event::poll(&mut polled, patience.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Bytes on their way from one socket to the other.
struct Direction {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The source has ended and the target has been told, or the target takes no more.
    ended: bool,
}

impl Direction {
    fn new() -> Self {
        Direction {
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            ended: false,
        }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn source_events(&self) -> PollFlags {
        if self.ended || !self.is_empty() {
            PollFlags::empty()
        } else {
            PollFlags::IN
        }
    }

    fn target_events(&self) -> PollFlags {
        if self.is_empty() {
            PollFlags::empty()
        } else {
            PollFlags::OUT
        }
    }

    /// Moves what can be moved now, one buffer at most, so that the other direction gets its turn.
    fn carry(&mut self, source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
        if self.is_empty() && !self.ended {
            match rustix::io::read(source, &mut *self.buffer) {
                Ok(0) => {
                    self.ended = true;
                    return match rustix::net::shutdown(target, Shutdown::Write) {
                        // It is gone already, which its own direction will notice.
                        Ok(()) | Err(Errno::NOTCONN) => Ok(()),
                        Err(error) => Err(error.into()),
                    };
                }
                Ok(count) => (self.start, self.end) = (0, count),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        while !self.is_empty() {
            match rustix::net::send(
                target,
                &self.buffer[self.start..self.end],
                SendFlags::NOSIGNAL,
            ) {
                Ok(count) => self.start += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                // It takes no more, and may still have something to say.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.start = self.end;
                    self.ended = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
