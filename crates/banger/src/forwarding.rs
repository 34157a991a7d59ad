//! Ports of this host that lead into a guest, over its agent.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_guest_api::client;
use banger_model::{Code, Error, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, getrlimit, pidfd_open, setrlimit};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::ui::Ui;

/// Bytes on their way, a direction and connection.
const BUFFER: usize = 64 << 10;
/// Descriptors for everything but connections.
const RESERVED: u64 = 64;
/// More connections than these wait.
const CONNECTIONS_MAX: u64 = 16_384;

/// One open port of this host.
pub(crate) struct Listening {
    listener: TcpListener,
    /// Where it really listens.
    pub(crate) address: SocketAddr,
    /// Where it leads.
    pub(crate) guest: u16,
}

impl Listening {
    /// Opens it.
    ///
    /// # Errors
    /// `conflict` when somebody else has the port, `io` when it cannot be had otherwise.
    pub(crate) async fn open(wanted: SocketAddr, guest: u16) -> Result<Listening> {
        let refuse = |error: io::Error| cannot_listen(wanted, guest, error);
        let listener = TcpListener::bind(wanted).await.map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        Ok(Listening {
            listener,
            address,
            guest,
        })
    }
}

fn cannot_listen(wanted: SocketAddr, guest: u16, error: io::Error) -> Error {
    let another = format!("choose another port of this host, such as with `0:{guest}`");
    let (code, hint) = match error.kind() {
        io::ErrorKind::AddrInUse => (Code::Conflict, another),
        io::ErrorKind::PermissionDenied => (
            Code::Io,
            format!("ports below 1024 are not for everybody; {another}"),
        ),
        io::ErrorKind::AddrNotAvailable => {
            (Code::Io, "give an address that this host has".to_owned())
        }
        _ => (Code::Io, another),
    };
    Error::new(code, format!("cannot listen on {wanted}"))
        .hint(hint)
        .because(error)
}

/// Ends when the process does; never when there is none to watch.
///
/// # Errors
/// `agent_failed` when it has ended already or cannot be watched.
pub(crate) fn process_end(pid: Option<u32>) -> Result<impl Future<Output = ()>> {
    let watched = match pid {
        Some(pid) => Some(watch(pid)?),
        None => None,
    };
    Ok(async move {
        match watched {
            // Without a word, the thread ended in a way that cannot be: as good as the process.
            Some(ended) => drop(ended.await),
            None => std::future::pending().await,
        }
    })
}

/// Watches in a thread, which the program's end takes along.
fn watch(pid: u32) -> Result<oneshot::Receiver<()>> {
    let process = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|error| {
            let what = format!("cannot watch the program that runs the machine (pid {pid})");
            Error::new(Code::AgentFailed, what).because(io::Error::from(error))
        })?;
    let (tell, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        while poll(&mut fds, None) == Err(Errno::INTR) {}
        tell.send(()).ok();
    });
    Ok(ended)
}

/// Serves the ports, as many connections at once as there are descriptors for.
///
/// # Errors
/// `io` when a port cannot be listened on any longer.
pub(crate) async fn serve(
    ui: &Ui,
    vm: &str,
    socket: &Path,
    ports: Vec<Listening>,
) -> Result<Infallible> {
    let room = Arc::new(Semaphore::new(connections_at_once()));
    let (failures, mut failed) = mpsc::channel(16);
    let mut accepting = JoinSet::new();
    for port in ports {
        let socket = Arc::from(socket);
        accepting.spawn(accept(port, socket, room.clone(), failures.clone()));
    }
    let mut told = Told::default();
    loop {
        tokio::select! {
            ended = accepting.join_next() => return Err(match ended {
                Some(Ok(error)) => error,
                Some(Err(error)) => Error::internal("a port has ended").because(error),
                None => Error::internal("there is no port to forward"),
            }),
            Some((port, error)) = failed.recv() => {
                if told.is_news(port, &error, Instant::now()) {
                    ui.say(&format!("port {port} of `{vm}`: {}", error.chain()));
                }
            }
        }
    }
}

/// Connections that failed in the guest, on their way to be told.
type Failures = mpsc::Sender<(u16, Error)>;

