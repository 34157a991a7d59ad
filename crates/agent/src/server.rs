//! The agent as a server: one thread for each connection from the host.
//!
//! Only the host is served: a process inside the guest that reaches the port through vsock's
//! loopback would otherwise become root. Connections are bounded in number, and each is bounded
//! in memory by the buffers of what it does.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use banger_guest_api::{BootReport, Info, Open, PROTOCOL_VERSION, Reply, Request, frame};
use vsock::{VMADDR_CID_HOST, VsockListener};

use crate::failure::{self, Step};
use crate::init::{Init, Kind};
use crate::socket::Socket;
use crate::{copy, dial, exec, listeners, shutdown, stats, wait_boot};

/// The first argument of the agent's own process.
pub(crate) const SUBCOMMAND: &str = "serve";
/// Its name. systemd spares processes whose name begins with `@` when it kills everything at
/// the end of a shutdown, so that the agent sees the guest down.
pub(crate) const PROCESS_NAME: &str = "@banger-agent";

/// The newest protocol this agent speaks.
pub(crate) const PROTOCOL: u32 = if cfg!(feature = "protocol-1") {
    1
} else {
    PROTOCOL_VERSION
};

const MAX_CONNECTIONS: usize = 256;
/// How long a connection may take to say what it is for.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
const LINGER: Duration = Duration::from_secs(10);
/// Threads mostly sleep in poll; their buffers are on the heap.
const STACK: usize = 256 << 10;
const ECHO_BUFFER: usize = 256 << 10;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Server {
    info: Info,
    init: Option<Init>,
    connections: AtomicUsize,
}

/// A place among the bounded connections, given back on drop.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Server>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How `boot` starts the server: the numbers of the descriptors it inherits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inherited {
    /// The listening socket.
    pub(crate) listener: RawFd,
    /// The boot connection, on which the server reports that it is ready.
    pub(crate) boot: RawFd,
    /// Closed once it has; PID 1 waits for that.
    pub(crate) ready: RawFd,
}

impl Inherited {
    /// The command line that [`main`] reads.
    pub(crate) fn arguments(self, init: Option<&Init>) -> Vec<OsString> {
        let mut arguments = vec![OsString::from(SUBCOMMAND)];
        arguments.extend([self.listener, self.boot, self.ready].map(|fd| fd.to_string().into()));
        if let Some(init) = init {
            arguments.extend([init.kind.name().into(), OsString::from(&init.path)]);
        }
        arguments
    }
}

/// The agent's own process. Does not return unless the machine is beyond use.
pub(crate) fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    failure::end_the_guest_on_panic();
    let mut descriptor = || {
        let number: RawFd = arguments.next()?.to_str()?.parse().ok()?;
        // SAFETY: `boot` left exactly these descriptors open for this process and nothing else
        // here knows their numbers.
        (number > 2).then(|| unsafe { OwnedFd::from_raw_fd(number) })
    };
    let (Some(listener), Some(boot), Some(ready)) = (descriptor(), descriptor(), descriptor())
    else {
        eprintln!("banger-agent: `{SUBCOMMAND}` is for banger's own init only");
        return ExitCode::from(2);
    };
    let mut text = || arguments.next()?.into_string().ok();
    let kind = text().and_then(|name| Kind::named(&name));
    let init = kind.zip(text()).map(|(kind, path)| Init { path, kind });
    match serve(listener, Socket::new(boot), ready, init) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("banger: {failure}");
            failure::end_the_guest()
        }
    }
}

