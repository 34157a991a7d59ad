//! All streams of one guest, and the unix sockets they come from and go to.
//!
//! A client on the host connects to the VM's socket, sends `CONNECT <port>\n` and gets
//! `OK <port>\n` once the guest has accepted; what follows is the stream. A stream that the guest
//! opens to port `n` of the host goes to the socket's path followed by `_n`. Firecracker does the
//! same, so nothing above knows which VMM carries a stream.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::epoll;
use rustix::net::{RecvFlags, recv};

use crate::packet::{HEADER, Header, Malformed, Op, Ports};
use crate::stream::{Next, Stream, prepare};

/// The first number the event loop may use for what belongs to the multiplexer.
pub(crate) const FIRST_TOKEN: u64 = 16;
/// Numbers of the host's end of streams that the host opens: none that a service has.
const FIRST_PORT: u32 = 1 << 30;
/// The longest first line of a client: `CONNECT 4294967295\n`, with some tolerance.
const MAX_LINE: usize = 32;
/// The most resets that may wait for room in the guest. Beyond it nothing is taken from the
/// guest, so one that does not read its resets stops itself.
const MAX_RESETS: usize = 256;

/// Something with a socket on the host.
#[derive(Debug)]
enum Peer {
    /// A client that has not said yet where it wants to go.
    Client(UnixStream),
    /// A stream.
    Stream(Box<Entry>),
}

#[derive(Debug)]
struct Entry {
    stream: Stream,
    /// Whether it is in the queue of those that may have a packet.
    queued: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Mux {
    guest_cid: u64,
    socket: PathBuf,
    listener: UnixListener,
    listener_token: u64,
    /// Whether the listener is watched; it is not while there are too many peers.
    accepting: bool,
    max_peers: usize,
    peers: HashMap<u64, Peer>,
    by_ports: HashMap<Ports, u64>,
    /// Streams that may have a packet for the guest, each once, in turn.
    ready: VecDeque<u64>,
    resets: VecDeque<Ports>,
    next_token: u64,
    next_port: u32,
}

impl Mux {
    /// Listens on `socket` and takes at most `max_peers` connections at a time.
    pub(crate) fn new(
        socket: &Path,
        guest_cid: u64,
        listener_token: u64,
        max_peers: usize,
    ) -> io::Result<Mux> {
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        Ok(Mux {
            guest_cid,
            socket: socket.to_owned(),
            listener,
            listener_token,
            accepting: false,
            max_peers,
            peers: HashMap::new(),
            by_ports: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            next_token: FIRST_TOKEN,
            next_port: FIRST_PORT,
        })
    }

