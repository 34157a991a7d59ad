//! A connected stream socket, vsock in the guest and unix in the tests.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use banger_guest_api::frame::{self, Frame};
use rustix::event::{PollFd, PollFlags, Timespec};

/// A connected stream socket.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Wraps a connected stream socket.
    pub(crate) fn new(fd: impl Into<OwnedFd>) -> Self {
        Socket(fd.into())
    }

    /// Switches between blocking and non-blocking.
    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, nonblocking)?)
    }

    /// Bounds how long a blocking read or write may take; `None` removes the bound.
    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        use rustix::net::sockopt::{Timeout, set_socket_timeout};
        set_socket_timeout(&self.0, Timeout::Recv, timeout)?;
        set_socket_timeout(&self.0, Timeout::Send, timeout)?;
        Ok(())
    }

    /// Sends one control frame, blocking.
    pub(crate) fn send(&mut self, message: &impl serde::Serialize) -> io::Result<()> {
        frame::write(self, &Frame::control(message)?)
    }

    /// Waits, boundedly, until the peer has closed, then closes.
    ///
    /// The last frame is only sure to have arrived once the peer hangs up: some vsock devices
    /// drop what they still buffer when the guest closes first.
    pub(crate) fn linger(self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut scratch = [0; 4096];
        // An error here means that the peer is gone, which is what we wait for.
        while self.set_nonblocking(true).is_ok() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !wait_readable(self.as_fd(), left) {
                return;
            }
            match rustix::io::read(&self.0, &mut scratch) {
                Ok(0) => return,
                Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// Whether `fd` became readable, or was hung up, within `patience`.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut polled, Some(&timespec(patience))) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// The kernel's form of a duration.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