fn serve(
    listener: OwnedFd,
    mut boot: Socket,
    ready: OwnedFd,
    init: Option<Init>,
) -> failure::Result<()> {
    close_on_exec(&listener).step("prepare the agent's socket")?;
    close_on_exec(&ready).step("prepare the agent's socket")?;
    raise_limits();
    let server = Arc::new(Server::new(init));
    boot.send(&BootReport::Ready(server.info.clone()))
        .step("report readiness")?;
    spawn("boot-report", move || boot.linger(LINGER)).step("start a thread")?;
    drop(ready);

    let listener = VsockListener::from(listener);
    loop {
        match listener.accept() {
            Ok((stream, peer)) if peer.cid() == VMADDR_CID_HOST => {
                let socket = Socket::new(OwnedFd::from(stream));
                if let Err(error) = server.admit(socket) {
                    eprintln!("banger: start a connection: {error}");
                }
            }
            Ok(_) => {}
            Err(error) => {
                // Out of descriptors or memory: what runs will end and give some back.
                eprintln!("banger: accept a connection: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Descriptors for every connection, and the last to go when memory runs out: without the agent
/// nobody could see why. Commands get the ordinary values back.
fn raise_limits() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let files = Rlimit {
        current: Some(16 << 10),
        maximum: Some(512 << 10),
    };
    if let Err(error) = setrlimit(Resource::Nofile, files) {
        eprintln!("banger: raise the number of open files: {error}");
    }
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        eprintln!("banger: protect the agent from the OOM killer: {error}");
    }
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
}

fn close_on_exec(fd: &OwnedFd) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(work)
        .map(drop)
}

/// What the agent says about itself and its guest.
pub(crate) fn info(init: Option<String>) -> Info {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let kernel = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    Info {
        version: PROTOCOL,
        agent_release: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: boot_id.unwrap_or_default().trim().to_owned(),
        kernel,
        init,
        ssh_server: None,
    }
}

impl Server {
    pub(crate) fn new(init: Option<Init>) -> Self {
        Server::speaking(PROTOCOL, init)
    }

    /// A server that knows nothing newer than this protocol.
    pub(crate) fn speaking(protocol: u32, init: Option<Init>) -> Self {
        Server {
            info: Info {
                version: protocol,
                ..info(init.as_ref().map(|init| init.path.clone()))
            },
            init,
            connections: AtomicUsize::new(0),
        }
    }

    #[cfg(test)]
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Serves a connection in a thread of its own, or refuses it when there are too many.
    pub(crate) fn admit(self: &Arc<Self>, mut socket: Socket) -> io::Result<()> {
        let taken = self.connections.fetch_add(1, Ordering::Relaxed);
        let slot = Slot(Arc::clone(self));
        if taken >= MAX_CONNECTIONS {
            // Small enough for an empty socket buffer, so it does not hold up the others.
            socket.set_timeout(Some(Duration::from_millis(100)))?;
            return socket.send(&error(format!(
                "the agent already serves {MAX_CONNECTIONS} connections"
            )));
        }
        let server = Arc::clone(self);
        spawn("connection", move || {
            // The host that hung up gets no answer, and there is nobody else to tell.
            if let Err(error) = server.connection(socket, slot)
                && error.kind() == io::ErrorKind::InvalidData
            {
                eprintln!("banger: connection: {error}");
            }
        })
    }

    /// Knows a request its protocol does not have no more than the release that spoke it did.
    fn known(&self, open: Open) -> io::Result<Open> {
        if open.request.since().0 <= self.info.version {
            return Ok(open);
        }
        let request = serde_json::to_value(&open.request)?;
        let name = request["type"].as_str().unwrap_or_default();
        let known = "`info`, `exec`, `echo`, `wait_boot`, `shutdown`";
        let unknown = format!("unknown variant `{name}`, expected one of {known}");
        Err(io::Error::new(io::ErrorKind::InvalidData, unknown))
    }

    fn connection(&self, mut socket: Socket, slot: Slot) -> io::Result<()> {
        socket.set_timeout(Some(OPEN_TIMEOUT))?;
        let Some(first) = frame::read(&mut socket)? else {
            return Ok(());
        };
        let open = match first.parse().and_then(|open| self.known(open)) {
            Ok(open) => open,
            Err(unknown) => {
                socket.send(&error(format!(
                    "agent {} (protocol {}) does not know this request: {unknown}",
                    self.info.agent_release, self.info.version
                )))?;
                socket.linger(LINGER);
                return Ok(());
            }
        };
        socket.set_timeout(None)?;
        let reply = match open.request {
            Request::Exec(exec) => return exec::serve(socket, &exec, slot),
            Request::Echo => return echo(socket),
            Request::Info => Reply::Info(Info {
                ssh_server: Some(has_ssh_server()),
                ..self.info.clone()
            }),
            Request::WaitBoot => match wait_boot::wait(self.init.as_ref(), &socket) {
                Ok(()) => Reply::Done,
                Err(message) => error(message),
            },
            Request::Connect(request) => return dial::serve(socket, &request),
            Request::CopyIn(request) => return copy::receive(socket, &request),
            Request::CopyOut(request) => return copy::send(socket, &request),
            Request::Listeners => Reply::Listeners {
                listeners: listeners::list(),
            },
            Request::Stats => match stats::gather() {
                Ok(stats) => Reply::Stats(stats),
                Err(message) => error(message),
            },
            Request::Shutdown => {
                rustix::fs::sync();
                socket.send(&Reply::Done)?;
                return shutdown::begin(self.init.as_ref());
            }
        };
        socket.send(&reply)?;
        socket.linger(LINGER);
        Ok(())
    }
}

/// Where distributions put OpenSSH's server, and Dropbear.
fn has_ssh_server() -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/usr/local/sbin"]
        .iter()
        .any(|place| {
            ["sshd", "dropbear"]
                .iter()
                .any(|name| Path::new(place).join(name).is_file())
        })
}

fn error(message: String) -> Reply {
    Reply::Error { message }
}

fn echo(mut socket: Socket) -> io::Result<()> {
    let mut buffer = vec![0; ECHO_BUFFER];
    loop {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        socket.write_all(&buffer[..count])?;
    }
}
