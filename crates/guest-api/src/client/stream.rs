//! Frames on async streams, cancel-safe and with at most one copy of each byte.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::frame::{self, Frame, HEADER, Kind};

const BUFFER: usize = 64 << 10;

/// Reads frames. Dropping a pending [`next`](FrameReader::next) loses nothing.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    /// Bytes read ahead, from `start` on.
    buffer: Vec<u8>,
    start: usize,
    /// The frame being filled.
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    kind: Kind,
    length: usize,
    payload: Vec<u8>,
}

impl FrameReader {
    /// The next frame; `None` at the end of the stream, even inside a frame's header or
    /// payload that will never be complete.
    ///
    /// # Errors
    /// Those of the stream, and `InvalidData` for a bad header.
    pub(super) async fn next(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            let count = match &mut self.partial {
                // What is known to belong to the payload goes there directly.
                Some(partial) if self.start == self.buffer.len() => {
                    let left = partial.length - partial.payload.len();
                    let mut bounded = (&mut *stream).take(left as u64);
                    bounded.read_buf(&mut partial.payload).await?
                }
                _ => {
                    self.buffer.drain(..self.start);
                    self.start = 0;
                    self.buffer.reserve(BUFFER);
                    stream.read_buf(&mut self.buffer).await?
                }
            };
            if count == 0 {
                return Ok(None);
            }
        }
    }

    /// Takes a frame out of what has been read.
    fn take(&mut self) -> io::Result<Option<Frame>> {
        if self.partial.is_none() {
            let Some(head) = self.buffer[self.start..].first_chunk::<HEADER>() else {
                return Ok(None);
            };
            let (kind, length) = frame::parse_header(*head)?;
            self.start += HEADER;
            self.partial = Some(Partial {
                kind,
                length,
                payload: Vec::with_capacity(length),
            });
        }
        let Some(partial) = &mut self.partial else {
            return Ok(None);
        };
        let ahead = &self.buffer[self.start..];
        let count = ahead.len().min(partial.length - partial.payload.len());
        partial.payload.extend_from_slice(&ahead[..count]);
        self.start += count;
        if partial.payload.len() < partial.length {
            return Ok(None);
        }
        Ok(self.partial.take().map(|partial| Frame {
            kind: partial.kind,
            payload: partial.payload,
        }))
    }
}

/// Reads one frame and not one byte more. Not cancel-safe.
///
/// # Errors
/// Those of the stream, `UnexpectedEof` before the frame is whole, `InvalidData` for a bad header.
pub(super) async fn read_one(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
    let mut head = [0; HEADER];
    stream.read_exact(&mut head).await?;
    let (kind, length) = frame::parse_header(head)?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok(Frame { kind, payload })
}

/// Writes one frame. Not cancel-safe.
pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let mut pending = Pending::default();
    pending.add(frame.kind, &frame.payload);
    pending.flush(stream).await
}

/// Bytes of frames that are not written yet. A dropped [`flush`](Pending::flush) leaves the rest
/// here, so that the next frame never starts inside another one.
#[derive(Debug, Default)]
pub(super) struct Pending {
    bytes: Vec<u8>,
    written: usize,
}

impl Pending {
    /// Adds a frame.
    pub(super) fn add(&mut self, kind: Kind, payload: &[u8]) {
        self.bytes
            .extend_from_slice(&frame::header(kind, payload.len()));
        self.bytes.extend_from_slice(payload);
    }

    /// Writes everything.
    pub(super) async fn flush(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        while self.written < self.bytes.len() {
            match stream.write(&self.bytes[self.written..]).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => self.written += count,
            }
        }
        self.bytes.clear();
        self.written = 0;
        Ok(())
    }
}
