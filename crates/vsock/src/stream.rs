//! One stream between a socket on the host and a socket in the guest.
//!
//! Bytes from the guest go to the host's socket at once, or wait in a buffer whose size is the
//! credit that the guest was given. Bytes from the host stay in the kernel until the guest has a
//! buffer for them. So a side that does not read stops the other side and nobody else.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use crate::packet::{Header, Op, Ports, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// How much the guest may send before the host has read any of it, in bytes.
pub(crate) const CREDIT: u32 = 256 << 10;
/// How much of it is read before the guest is told, in bytes.
const TELL_AFTER: u32 = CREDIT / 4;

/// How far the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A client on the host asked; the guest has not been asked yet.
    Asking,
    /// The guest has been asked.
    Asked,
    /// The guest asked and the host has accepted; the guest has not been told yet.
    Accepting,
    /// Both agree.
    Open,
}

/// What the other parts do with a stream after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It goes on.
    Keep,
    /// It is over; the guest knows.
    Drop,
    /// It is over; the guest gets a reset.
    Reset,
}

#[derive(Debug)]
pub(crate) struct Stream {
    ports: Ports,
    socket: UnixStream,
    phase: Phase,

    /// The socket may have bytes, or its end, to read.
    readable: bool,
    /// The socket may take bytes.
    writable: bool,
    /// The host's end is closed in both directions.
    hung_up: bool,
    /// Everything the host will ever send has been read.
    host_ended: bool,
    /// Which halves the guest has been told that the host ended.
    told_shutdown: u32,
    /// Which halves the guest has ended.
    guest_shutdown: u32,
    /// The guest has forgotten the stream; only what it sent before is left to deliver.
    guest_gone: bool,
    /// The host's socket has been told that the guest sends no more.
    ended_towards_host: bool,

    /// From the guest, not yet taken by the host.
    waiting: Vec<u8>,
    /// How much of `waiting` has been taken.
    taken: usize,
    /// Bytes received from the guest, and those passed on; modulo 2³².
    received: u32,
    passed_on: u32,
    /// What of `passed_on` the guest knows.
    told_passed_on: u32,
    tell_credit: bool,

    /// The guest's buffer, what has left it, and what was sent to it; modulo 2³².
    guest_buffer: u32,
    guest_passed_on: u32,
    sent: u32,
    /// The guest was asked for credit since it last gave some.
    asked_credit: bool,
}

impl Stream {
    /// A stream that a client on the host asks for.
    pub(crate) fn from_host(ports: Ports, socket: UnixStream) -> Stream {
        Stream::new(ports, socket, Phase::Asking)
    }

    /// A stream that the guest asked for with `request`, connected on the host.
    pub(crate) fn from_guest(request: &Header, socket: UnixStream) -> Stream {
        let mut stream = Stream::new(request.ports, socket, Phase::Accepting);
        stream.take_credit(request);
        stream
    }

    fn new(ports: Ports, socket: UnixStream, phase: Phase) -> Stream {
        Stream {
            ports,
            socket,
            phase,
            readable: true,
            writable: true,
            hung_up: false,
            host_ended: false,
            told_shutdown: 0,
            guest_shutdown: 0,
            guest_gone: false,
            ended_towards_host: false,
            waiting: Vec::new(),
            taken: 0,
            received: 0,
            passed_on: 0,
            told_passed_on: 0,
            tell_credit: false,
            guest_buffer: 0,
            guest_passed_on: 0,
            sent: 0,
            asked_credit: false,
        }
    }

    pub(crate) fn ports(&self) -> Ports {
        self.ports
    }

    /// The host's socket has become ready.
    pub(crate) fn on_ready(&mut self, readable: bool, writable: bool, hung_up: bool) -> Next {
        self.readable |= readable || hung_up;
        self.writable |= writable;
        self.hung_up |= hung_up;
        self.flush()
    }

