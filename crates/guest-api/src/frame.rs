//! Frames: `length: u32 big-endian, kind: u8, payload`.
//!
//! [`Decoder`] works on bytes as they arrive and does no I/O, so that the agent's poll loop,
//! the host's async client and the fuzz tests share it. [`read()`] and [`write()`] are for
//! blocking streams.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest payload of one frame, in bytes. Larger ones are refused before allocation.
pub const MAX_PAYLOAD: usize = 256 << 10;
/// The size of the header, in bytes.
pub const HEADER: usize = 5;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// JSON.
    Control = 0,
    /// Bytes for the command's standard input; empty means its end.
    Stdin = 1,
    /// Bytes from the command's standard output, or its terminal.
    Stdout = 2,
    /// Bytes from the command's standard error.
    Stderr = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> io::Result<Kind> {
        match byte {
            0 => Ok(Kind::Control),
            1 => Ok(Kind::Stdin),
            2 => Ok(Kind::Stdout),
            3 => Ok(Kind::Stderr),
            other => Err(invalid(format!("unknown frame kind {other}"))),
        }
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// The bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A control frame holding `message`.
    ///
    /// # Errors
    /// `InvalidData` when the JSON is larger than [`MAX_PAYLOAD`].
    pub fn control(message: &impl Serialize) -> io::Result<Frame> {
        let payload = serde_json::to_vec(message).map_err(invalid)?;
        if payload.len() > MAX_PAYLOAD {
            return Err(invalid(format!(
                "a message of {} bytes is too large",
                payload.len()
            )));
        }
        Ok(Frame {
            kind: Kind::Control,
            payload,
        })
    }

    /// Parses the JSON of a control frame.
    ///
    /// # Errors
    /// `InvalidData` when the frame is not a control frame or not the expected JSON.
    pub fn parse<T: DeserializeOwned>(&self) -> io::Result<T> {
        if self.kind != Kind::Control {
            return Err(invalid(format!(
                "expected a control frame, got {:?}",
                self.kind
            )));
        }
        serde_json::from_slice(&self.payload).map_err(invalid)
    }
}

/// The header of a frame with this kind and payload length.
pub fn header(kind: Kind, payload_len: usize) -> [u8; HEADER] {
    debug_assert!(payload_len <= MAX_PAYLOAD);
    let length = (payload_len as u32).to_be_bytes();
    [length[0], length[1], length[2], length[3], kind as u8]
}

/// Parses a header into kind and payload length.
///
/// # Errors
/// `InvalidData` for an unknown kind or a length over [`MAX_PAYLOAD`].
pub fn parse_header(header: [u8; HEADER]) -> io::Result<(Kind, usize)> {
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if length > MAX_PAYLOAD {
        return Err(invalid(format!("a frame of {length} bytes is too large")));
    }
    Ok((Kind::from_byte(header[4])?, length))
}

/// Reads one frame from a blocking stream; `None` at a clean end of stream.
///
/// # Errors
/// Those of the stream, `UnexpectedEof` inside a frame, `InvalidData` for a bad header.
pub fn read(stream: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut head = [0; HEADER];
    let mut have = 0;
    while have < HEADER {
        match stream.read(&mut head[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let (kind, length) = parse_header(head)?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok(Some(Frame { kind, payload }))
}

/// Writes one frame to a blocking stream.
///
/// # Errors
/// Those of the stream.
pub fn write(stream: &mut impl Write, frame: &Frame) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEADER + frame.payload.len());
    bytes.extend_from_slice(&header(frame.kind, frame.payload.len()));
    bytes.extend_from_slice(&frame.payload);
    stream.write_all(&bytes)
}

/// Turns bytes, in whatever pieces they arrive, into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > MAX_PAYLOAD {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole frame, if there is one.
    ///
    /// # Errors
    /// `InvalidData` for a bad header; the stream cannot be used any more.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        let rest = &self.buffer[self.start..];
        let Some(head) = rest.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let (kind, length) = parse_header(*head)?;
        let Some(payload) = rest.get(HEADER..HEADER + length) else {
            return Ok(None);
        };
        let frame = Frame {
            kind,
            payload: payload.to_vec(),
        };
        self.start += HEADER + length;
        Ok(Some(frame))
    }

    /// Whether bytes of an unfinished frame are waiting.
    pub fn is_mid_frame(&self) -> bool {
        self.start < self.buffer.len()
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_lying_length_is_refused_before_allocation() {
        let mut bytes: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0];
        assert_eq!(
            read(&mut bytes).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        let mut decoder = Decoder::default();
        decoder.push(&[0xff, 0xff, 0xff, 0xff, 0]);
        assert!(decoder.next_frame().is_err());
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        assert!(parse_header([0, 0, 0, 0, 9]).is_err());
    }

    #[test]
    fn end_of_stream_inside_a_frame_is_an_error() {
        let mut clean: &[u8] = &[];
        assert!(read(&mut clean).unwrap().is_none());
        let mut in_header: &[u8] = &[0, 0];
        assert_eq!(
            read(&mut in_header).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        let mut in_payload: &[u8] = &[0, 0, 0, 4, 0, 1];
        assert_eq!(
            read(&mut in_payload).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    proptest! {
        #[test]
        fn frames_survive_any_fragmentation(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..20),
            piece in 1usize..700,
        ) {
            let frames: Vec<Frame> = payloads
                .into_iter()
                .map(|payload| Frame { kind: Kind::Stdout, payload })
                .collect();
            let mut bytes = Vec::new();
            for frame in &frames {
                write(&mut bytes, frame).unwrap();
            }
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for chunk in bytes.chunks(piece) {
                decoder.push(chunk);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    got.push(frame);
                }
            }
            prop_assert!(!decoder.is_mid_frame());
            prop_assert_eq!(got, frames);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }
}
