//! The host side of the agent protocol, on tokio.
//!
//! Everything from the guest is hostile: the answer to the connection request is bounded, so
//! is every frame, and an answer outside the protocol is an error, never a panic. A guest can
//! still be slow; whoever calls decides how long a boot, a command or a shutdown may take.

mod boot;
mod connection;
mod copy;
mod exec;
mod greeting;
mod guest;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::time::Duration;

use banger_model::{Code, Error, Result};
use tokio::net::UnixStream;

pub use boot::serve_boot;
pub use connection::Connection;
pub use copy::{
    CopyOutStream, archive_error, copy_in, copy_in_until, copy_in_with, copy_out, copy_out_with,
};
pub use exec::{ExecOutput, ExecReceiver, ExecSender, exec};
pub use guest::{dial, listeners, stats};

use crate::frame::Frame;
use crate::{AGENT_PORT, Info, Open, PROTOCOL_VERSION, Reply, Request, tame};
use greeting::greet;
use stream::FrameReader;

/// How long the agent may take to accept a connection, and to answer a question that needs no
/// work. Generous, because many guests may be booting on few processors.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// What every agent speaks.
const OLDEST_PROTOCOL: u32 = 1;

/// Connects to `port` in the guest behind the hybrid vsock `socket`.
///
/// # Errors
/// [`Code::AgentFailed`] when nothing answers there in time.
pub async fn connect(socket: &Path, port: u32) -> Result<UnixStream> {
    let path = socket.to_owned();
    // In a task of its own: vsock devices do not all survive a peer that hangs up in the middle
    // of the handshake, so one whose caller gave up is still finished.
    let handshake = tokio::spawn(async move {
        tokio::time::timeout(ANSWER_TIMEOUT, greet(&path, port))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    });
    match handshake.await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(format!(
            "cannot connect to port {port} of the guest at `{}`",
            socket.display()
        ))
        .because(error)),
        Err(error) => Err(Error::internal("the connection task ended early").because(error)),
    }
}

/// What the guest is.
///
/// # Errors
/// [`Code::AgentFailed`] when the agent does not answer properly in time.
pub async fn info(socket: &Path) -> Result<Info> {
    match timely(ask(socket, Request::Info)).await? {
        Reply::Info(info) => Ok(tamed(info)),
        other => Err(unexpected(&other)),
    }
}

/// Waits until the guest's init system has finished booting. Unbounded: the caller decides how
/// long to wait.
///
/// # Errors
/// [`Code::AgentFailed`] when the agent does not answer properly, or cannot find out.
pub async fn wait_boot(socket: &Path) -> Result<()> {
    done(ask(socket, Request::WaitBoot).await?)
}

/// Asks the guest to flush its disks and go down. Returns when the disks are flushed, however
/// long that takes; the end of the VMM says that the guest is down.
///
/// # Errors
/// [`Code::AgentFailed`] when the agent does not answer properly.
pub async fn shutdown(socket: &Path) -> Result<()> {
    done(ask(socket, Request::Shutdown).await?)
}

async fn ask(socket: &Path, request: Request) -> Result<Reply> {
    let mut stream = open(socket, request).await?;
    let (mut half, _keep) = stream.split();
    let mut reader = FrameReader::default();
    match reader.next(&mut half).await.map_err(broken)? {
        Some(frame) => frame.parse().map_err(broken),
        None => Err(broken(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// Connects to the agent and says what for; the connection then belongs to that request.
///
/// # Errors
/// As [`connect`], and `invalid_argument` when the request is larger than a frame.
pub async fn open(socket: &Path, request: Request) -> Result<UnixStream> {
    let open = Frame::control(&Open {
        version: PROTOCOL_VERSION,
        request,
    })
    .map_err(|error| {
        Error::new(
            Code::InvalidArgument,
            "the request is too large for the guest agent",
        )
        .hint("pass large arguments or variables in a file or on standard input")
        .because(error)
    })?;
    let mut stream = connect(socket, AGENT_PORT).await?;
    match stream::write(&mut stream, &open).await {
        Ok(()) => Ok(stream),
        // An agent that has no room says so and hangs up without listening.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(stream),
        Err(error) => Err(broken(error)),
    }
}

/// Explains a refusal by an agent that is older than the request; any other stays what it is.
async fn older(socket: &Path, request: &Request, error: Error) -> Error {
    if request.since().0 <= OLDEST_PROTOCOL {
        return error;
    }
    match info(socket).await {
        Ok(info) => too_old(&info, request).unwrap_or(error),
        Err(_) => error,
    }
}

/// Refuses a request of which an older agent would not notice what it does not know.
async fn require(socket: &Path, request: &Request) -> Result<()> {
    too_old(&info(socket).await?, request).map_or(Ok(()), Err)
}

fn too_old(info: &Info, request: &Request) -> Option<Error> {
    let (needed, does) = request.since();
    let old = info.version < needed;
    old.then(|| {
        Error::new(
            Code::Conflict,
            format!(
                "the agent in this VM (release {}, protocol {}) cannot {does}; protocol {needed} \
                 is needed",
                info.agent_release, info.version
            ),
        )
        .hint("stop and start the VM: it then boots with the current agent")
    })
}

fn tamed(info: Info) -> Info {
    Info {
        version: info.version,
        agent_release: tame(&info.agent_release),
        boot_id: tame(&info.boot_id),
        kernel: tame(&info.kernel),
        init: info.init.as_deref().map(tame),
        ssh_server: info.ssh_server,
    }
}

async fn timely<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    timely_within(Duration::ZERO, answer).await
}

/// As [`timely`], when the guest was asked to take `longer`.
async fn timely_within<T>(longer: Duration, answer: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(ANSWER_TIMEOUT + longer, answer).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(failed("the guest agent does not answer".to_owned()).because(elapsed)),
    }
}

fn done(reply: Reply) -> Result<()> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(reply: &Reply) -> Error {
    match reply {
        Reply::Error { message } => failed(format!("the guest agent refuses: {}", tame(message))),
        Reply::Done
        | Reply::Info(_)
        | Reply::Listeners { .. }
        | Reply::NothingListens
        | Reply::Stats(_) => {
            failed("the guest agent answered something else than was asked".to_owned())
        }
    }
}

/// A connection that broke, or did not keep the protocol.
fn broken(error: io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::InvalidData => "the guest agent does not keep its protocol",
        _ => "the connection to the guest agent broke",
    };
    // What could not be understood is quoted in the cause, and came from the guest.
    let cause = io::Error::new(error.kind(), tame(&error.to_string()));
    failed(message.to_owned()).because(cause)
}

fn failed(message: String) -> Error {
    Error::new(Code::AgentFailed, message)
        .hint("look at the VM's state with `banger vm list` and at its console for the reason")
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
