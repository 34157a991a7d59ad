//! Connecting the host to a port in the guest.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use banger_guest_api::{Dial, Reply};
use rustix::event::{PollFd, PollFlags};

use crate::relay;
use crate::socket::{Socket, timespec};

/// How often the port is tried while nothing listens there: the kernel tells nobody when
/// something begins to.
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// How long one attempt may take. On loopback only a full backlog takes any time at all.
const ATTEMPT: Duration = Duration::from_secs(5);
const LINGER: Duration = Duration::from_secs(10);

/// Serves one connection to its end.
pub(crate) fn serve(mut host: Socket, dial: &Dial) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_millis(dial.wait_ms.into());
    let refusal = loop {
        match connect(dial.port) {
            Ok(stream) => {
                host.send(&Reply::Done)?;
                return relay::run(host, stream.into());
            }
            Err(error) if is_nobody(&error) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break Reply::NothingListens;
                }
                if hung_up(&host, left.min(TRY_AGAIN))? {
                    return Ok(());
                }
            }
            Err(error) => {
                let port = dial.port;
                let message = format!("cannot connect to port {port} in the guest: {error}");
                break Reply::Error { message };
            }
        }
    };
    host.send(&refusal)?;
    host.linger(LINGER);
    Ok(())
}

/// IPv4 first; the answer of IPv6 counts when both fail, unless there is no IPv6.
fn connect(port: u16) -> io::Result<TcpStream> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&v4, ATTEMPT)
        .or_else(|error| TcpStream::connect_timeout(&v6, ATTEMPT).map_err(|_| error))
}

/// Port 0 gives an address error, and nobody listens there either.
fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::AddrNotAvailable
    )
}

/// Waits for this long; early, and true, when the host hangs up.
fn hung_up(host: &Socket, patience: Duration) -> io::Result<bool> {
    let mut polled = [PollFd::from_borrowed_fd(host.as_fd(), PollFlags::RDHUP)];
    match rustix::event::poll(&mut polled, Some(&timespec(patience))) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
