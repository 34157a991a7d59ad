//! A connection to a port in the guest, out of its frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::frame::{self, HEADER, Kind};

/// The most bytes in a frame of ours.
const CHUNK: usize = 64 << 10;

/// A connection to a port in the guest: a stream whose halves end one by one, whatever the VMM
/// makes of the end of a vsock stream. Reading fails with `UnexpectedEof` when the connection
/// breaks off. Shut it down to end the direction to the guest.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    incoming: Incoming,
    outgoing: Outgoing,
}

/// Where in a frame of the guest's the reading is.
#[derive(Debug)]
enum Incoming {
    Header { bytes: [u8; HEADER], have: usize },
    Payload { left: usize },
    Ended,
}

/// Frames that are not sent yet.
#[derive(Debug, Default)]
struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
    ended: bool,
}

impl Connection {
    /// Of a stream that is at its first frame.
    pub(super) fn new(stream: UnixStream) -> Connection {
        Connection {
            stream,
            incoming: Incoming::HEADER,
            outgoing: Outgoing::default(),
        }
    }

    /// The stream itself, for one that deals in frames: see [`crate::Request::Connect`]. Only
    /// for a connection of which nothing was read or written yet.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }
}

impl Incoming {
    const HEADER: Incoming = Incoming::Header {
        bytes: [0; HEADER],
        have: 0,
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.incoming {
                Incoming::Ended => return Poll::Ready(Ok(())),
                Incoming::Header { bytes, have } => {
                    let mut rest = ReadBuf::new(&mut bytes[*have..]);
                    ready!(Pin::new(&mut this.stream).poll_read(context, &mut rest))?;
                    match rest.filled().len() {
                        0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                        count => *have += count,
                    }
                    if *have == HEADER {
                        this.incoming = match frame::parse_header(*bytes)? {
                            (Kind::Stdout, 0) => Incoming::Ended,
                            (Kind::Stdout, left) => Incoming::Payload { left },
                            (kind, _) => {
                                return Poll::Ready(Err(io::Error::new(
                                    io::ErrorKind::InvalidData,
                                    format!("a frame of {kind:?} does not belong here"),
                                )));
                            }
                        };
                    }
                }
                Incoming::Payload { left } => {
                    if buffer.remaining() == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    let room = buffer.remaining().min(*left);
                    let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
                    ready!(Pin::new(&mut this.stream).poll_read(context, &mut part))?;
                    let count = part.filled().len();
                    if count == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    buffer.advance(count);
                    *left -= count;
                    if *left == 0 {
                        this.incoming = Incoming::HEADER;
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl Connection {
    /// Sends what is left of the frames so far.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outgoing = &mut self.outgoing;
        while outgoing.start < outgoing.bytes.len() {
            let stream = Pin::new(&mut self.stream);
            let rest = &outgoing.bytes[outgoing.start..];
            match ready!(stream.poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => outgoing.start += count,
            }
        }
        outgoing.bytes.clear();
        outgoing.start = 0;
        Poll::Ready(Ok(()))
    }

    fn put(&mut self, payload: &[u8]) {
        let bytes = &mut self.outgoing.bytes;
        bytes.extend_from_slice(&frame::header(Kind::Stdin, payload.len()));
        bytes.extend_from_slice(payload);
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(context))?;
        let chunk = &bytes[..bytes.len().min(CHUNK)];
        // An empty frame would be the end.
        if !chunk.is_empty() {
            self.put(chunk);
            // What cannot go now goes with the next write or flush.
            if let Poll::Ready(Err(error)) = self.poll_drain(context) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.outgoing.ended {
            self.outgoing.ended = true;
            self.put(&[]);
        }
        self.poll_drain(context)
    }
}