    /// A packet from the guest, other than a request, with its payload.
    pub(crate) fn on_packet(&mut self, header: &Header, payload: &[u8]) -> Next {
        if self.guest_gone {
            return Next::Keep;
        }
        self.take_credit(header);
        match (self.phase, header.op) {
            (_, Op::Reset) => self.on_reset(),
            (Phase::Asked, Op::Response) => {
                self.phase = Phase::Open;
                self.greet()
            }
            (Phase::Open, Op::Data) => self.on_data(payload),
            (Phase::Open, Op::Shutdown) => {
                self.guest_shutdown |= header.flags & SHUTDOWN_BOTH;
                self.flush()
            }
            (Phase::Open, Op::CreditUpdate) => Next::Keep,
            (Phase::Open, Op::CreditRequest) => {
                self.tell_credit = true;
                Next::Keep
            }
            // A second handshake, or data before the first is over.
            _ => Next::Reset,
        }
    }

    fn on_reset(&mut self) -> Next {
        self.guest_gone = true;
        self.guest_shutdown = SHUTDOWN_BOTH;
        match self.phase {
            Phase::Open => self.flush(),
            // Refused: the client sees the end of its connection.
            _ => Next::Drop,
        }
    }

    fn on_data(&mut self, payload: &[u8]) -> Next {
        let in_flight = self.received.wrapping_sub(self.passed_on);
        let fits = payload.len() as u64 + u64::from(in_flight) <= u64::from(CREDIT);
        if !fits || self.guest_shutdown & SHUTDOWN_SEND != 0 {
            return Next::Reset;
        }
        self.received = self.received.wrapping_add(payload.len() as u32);
        if self.taken > 0 && self.taken * 2 >= self.waiting.len() {
            self.waiting.drain(..self.taken);
            self.taken = 0;
        }
        self.waiting.extend_from_slice(payload);
        self.flush()
    }

    /// Tells the client that the guest accepted.
    fn greet(&mut self) -> Next {
        let line = format!("OK {}\n", self.ports.host);
        // The first bytes on a fresh socket always fit.
        match (&self.socket).write_all(line.as_bytes()) {
            Ok(()) => Next::Keep,
            Err(_) => Next::Reset,
        }
    }

    /// Passes on what waits, and ends what is over.
    fn flush(&mut self) -> Next {
        while self.taken < self.waiting.len() {
            if self.hung_up || self.ended_towards_host {
                self.pass_on(self.waiting.len() - self.taken);
                break;
            }
            if !self.writable {
                break;
            }
            match (&self.socket).write(&self.waiting[self.taken..]) {
                Ok(count) => self.pass_on(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The host reads no more: what the guest still sends goes nowhere.
                Err(_) => self.hung_up = true,
            }
        }
        if self.taken < self.waiting.len() {
            return Next::Keep;
        }
        self.waiting.clear();
        self.taken = 0;
        if self.waiting.capacity() > CREDIT as usize {
            self.waiting = Vec::new();
        }
        if self.guest_gone {
            return Next::Drop;
        }
        if self.phase != Phase::Open {
            // The client gave up before the guest answered.
            return match (self.hung_up, self.phase) {
                (true, Phase::Asking) => Next::Drop,
                (true, _) => Next::Reset,
                _ => Next::Keep,
            };
        }
        if self.guest_shutdown == SHUTDOWN_BOTH {
            return Next::Reset;
        }
        if self.guest_shutdown & SHUTDOWN_SEND != 0 && !self.ended_towards_host {
            self.ended_towards_host = true;
            if self.socket.shutdown(Shutdown::Write).is_err() {
                self.hung_up = true;
            }
        }
        Next::Keep
    }

    fn pass_on(&mut self, count: usize) {
        self.taken += count;
        self.passed_on = self.passed_on.wrapping_add(count as u32);
        self.tell_credit |= self.passed_on.wrapping_sub(self.told_passed_on) >= TELL_AFTER;
    }

    fn take_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buf_alloc;
        self.guest_passed_on = header.fwd_cnt;
        if self.credit() > 0 {
            self.asked_credit = false;
        }
    }

