//! The first line on a connection to the hybrid vsock socket: `CONNECT port`, and `OK`.

use std::io;
use std::path::Path;

use rustix::net::RecvFlags;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::invalid;

/// The longest answer to `CONNECT`: `OK` and a port number.
const MAX_GREETING: usize = 32;

/// Connects to `port` in the guest; the stream is that port's.
///
/// # Errors
/// When nothing listens there, and when the device answers anything but `OK`.
pub(super) async fn greet(socket: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    // One write, and nothing behind it before the answer: the device reads a line and drops
    // what follows.
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .await?;
    let mut line = Vec::with_capacity(MAX_GREETING);
    while line.last() != Some(&b'\n') {
        if line.len() == MAX_GREETING {
            return Err(invalid("the vsock device's answer is too long"));
        }
        let mut bytes = [0; MAX_GREETING];
        let most = MAX_GREETING - line.len();
        let got = read_of_line(&stream, &mut bytes[..most]).await?;
        if got == 0 {
            let why = "nothing in the guest accepts the connection";
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, why));
        }
        line.extend(&bytes[..got]);
    }
    if !line.starts_with(b"OK ") {
        return Err(invalid("the vsock device's answer is not `OK`"));
    }
    Ok(stream)
}

/// Reads what there is of a line, up to its end: what follows belongs to the connection already.
async fn read_of_line(stream: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
    let read = |bytes: &mut [u8], flags| rustix::net::recv(stream, bytes, flags).map(|(n, _)| n);
    stream
        .async_io(Interest::READABLE, || {
            let seen = read(bytes, RecvFlags::PEEK)?;
            let end = bytes[..seen].iter().position(|byte| *byte == b'\n');
            let line = end.map_or(seen, |at| at + 1);
            Ok(read(&mut bytes[..line], RecvFlags::empty())?)
        })
        .await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixListener;

    use super::*;

    /// Greets a device that answers with these pieces, each in a write of its own, and hangs up.
    /// Returns what came after the greeting.
    async fn greeted(pieces: &'static [&'static [u8]]) -> io::Result<Vec<u8>> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let device = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut line = [0; 12];
            stream.read_exact(&mut line).await.unwrap();
            assert_eq!(&line, b"CONNECT 400\n");
            for piece in pieces {
                // Fails when the other side has refused what it got.
                stream.write_all(piece).await.ok();
                tokio::task::yield_now().await;
            }
        });
        let greeted = greet(&socket, 400).await;
        device.await.unwrap();
        let mut rest = Vec::new();
        greeted?.read_to_end(&mut rest).await?;
        Ok(rest)
    }

    #[tokio::test]
    async fn what_follows_the_line_is_left_for_the_connection() {
        assert_eq!(greeted(&[b"OK 1073741824\n"]).await.unwrap(), b"");
        assert_eq!(greeted(&[b"OK 7\nrest\n"]).await.unwrap(), b"rest\n");
        let pieces: &[&[u8]] = &[b"O", b"K 1", b"2", b"\n", b"re", b"st"];
        assert_eq!(greeted(pieces).await.unwrap(), b"rest");
    }

    #[tokio::test]
    async fn anything_else_is_an_error() {
        let kind = |pieces| async move { greeted(pieces).await.unwrap_err().kind() };
        assert_eq!(kind(&[b""]).await, io::ErrorKind::ConnectionRefused);
        assert_eq!(kind(&[b"OK 1"]).await, io::ErrorKind::ConnectionRefused);
        assert_eq!(kind(&[b"NO 1\n"]).await, io::ErrorKind::InvalidData);
        assert_eq!(kind(&[&[b'x'; 64]]).await, io::ErrorKind::InvalidData);
        assert_eq!(
            kind(&[&[b'x'; 32], b"\n"]).await,
            io::ErrorKind::InvalidData
        );
    }
}
