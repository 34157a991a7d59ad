//! A connection of the host and one in the guest made into one.
//!
//! On the host's side bytes travel in frames, an empty one for the end of a direction: Firecracker
//! passes on the end of a vsock stream only as the end of both directions. Each direction holds
//! one frame and reads on only when that is gone, so the slower side holds back the faster.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use banger_guest_api::frame::{self, Decoder, Frame, HEADER, Kind};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use crate::socket::Socket;

const BUFFER: usize = 64 << 10;
/// How long the host may take to hang up when all is said.
const LINGER: Duration = Duration::from_secs(10);

/// Carries bytes until both directions have ended, one of the sockets fails or the host is gone.
///
/// # Errors
/// Those of either socket, and `UnexpectedEof` when the host hung up before all was said; both
/// are closed by then.
pub(crate) fn run(host: Socket, guest: OwnedFd) -> io::Result<()> {
    host.set_nonblocking(true)?;
    rustix::io::ioctl_fionbio(&guest, true)?;
    let mut inward = Inward::default();
    let mut outward = Outward::new();
    loop {
        inward.carry(host.as_fd(), guest.as_fd())?;
        outward.carry(guest.as_fd(), host.as_fd())?;
        if inward.ended && outward.is_done() {
            drop(guest);
            host.linger(LINGER);
            return Ok(());
        }
        wait(&host, &guest, &inward, &outward)?;
    }
}

/// Waits until a direction can go on.
fn wait(host: &Socket, guest: &OwnedFd, inward: &Inward, outward: &Outward) -> io::Result<()> {
    let when = |holds: bool, events: PollFlags| match holds {
        true => events,
        false => PollFlags::empty(),
    };
    // What the host still sends when it has ended its direction is only its hanging up.
    let host_events = when(inward.pending.is_empty(), PollFlags::IN)
        | when(!outward.pending.is_empty(), PollFlags::OUT);
    let guest_events = when(outward.pending.is_empty() && !outward.ended, PollFlags::IN)
        | when(!inward.pending.is_empty(), PollFlags::OUT);
    // A socket nothing is expected of is left out: its hang-up would be reported for ever.
    let mut polled: Vec<PollFd<'_>> = [(host.as_fd(), host_events), (guest.as_fd(), guest_events)]
        .into_iter()
        .filter(|(_, events)| !events.is_empty())
        .map(|(fd, events)| PollFd::from_borrowed_fd(fd, events))
        .collect();
    match rustix::event::poll(&mut polled, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Bytes on their way, sent from the front.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    start: usize,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Sends what can be sent now.
    fn send(&mut self, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
        while !self.is_empty() {
            match rustix::net::send(target, &self.bytes[self.start..], SendFlags::NOSIGNAL) {
                Ok(count) => self.start += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// From the host, out of its frames.
#[derive(Default)]
struct Inward {
    decoder: Decoder,
    pending: Pending,
    /// The host has said all, or the guest takes no more.
    ended: bool,
}

impl Inward {
    /// Moves what can be moved now, one buffer at most, so that the other direction gets its turn.
    fn carry(&mut self, host: BorrowedFd<'_>, guest: BorrowedFd<'_>) -> io::Result<()> {
        if self.pending.is_empty() {
            self.read(host)?;
        }
        // A buffer may hold many frames.
        loop {
            match self.pending.send(guest) {
                Ok(()) => {}
                // It takes no more, and may still have something to say.
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.pending = Pending::default();
                    self.ended = true;
                }
                Err(error) => return Err(error.into()),
            }
            if !self.pending.is_empty() || !self.take_frame(guest)? {
                return Ok(());
            }
        }
    }

    fn read(&mut self, host: BorrowedFd<'_>) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        match rustix::io::read(host, &mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if self.ended => Ok(()),
            Ok(count) => {
                self.decoder.push(&buffer[..count]);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the next frame; false when there is none yet.
    fn take_frame(&mut self, guest: BorrowedFd<'_>) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        match self.decoder.next_frame()? {
            None => Ok(false),
            Some(Frame {
                kind: Kind::Stdin,
                payload,
            }) if payload.is_empty() => {
                self.ended = true;
                match rustix::net::shutdown(guest, Shutdown::Write) {
                    // It is gone already, which its own direction will notice.
                    Ok(()) | Err(Errno::NOTCONN) => Ok(true),
                    Err(error) => Err(error.into()),
                }
            }
            Some(Frame {
                kind: Kind::Stdin,
                payload,
            }) => {
                self.pending = Pending {
                    bytes: payload,
                    start: 0,
                };
                Ok(true)
            }
            Some(other) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {:?} does not belong here", other.kind),
            )),
        }
    }
}

/// To the host, into frames.
struct Outward {
    pending: Pending,
    /// The guest has said all, and the host is being told.
    ended: bool,
}

impl Outward {
    fn new() -> Self {
        Outward {
            pending: Pending::default(),
            ended: false,
        }
    }

    fn is_done(&self) -> bool {
        self.ended && self.pending.is_empty()
    }

    /// As [`Inward::carry`].
    fn carry(&mut self, guest: BorrowedFd<'_>, host: BorrowedFd<'_>) -> io::Result<()> {
        if self.pending.is_empty() && !self.ended {
            let bytes = &mut self.pending.bytes;
            bytes.resize(HEADER + BUFFER, 0);
            let read = rustix::io::read(guest, &mut bytes[HEADER..]);
            let count = *read.as_ref().unwrap_or(&0);
            bytes.truncate(HEADER + count);
            bytes[..HEADER].copy_from_slice(&frame::header(Kind::Stdout, count));
            self.pending.start = 0;
            match read {
                Ok(count) => self.ended = count == 0,
                Err(error) => {
                    self.pending = Pending::default();
                    return match error {
                        Errno::AGAIN | Errno::INTR => Ok(()),
                        error => Err(error.into()),
                    };
                }
            }
        }
        Ok(self.pending.send(host)?)
    }
}