    /// How many bytes the guest still has room for.
    fn credit(&self) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.guest_passed_on);
        // A guest that lies about what it took gets nothing more.
        self.guest_buffer.saturating_sub(in_flight)
    }

    /// Which halves are over as far as the host is concerned.
    fn host_shutdown(&self) -> u32 {
        match (self.host_ended, self.hung_up) {
            (true, true) => SHUTDOWN_BOTH,
            (true, false) => SHUTDOWN_SEND,
            // What it sent before it hung up is still delivered; that it reads no more can be
            // told at once.
            (false, true) => SHUTDOWN_RECEIVE,
            (false, false) => 0,
        }
    }

    fn wants_to_send_data(&self) -> bool {
        self.readable && !self.host_ended && self.guest_shutdown & SHUTDOWN_RECEIVE == 0
    }

    /// Whether [`Stream::next_packet`] may have something for the guest.
    pub(crate) fn has_packet(&self) -> bool {
        if self.guest_gone {
            return false;
        }
        match self.phase {
            Phase::Asking | Phase::Accepting => true,
            Phase::Asked => false,
            Phase::Open => {
                self.tell_credit
                    || self.host_shutdown() & !self.told_shutdown != 0
                    || (self.wants_to_send_data() && (self.credit() > 0 || !self.asked_credit))
            }
        }
    }

    /// The next packet for the guest, its payload at the start of `space`. None when there was
    /// nothing after all.
    pub(crate) fn next_packet(&mut self, space: &mut [u8]) -> Option<Header> {
        let mut header = self.next_header(space)?;
        header.buf_alloc = CREDIT;
        header.fwd_cnt = self.passed_on;
        self.told_passed_on = self.passed_on;
        self.tell_credit = false;
        Some(header)
    }

    fn next_header(&mut self, space: &mut [u8]) -> Option<Header> {
        if self.guest_gone {
            return None;
        }
        match self.phase {
            Phase::Asking => {
                self.phase = Phase::Asked;
                return Some(Header::new(self.ports, Op::Request));
            }
            Phase::Accepting => {
                self.phase = Phase::Open;
                return Some(Header::new(self.ports, Op::Response));
            }
            Phase::Asked => return None,
            Phase::Open => {}
        }
        if self.wants_to_send_data() {
            let credit = self.credit();
            if credit > 0 {
                let room = space.len().min(credit as usize);
                if let Some(count) = self.read(&mut space[..room]) {
                    self.sent = self.sent.wrapping_add(count);
                    let mut header = Header::new(self.ports, Op::Data);
                    header.len = count;
                    return Some(header);
                }
            } else if !self.asked_credit {
                self.asked_credit = true;
                return Some(Header::new(self.ports, Op::CreditRequest));
            }
        }
        let shutdown = self.host_shutdown();
        if shutdown & !self.told_shutdown != 0 {
            self.told_shutdown |= shutdown;
            let mut header = Header::new(self.ports, Op::Shutdown);
            header.flags = self.told_shutdown;
            return Some(header);
        }
        self.tell_credit
            .then(|| Header::new(self.ports, Op::CreditUpdate))
    }

    fn read(&mut self, space: &mut [u8]) -> Option<u32> {
        loop {
            match (&self.socket).read(space) {
                Ok(0) => self.host_ended = true,
                Ok(count) => return Some(count as u32),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // Reset by the client: it is gone, with what it had not sent.
                Err(_) => {
                    self.host_ended = true;
                    self.hung_up = true;
                }
            }
            return None;
        }
    }
}

/// Makes a socket ready for the event loop.
pub(crate) fn prepare(socket: &UnixStream) -> io::Result<()> {
    socket.set_nonblocking(true)
}
