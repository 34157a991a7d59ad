//! Bytes from the host: frames are taken apart as they arrive, so that standard input goes
//! from the receive buffer straight into the command's pipe, and is only kept (within the
//! agreed window) while the command does not read.

use std::collections::VecDeque;
use std::io::{self, Write};

use banger_guest_api::frame::{self, Frame, HEADER, Kind};
use banger_guest_api::{ExecInput, STDIN_WINDOW};
use rustix::io::Errno;

use crate::socket::Socket;

const RECEIVE: usize = 128 << 10;
/// Control frames are tiny; the frame limit is for exec requests.
const MAX_CONTROL: usize = 4 << 10;

/// Whether the host is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Something,
    Nothing,
    HangUp,
}

#[derive(Debug)]
enum State {
    Header { have: usize, bytes: [u8; HEADER] },
    Control { length: usize, payload: Vec<u8> },
    Stdin { left: usize },
}

const AT_HEADER: State = State::Header {
    have: 0,
    bytes: [0; HEADER],
};

/// Bytes from the host.
#[derive(Debug)]
pub(super) struct Incoming {
    buffer: Box<[u8]>,
    state: State,
    /// Standard input that the command has not taken yet.
    stdin: VecDeque<u8>,
    /// The host has sent the end of standard input.
    ended: bool,
    /// That end has been passed on.
    end_taken: bool,
    /// Nobody takes standard input any more: it is thrown away.
    discard: bool,
    /// Taken since the last credit.
    taken: usize,
    events: Vec<ExecInput>,
}

impl Incoming {
    /// `discard`: there is no standard input to begin with.
    pub(super) fn new(discard: bool) -> Self {
        Incoming {
            buffer: vec![0; RECEIVE].into_boxed_slice(),
            state: AT_HEADER,
            stdin: VecDeque::new(),
            ended: false,
            end_taken: false,
            discard,
            taken: 0,
            events: Vec::new(),
        }
    }

    /// Whether input is waiting for the command to read.
    pub(super) fn has_stdin(&self) -> bool {
        !self.stdin.is_empty()
    }

    /// Whether the end of input is to be passed on now; true once.
    pub(super) fn take_end(&mut self) -> bool {
        let now = self.ended && self.stdin.is_empty() && !self.end_taken;
        self.end_taken |= now;
        now
    }

    /// Throws away what waits and what is still to come.
    pub(super) fn discard_stdin(&mut self) {
        self.taken += self.stdin.len();
        self.stdin = VecDeque::new();
        self.discard = true;
    }

    /// The control frames since the last call.
    pub(super) fn take_events(&mut self) -> Vec<ExecInput> {
        std::mem::take(&mut self.events)
    }

    /// The bytes to give back to the host, once they are worth a frame.
    pub(super) fn take_credit(&mut self) -> Option<u32> {
        if self.taken < STDIN_WINDOW / 4 {
            return None;
        }
        u32::try_from(std::mem::take(&mut self.taken)).ok()
    }

    /// Reads once from the socket; input goes to `stdin` at once when nothing waits before it.
    ///
    /// # Errors
    /// Those of the socket, and `InvalidData` when the host does not keep the protocol.
    pub(super) fn receive(
        &mut self,
        socket: &Socket,
        stdin: &mut impl Write,
    ) -> io::Result<Received> {
        // Taken out while the rest of `self` changes.
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = match rustix::io::read(socket, &mut *buffer) {
            Ok(0) => Ok(Received::HangUp),
            Ok(count) => self
                .take_apart(&buffer[..count], stdin)
                .map(|()| Received::Something),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
            Err(error) => Err(error.into()),
        };
        self.buffer = buffer;
        result
    }

    /// Delivers input that waits.
    ///
    /// # Errors
    /// Those of the stream except `WouldBlock`.
    pub(super) fn deliver(&mut self, stdin: &mut impl Write) -> io::Result<()> {
        while !self.stdin.is_empty() {
            let count = match stdin.write(self.stdin.as_slices().0) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.stdin.drain(..count);
            self.taken += count;
        }
        Ok(())
    }

    fn take_apart(&mut self, mut bytes: &[u8], stdin: &mut impl Write) -> io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header { have, bytes: head } => {
                    let count = bytes.len().min(HEADER - *have);
                    head[*have..*have + count].copy_from_slice(&bytes[..count]);
                    *have += count;
                    bytes = &bytes[count..];
                    if *have == HEADER {
                        let (kind, length) = frame::parse_header(*head)?;
                        self.begin(kind, length)?;
                    }
                }
                State::Control { length, payload } => {
                    let count = bytes.len().min(*length - payload.len());
                    payload.extend_from_slice(&bytes[..count]);
                    bytes = &bytes[count..];
                    if payload.len() == *length {
                        let frame = Frame {
                            kind: Kind::Control,
                            payload: std::mem::take(payload),
                        };
                        self.state = AT_HEADER;
                        // An event this agent does not know comes from a newer host.
                        if let Ok(event) = frame.parse() {
                            self.events.push(event);
                        }
                    }
                }
                State::Stdin { left } => {
                    let count = bytes.len().min(*left);
                    *left -= count;
                    if *left == 0 {
                        self.state = AT_HEADER;
                    }
                    let (input, rest) = bytes.split_at(count);
                    bytes = rest;
                    self.input(input, stdin);
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, kind: Kind, length: usize) -> io::Result<()> {
        self.state = match kind {
            Kind::Control if length == 0 || length > MAX_CONTROL => {
                return Err(violation("a control frame of this size"));
            }
            Kind::Control => State::Control {
                length,
                payload: Vec::with_capacity(length),
            },
            Kind::Stdin if length == 0 => {
                self.ended = true;
                AT_HEADER
            }
            Kind::Stdin if self.ended => return Err(violation("input after its end")),
            Kind::Stdin if self.stdin.len() + self.taken + length > STDIN_WINDOW => {
                return Err(violation("more input than its credit"));
            }
            Kind::Stdin => State::Stdin { left: length },
            Kind::Stdout | Kind::Stderr => return Err(violation("output from the host")),
        };
        Ok(())
    }

    fn input(&mut self, mut input: &[u8], stdin: &mut impl Write) {
        if self.discard {
            self.taken += input.len();
            return;
        }
        if self.stdin.is_empty() {
            // Errors are met again, and handled, when the rest is delivered.
            let count = stdin.write(input).unwrap_or(0);
            self.taken += count;
            input = &input[count..];
        }
        self.stdin.extend(input);
    }
}

fn violation(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the host sent {what}"))
}