    /// Takes the clients that wait, as far as there is room for them.
    ///
    /// # Errors
    /// Those of accept(2) that are not about one client.
    pub(crate) fn accept(&mut self, epoll: impl AsFd) -> io::Result<()> {
        while self.peers.len() < self.max_peers {
            match self.listener.accept() {
                Ok((socket, _)) => self.admit(&epoll, socket)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.watch_listener(epoll)
    }

    /// Watches the listener while there is room, and only then: it stays readable as long as
    /// somebody waits. To be called after events, which may have made room.
    ///
    /// # Errors
    /// Those of epoll.
    pub(crate) fn watch_listener(&mut self, epoll: impl AsFd) -> io::Result<()> {
        let room = self.peers.len() < self.max_peers;
        if room && !self.accepting {
            let data = epoll::EventData::new_u64(self.listener_token);
            epoll::add(epoll, &self.listener, data, epoll::EventFlags::IN)?;
        } else if !room && self.accepting {
            epoll::delete(epoll, &self.listener)?;
        }
        self.accepting = room;
        Ok(())
    }

    fn admit(&mut self, epoll: impl AsFd, socket: UnixStream) -> io::Result<()> {
        prepare(&socket)?;
        let token = self.watch(&epoll, &socket)?;
        self.peers.insert(token, Peer::Client(socket));
        // It may have sent its line already.
        self.on_ready(token, epoll::EventFlags::IN);
        Ok(())
    }

    /// Has the event loop report every change of this socket.
    fn watch(&mut self, epoll: impl AsFd, socket: &UnixStream) -> io::Result<u64> {
        let token = self.next_token;
        self.next_token += 1;
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        epoll::add(epoll, socket, epoll::EventData::new_u64(token), flags)?;
        Ok(token)
    }

    /// A socket has become ready.
    pub(crate) fn on_ready(&mut self, token: u64, flags: epoll::EventFlags) {
        use epoll::EventFlags as F;
        let Some(peer) = self.peers.get_mut(&token) else {
            return;
        };
        let hung_up = flags.intersects(F::HUP | F::ERR);
        match peer {
            Peer::Client(socket) => match read_line(socket) {
                Ok(Some(port)) => self.open(token, port),
                Ok(None) if !hung_up => {}
                // Gone, or not a client of ours.
                Ok(None) | Err(_) => self.forget(token),
            },
            Peer::Stream(entry) => {
                let readable = flags.intersects(F::IN | F::RDHUP);
                let next = entry
                    .stream
                    .on_ready(readable, flags.contains(F::OUT), hung_up);
                self.apply(token, next);
            }
        }
    }

    /// Opens a stream to a port of the guest for a client.
    fn open(&mut self, token: u64, guest: u32) {
        let host = self.free_port(guest);
        let Some(Peer::Client(socket)) = self.peers.remove(&token) else {
            return;
        };
        let ports = Ports { host, guest };
        self.insert(token, Stream::from_host(ports, socket));
    }

    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = match self.next_port.checked_add(1) {
                Some(next) if next != u32::MAX => next,
                _ => FIRST_PORT,
            };
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    fn insert(&mut self, token: u64, stream: Stream) {
        self.by_ports.insert(stream.ports(), token);
        let entry = Entry {
            stream,
            queued: false,
        };
        self.peers.insert(token, Peer::Stream(Box::new(entry)));
        self.enqueue(token);
    }

    /// Whether another packet of the guest's may be taken.
    pub(crate) fn has_room(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// A packet from the guest: its header and its payload, already of the length it says.
    pub(crate) fn on_packet(&mut self, epoll: impl AsFd, bytes: &[u8; HEADER], payload: &[u8]) {
        let header = match Header::from_guest(bytes, self.guest_cid) {
            Ok(header) => header,
            Err(Malformed::Unsupported(ports)) => return self.resets.push_back(ports),
            Err(Malformed::Garbage) => return,
        };
        let known = self.by_ports.get(&header.ports).copied();
        match (known, header.op) {
            (None, Op::Request) => self.connect(epoll, &header),
            (None, Op::Reset) => {}
            (None, _) => self.resets.push_back(header.ports),
            (Some(token), _) => {
                if let Some(Peer::Stream(entry)) = self.peers.get_mut(&token) {
                    let next = entry.stream.on_packet(&header, payload);
                    self.apply(token, next);
                }
            }
        }
    }

    /// The guest asks for a port of the host.
    fn connect(&mut self, epoll: impl AsFd, request: &Header) {
        let connected = if self.peers.len() < self.max_peers {
            self.dial(epoll, request.ports.host)
        } else {
            Err(ErrorKind::QuotaExceeded.into())
        };
        match connected {
            Ok((token, socket)) => self.insert(token, Stream::from_guest(request, socket)),
            // The guest's own affair: it learns that nothing is there.
            Err(_) => self.resets.push_back(request.ports),
        }
    }

    fn dial(&mut self, epoll: impl AsFd, port: u32) -> io::Result<(u64, UnixStream)> {
        let mut path = OsString::from(&self.socket);
        path.push(format!("_{port}"));
        // Non-blocking from the start: a listener whose queue is full must not stop everybody.
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::connect(&socket, &rustix::net::SocketAddrUnix::new(&path)?)?;
        let socket = UnixStream::from(socket);
        let token = self.watch(epoll, &socket)?;
        Ok((token, socket))
    }

    /// The next packet for the guest, its payload at the start of `space`.
    pub(crate) fn next_packet(&mut self, space: &mut [u8]) -> Option<[u8; HEADER]> {
        if let Some(ports) = self.resets.pop_front() {
            return Some(Header::new(ports, Op::Reset).to_guest(self.guest_cid));
        }
        while let Some(token) = self.ready.pop_front() {
            let Some(Peer::Stream(entry)) = self.peers.get_mut(&token) else {
                continue;
            };
            entry.queued = false;
            let packet = entry.stream.next_packet(space);
            self.enqueue(token);
            if let Some(header) = packet {
                return Some(header.to_guest(self.guest_cid));
            }
        }
        None
    }

    /// Whether [`Mux::next_packet`] may have something.
    pub(crate) fn has_packet(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// The guest starts anew: every stream is over.
    pub(crate) fn reset(&mut self) {
        self.peers.retain(|_, peer| matches!(peer, Peer::Client(_)));
        self.by_ports.clear();
        self.ready.clear();
        self.resets.clear();
    }

    fn apply(&mut self, token: u64, next: Next) {
        match next {
            Next::Keep => self.enqueue(token),
            Next::Drop => self.forget(token),
            Next::Reset => {
                if let Some(Peer::Stream(entry)) = self.peers.get(&token) {
                    self.resets.push_back(entry.stream.ports());
                }
                self.forget(token);
            }
        }
    }

    fn enqueue(&mut self, token: u64) {
        if let Some(Peer::Stream(entry)) = self.peers.get_mut(&token)
            && !entry.queued
            && entry.stream.has_packet()
        {
            entry.queued = true;
            self.ready.push_back(token);
        }
    }

    /// Closes a socket; the event loop forgets it with that.
    fn forget(&mut self, token: u64) {
        if let Some(Peer::Stream(entry)) = self.peers.remove(&token) {
            self.by_ports.remove(&entry.stream.ports());
        }
    }
}

/// The port that a client asks for, once its line is there. Takes nothing that follows the line.
fn read_line(socket: &UnixStream) -> io::Result<Option<u32>> {
    let mut buffer = [0; MAX_LINE];
    let seen = match recv(socket, &mut buffer, RecvFlags::PEEK) {
        Ok((_, 0)) => return Err(ErrorKind::UnexpectedEof.into()),
        Ok((_, seen)) => seen,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let Some(end) = buffer[..seen].iter().position(|byte| *byte == b'\n') else {
        return match seen < MAX_LINE {
            true => Ok(None),
            false => Err(ErrorKind::InvalidData.into()),
        };
    };
    let port = parse_line(&buffer[..end]).ok_or(ErrorKind::InvalidData)?;
    recv(socket, &mut buffer[..=end], RecvFlags::empty())?;
    Ok(Some(port))
}

fn parse_line(line: &[u8]) -> Option<u32> {
    let line = std::str::from_utf8(line).ok()?.trim_end_matches('\r');
    let port = line.strip_prefix("CONNECT ")?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests;
