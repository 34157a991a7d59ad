//! The program beside each VMM: carries vsock between the guest and unix sockets, and keeps the
//! guest's console.
//!
//! ```text
//! banger-vsock --runtime-dir DIR --console FILE               beside QEMU
//! banger-vsock --runtime-dir DIR --console FILE --log FILE    beside Firecracker
//! ```
//!
//! Beside QEMU, standard input is the vhost-user connection to it, standard output its serial
//! port, both made before either program. It listens on `DIR/agent.sock` ([`mux`]) and ends when
//! QEMU does. Firecracker has a vsock of its own; there it only keeps what is written ([`keeper`]).
//! What goes wrong is said on standard error.
//!
//! It is one thread around one epoll. Everything that comes from the guest is hostile: rings,
//! packets and the console. What a guest can make it hold is bounded by credit (256 KiB a
//! stream), by the number of streams, and by what the guest itself leaves unread.

mod console;
mod device;
mod frontend;
mod keeper;
mod mux;
mod packet;
mod ring;
mod stream;

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

use console::Console;
use device::Device;
use frontend::{FROM_GUEST, Frontend, TO_GUEST};
use keeper::End;
use mux::Mux;

/// The guest's context id. Each guest has a vsock of its own, so all have the same.
const GUEST_CID: u64 = 3;
/// The exit code when a guest under Firecracker has halted: whoever started this ends its VMM.
/// The same as `banger_vmm::HALTED`.
const HALTED: u8 = 3;
/// How much of the console is read at a time, in bytes.
const CONSOLE_PIECE: usize = 64 << 10;
/// Descriptors that are not streams.
const OTHER_DESCRIPTORS: u64 = 32;
/// The most connections at a time, streams and clients that have not asked yet.
const MAX_PEERS: u64 = 4096;

const FRONTEND: u64 = 0;
const LISTENER: u64 = 1;
const CONSOLE: u64 = 2;
/// And the ring's number.
const KICK: u64 = 4;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(End::Closed) => ExitCode::SUCCESS,
        Ok(End::Halted) => ExitCode::from(HALTED),
        Err(error) => {
            eprintln!("banger-vsock: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<End, Failure> {
    let Some(args) = Args::parse(std::env::args_os().skip(1))? else {
        println!("banger-vsock {}", env!("CARGO_PKG_VERSION"));
        return Ok(End::Closed);
    };
    // SAFETY: whoever starts this program leaves exactly these two descriptors to it, and
    // nothing here has used them: standard input and output are not touched otherwise.
    let [first, second] = unsafe { [0, 1].map(|fd| OwnedFd::from_raw_fd(fd)) };
    let writes = |path: &Path, made: std::io::Result<Console>| {
        made.map_err(|error| format!("cannot write `{}`: {error}", path.display()))
    };
    if let Some(log) = &args.log {
        let console = writes(&args.console, Console::new(first.into(), &args.console))?;
        let log = writes(log, Console::go_on(second.into(), log))?;
        return Ok(keeper::run(console, log)?);
    }
    let vhost = UnixStream::from(first);
    let console = writes(&args.console, Console::new(second.into(), &args.console))?;
    let socket = args.runtime_dir.join("agent.sock");
    let mux = Mux::new(&socket, GUEST_CID, LISTENER, max_peers())
        .map_err(|error| format!("cannot listen on `{}`: {error}", socket.display()))?;
    Loop::new(vhost, console, mux)?.run()?;
    Ok(End::Closed)
}

/// The command line.
struct Args {
    runtime_dir: PathBuf,
    console: PathBuf,
    log: Option<PathBuf>,
}

impl Args {
    /// None when only the version is asked for.
    fn parse(mut args: impl Iterator<Item = std::ffi::OsString>) -> Result<Option<Args>, Failure> {
        const USAGE: &str =
            "started by bangerd as `banger-vsock --runtime-dir DIR --console FILE [--log FILE]`";
        let (mut runtime_dir, mut console, mut log) = (None, None, None);
        while let Some(option) = args.next() {
            let slot = match option.to_str() {
                Some("--version") => return Ok(None),
                Some("--runtime-dir") => &mut runtime_dir,
                Some("--console") => &mut console,
                Some("--log") => &mut log,
                _ => return Err(USAGE.into()),
            };
            *slot = Some(PathBuf::from(args.next().ok_or(USAGE)?));
        }
        let (runtime_dir, console) = runtime_dir.zip(console).ok_or(USAGE)?;
        if !Path::is_absolute(&runtime_dir) || !Path::is_absolute(&console) {
            return Err(USAGE.into());
        }
        Ok(Some(Args {
            runtime_dir,
            console,
            log,
        }))
    }
}

/// As many connections as there are descriptors for, which are made as many as allowed.
fn max_peers() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let descriptors = current.unwrap_or(u64::MAX);
    let peers = descriptors
        .saturating_sub(OTHER_DESCRIPTORS)
        .clamp(1, MAX_PEERS);
    usize::try_from(peers).unwrap_or(1)
}

