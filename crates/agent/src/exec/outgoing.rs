//! Bytes on their way to the host: one fixed buffer, filled straight from the command's
//! streams.

use std::io;
use std::os::fd::AsFd;

use banger_guest_api::frame::{self, Frame, HEADER, Kind};
use rustix::io::Errno;
use serde::Serialize;

/// The largest data frame. A vsock packet is 64 KiB, so several per system call.
const CHUNK: usize = 192 << 10;
/// Room kept for control frames behind a data frame.
const RESERVE: usize = 8 << 10;

/// What reading a stream gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    Data(usize),
    Empty,
    End,
}

/// Bytes on their way to the host.
#[derive(Debug)]
pub(super) struct Outgoing {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Outgoing {
            buffer: vec![0; HEADER + CHUNK + RESERVE].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Whether everything has been handed to the socket.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Adds a control frame.
    ///
    /// # Errors
    /// When there is no room, which the caller's few small events cannot reach.
    pub(super) fn control(&mut self, event: &impl Serialize) -> io::Result<()> {
        let frame = Frame::control(event)?;
        let needed = HEADER + frame.payload.len();
        let Some(room) = self.buffer.get_mut(self.end..self.end + needed) else {
            return Err(io::ErrorKind::StorageFull.into());
        };
        let (head, payload) = room.split_at_mut(HEADER);
        head.copy_from_slice(&frame::header(frame.kind, frame.payload.len()));
        payload.copy_from_slice(&frame.payload);
        self.end += needed;
        Ok(())
    }

    /// Reads once from a non-blocking stream into one data frame.
    pub(super) fn fill(&mut self, kind: Kind, stream: impl AsFd) -> io::Result<Filled> {
        let payload = self.end + HEADER;
        let limit = (self.buffer.len() - RESERVE).min(payload + CHUNK);
        let Some(room) = self
            .buffer
            .get_mut(payload..limit)
            .filter(|room| !room.is_empty())
        else {
            return Err(io::ErrorKind::StorageFull.into());
        };
        match rustix::io::read(stream, room) {
            // A terminal reports EIO once every process has closed it.
            Ok(0) | Err(Errno::IO) => Ok(Filled::End),
            Ok(count) => {
                let head = frame::header(kind, count);
                self.buffer[self.end..payload].copy_from_slice(&head);
                self.end = payload + count;
                Ok(Filled::Data(count))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Filled::Empty),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what the non-blocking socket takes.
    pub(super) fn flush(&mut self, socket: impl AsFd) -> io::Result<()> {
        while self.start < self.end {
            match rustix::io::write(&socket, &self.buffer[self.start..self.end]) {
                Ok(count) => self.start += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.start = 0;
        self.end = 0;
        Ok(())
    }
}