/// Accepts connections until that is not possible any more.
async fn accept(
    port: Listening,
    socket: Arc<Path>,
    room: Arc<Semaphore>,
    failures: Failures,
) -> Error {
    /// What is lacking may be there again then.
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        // Before the connection, so that more than we have room for wait in the kernel.
        let permit = match room.clone().acquire_owned().await {
            Ok(permit) => permit,
            Err(closed) => return Error::internal("no connections any more").because(closed),
        };
        let stream = match port.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                // The other side has given up already.
                Some(libc::ECONNABORTED | libc::EPROTO) => continue,
                _ => return cannot_listen(port.address, port.guest, error),
            },
        };
        let (socket, failures) = (socket.clone(), failures.clone());
        tokio::spawn(async move {
            carry(stream, &socket, port.guest, failures).await;
            drop(permit);
        });
    }
}

/// One connection, from its first byte to its last in both directions.
async fn carry(mut here: TcpStream, socket: &Path, port: u16, failures: Failures) {
    // What comes in small pieces is to leave in small pieces; without it, it is only slower.
    here.set_nodelay(true).ok();
    match client::dial(socket, port, Duration::ZERO).await {
        Ok(mut guest) => {
            let carried =
                copy_bidirectional_with_sizes(&mut here, &mut guest, BUFFER, BUFFER).await;
            if carried.is_err() {
                // One side broke off, which the other must not take for all there was.
                reset(&here);
            }
        }
        Err(error) => {
            // Refused, as it would be in the guest, and not closed as if it had said all.
            reset(&here);
            // When there are too many to tell, some are not told.
            failures.try_send((port, error)).ok();
        }
    }
}

/// Has the connection end with a reset when it is closed. What cannot be told so is closed in the
/// common way.
fn reset(here: &TcpStream) {
    rustix::net::sockopt::set_socket_linger(here, Some(Duration::ZERO)).ok();
}

/// Takes all the descriptors we may have, and says for how many connections they are enough.
fn connections_at_once() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // Not vital: then there is less room.
        setrlimit(Resource::Nofile, limit).ok();
    }
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    (descriptors.saturating_sub(RESERVED) / 2).clamp(1, CONNECTIONS_MAX) as usize
}

/// What was told, so that a browser that tries again and again does not fill the screen.
#[derive(Default)]
struct Told(HashMap<u16, (String, Instant)>);

impl Told {
    fn is_news(&mut self, port: u16, error: &Error, now: Instant) -> bool {
        const AGAIN: Duration = Duration::from_secs(10);
        let text = error.chain();
        match self.0.get(&port) {
            Some((same, at)) if *same == text && now.duration_since(*at) < AGAIN => false,
            _ => {
                self.0.insert(port, (text, now));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_said_with_the_way_out() {
        let any = "127.0.0.1:0".parse().unwrap();
        let first = Listening::open(any, 80).await.unwrap();
        assert_ne!(first.address.port(), 0);
        let error = Listening::open(first.address, 80).await.err().unwrap();
        assert_eq!(error.code(), Code::Conflict);
        assert!(error.hint_text().unwrap().contains("0:80"), "{error}");
        let elsewhere = "192.0.2.1:0".parse().unwrap();
        let error = Listening::open(elsewhere, 80).await.err().unwrap();
        assert_eq!(error.code(), Code::Io);
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_noticed() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let end = process_end(Some(child.id())).unwrap();
        drop(child.stdin.take());
        end.await;
        child.wait().unwrap();
        assert!(process_end(Some(child.id())).is_err());
    }

    #[test]
    fn the_same_failure_is_told_once_in_a_while() {
        let mut told = Told::default();
        let now = Instant::now();
        let error = |text: &str| Error::new(Code::NotFound, text);
        assert!(told.is_news(80, &error("a"), now));
        assert!(!told.is_news(80, &error("a"), now));
        assert!(told.is_news(81, &error("a"), now));
        assert!(told.is_news(80, &error("b"), now));
        assert!(told.is_news(80, &error("b"), now + Duration::from_secs(11)));
    }
}