struct Loop {
    epoll: OwnedFd,
    handler: BackendReqHandler<Mutex<Frontend>>,
    frontend: Arc<Mutex<Frontend>>,
    vhost: UnixStream,
    console: Console,
    console_failed: bool,
    mux: Mux,
    device: Device,
    buffer: Vec<u8>,
}

impl Loop {
    fn new(vhost: UnixStream, console: Console, mux: Mux) -> Result<Loop, Failure> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let frontend = Arc::new(Mutex::new(Frontend::new(GUEST_CID)?));
        let watch = |fd: BorrowedFd<'_>, token| {
            epoll::add(&epoll, fd, EventData::new_u64(token), EventFlags::IN)
        };
        watch(vhost.as_fd(), FRONTEND)?;
        watch(console.source().as_fd(), CONSOLE)?;
        let handler = BackendReqHandler::from_stream(vhost.try_clone()?, frontend.clone());
        let mut this = Loop {
            epoll,
            handler,
            frontend,
            vhost,
            console,
            console_failed: false,
            mux,
            device: Device::new(),
            buffer: vec![0; CONSOLE_PIECE],
        };
        this.mux.accept(&this.epoll)?;
        Ok(this)
    }

    /// Serves until QEMU ends.
    fn run(&mut self) -> Result<(), Failure> {
        let blank = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = vec![blank; 64];
        let mut more = false;
        loop {
            let now = rustix::event::Timespec::default();
            let timeout = more.then_some(&now);
            let count = match epoll::wait(&self.epoll, &mut events[..], timeout) {
                Ok(count) => count,
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for event in &events[..count] {
                // Copied: the struct is packed.
                let (data, flags) = (event.data, event.flags);
                if !self.on_event(data.u64(), flags)? {
                    self.console.drain(&mut self.buffer)?;
                    return Ok(());
                }
            }
            let frontend = self.frontend.clone();
            let mut frontend = frontend.lock().unwrap_or_else(PoisonError::into_inner);
            more = self.device.carry(&mut frontend, &mut self.mux, &self.epoll);
            self.mux.watch_listener(&self.epoll)?;
        }
    }

    /// Handles one event; false when QEMU has ended.
    fn on_event(&mut self, token: u64, flags: EventFlags) -> Result<bool, Failure> {
        match token {
            FRONTEND => return self.on_frontend(),
            LISTENER => self.mux.accept(&self.epoll)?,
            CONSOLE => self.on_console()?,
            _ if token >= mux::FIRST_TOKEN => self.mux.on_ready(token, flags),
            _ => {
                let ring = usize::try_from(token - KICK)?;
                let frontend = self.frontend.lock().unwrap_or_else(PoisonError::into_inner);
                frontend.rings[ring].answer_kick()?;
            }
        }
        Ok(true)
    }

    /// Carries out what QEMU asks.
    fn on_frontend(&mut self) -> Result<bool, Failure> {
        loop {
            match self.handler.handle_request() {
                Ok(()) => {}
                Err(
                    VhostError::Disconnected
                    | VhostError::SocketBroken(_)
                    | VhostError::PartialMessage,
                ) => return Ok(false),
                // Told to QEMU, which decides what that means.
                Err(
                    error @ (VhostError::InvalidParam
                    | VhostError::InvalidOperation(_)
                    | VhostError::InactiveFeature(_)
                    | VhostError::InactiveOperation(_)
                    | VhostError::ReqHandlerError(_)),
                ) => eprintln!("banger-vsock: QEMU's request failed: {error}"),
                Err(error) => return Err(error.into()),
            }
            self.follow_frontend()?;
            let mut fds = [PollFd::new(&self.vhost, PollFlags::IN)];
            let now = rustix::event::Timespec::default();
            if poll(&mut fds, Some(&now))? == 0 {
                return Ok(true);
            }
        }
    }

    /// Watches new kick descriptors, and forgets what a restarted guest has forgotten.
    fn follow_frontend(&mut self) -> Result<(), Failure> {
        let mut frontend = self.frontend.lock().unwrap_or_else(PoisonError::into_inner);
        if frontend.take_restarted() {
            self.mux.reset();
            self.device.restart();
        }
        for ring in [TO_GUEST, FROM_GUEST] {
            for old in frontend.rings[ring].take_old_kicks() {
                epoll::delete(&self.epoll, old)?;
            }
            if let Some(kick) = frontend.rings[ring].new_kick() {
                let token = EventData::new_u64(KICK + ring as u64);
                epoll::add(&self.epoll, kick, token, EventFlags::IN)?;
            }
        }
        Ok(())
    }

    fn on_console(&mut self) -> Result<(), Failure> {
        let (more, kept) = self.console.on_ready(&mut self.buffer, |_| {});
        if let Err(error) = kept
            && !std::mem::replace(&mut self.console_failed, true)
        {
            eprintln!("banger-vsock: cannot keep the console: {error}");
        }
        if !more {
            epoll::delete(&self.epoll, self.console.source())?;
        }
        Ok(())
    }
}
