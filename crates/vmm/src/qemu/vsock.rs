//! The program that carries vsock between the guest and unix sockets.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use banger_model::{Code, Error, IoContext, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify;

use crate::discover::Claim;
use crate::instance::Part;
use crate::machine::{agent_socket, vhost_socket};
use crate::process::{Detached, Process, poll_until};
use crate::{Instance, Machine, log_tail};

use super::VSOCK;

/// How long it may take until it serves; 4 ms on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The guest's context id. Each guest has a vsock of its own, so all have the same.
const GUEST_CID: &str = "3";

/// The vsock program, serving, and the VMM's connection to it.
pub(super) struct Vsock {
    pub(super) process: Process,
    pub(super) stream: UnixStream,
}

/// The arguments, after the program's name. Separate options, because `--vm` would split paths
/// at commas and equals signs.
pub(crate) fn args(runtime_dir: &Path) -> Vec<OsString> {
    vec![
        "--guest-cid".into(),
        GUEST_CID.into(),
        "--socket".into(),
        vhost_socket(runtime_dir).into(),
        "--uds-path".into(),
        agent_socket(runtime_dir).into(),
    ]
}

/// What a command line says, when it is one made of [`args`].
pub(super) fn claim(args: &[&OsStr]) -> Option<Claim> {
    let runtime_dir = Path::new(super::argv::value_of(args, "--socket")?).parent()?;
    let exact = |option: &str, path: &Path| {
        super::argv::value_of(args, option).is_some_and(|value| value == path.as_os_str())
    };
    let ours = exact("--socket", &vhost_socket(runtime_dir))
        && exact("--uds-path", &agent_socket(runtime_dir));
    ours.then(|| Claim {
        runtime_dir: runtime_dir.to_owned(),
        part: Part::Vsock,
        kind: None,
    })
}

/// Starts it and connects to it. On failure nothing is left.
pub(super) fn start(program: &Path, machine: &Machine, log: &File) -> Result<Vsock> {
    let dir = &machine.runtime_dir;
    let socket = vhost_socket(dir);
    // Left by a VMM that was killed from outside. The boot socket is the caller's.
    for stale in [&socket, &agent_socket(dir)] {
        match std::fs::remove_file(stale) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).at("remove", stale);
            }
            _ => {}
        }
    }
    // Watch before starting, so that the socket cannot appear unseen.
    let watch = watch(dir).map_err(std::io::Error::from).at("watch", dir)?;
    let process = Detached {
        program,
        arg0: VSOCK,
        args: args(dir),
        stdin: Stdio::null(),
        log,
        tied: false,
    }
    .spawn()?;
    match connect(&process, &watch, &socket, machine) {
        Ok(stream) => Ok(Vsock { process, stream }),
        Err(error) => {
            let instance = Instance::new(
                machine.id.clone(),
                dir.clone(),
                None,
                vec![(Part::Vsock, process)],
            );
            if let Err(undo) = instance.kill_blocking() {
                tracing::warn!(%undo, vm = %machine.id, "could not undo a failed launch");
            }
            Err(error)
        }
    }
}

fn watch(dir: &Path) -> rustix::io::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, dir, inotify::WatchFlags::CREATE)?;
    Ok(watch)
}

/// Waits for the socket and connects. The program accepts one VMM at a time and has made its
/// other socket before this one.
fn connect(
    process: &Process,
    watch: &OwnedFd,
    socket: &Path,
    machine: &Machine,
) -> Result<UnixStream> {
    let deadline = Instant::now() + START_TIMEOUT;
    let mut appeared = false;
    loop {
        if appeared {
            match UnixStream::connect(socket) {
                Ok(stream) => return Ok(stream),
                // The name appears with bind(2) and works after listen(2), the next system
                // call, which makes no event.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error).at("connect to", socket),
            }
        }
        let wait = if appeared {
            deadline.min(Instant::now() + Duration::from_micros(200))
        } else {
            deadline
        };
        let mut fds = [process.poll_fd(), PollFd::new(watch, PollFlags::IN)];
        poll_until(&mut fds, wait).at("wait for", socket)?;
        let ended = !fds[0].revents().is_empty();
        if ended || Instant::now() >= deadline {
            let why = if ended {
                let status = process.reap().map(|status| format!(" ({status})"));
                format!("ended at once{}", status.unwrap_or_default())
            } else {
                format!("was not ready within {} s", START_TIMEOUT.as_secs())
            };
            return Err(failed(&why, machine));
        }
        appeared |= saw(watch, socket)
            .map_err(std::io::Error::from)
            .at("watch", &machine.runtime_dir)?;
    }
}

/// Whether one of the pending events is for the socket.
fn saw(watch: &OwnedFd, socket: &Path) -> rustix::io::Result<bool> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    let mut seen = false;
    loop {
        match reader.next() {
            // Events lost to a full queue may have been the one.
            Ok(event) if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) => {
                seen = true;
            }
            Ok(event) => {
                let name = event.file_name().map(|name| name.to_bytes());
                seen |= name == socket.file_name().map(OsStr::as_encoded_bytes);
            }
            Err(rustix::io::Errno::AGAIN) => return Ok(seen),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn failed(why: &str, machine: &Machine) -> Error {
    let error = Error::new(Code::VmmFailed, format!("`{VSOCK}` {why}")).hint(format!(
        "its messages are in `{}`",
        machine.vmm_log.display()
    ));
    match log_tail(&machine.vmm_log, 3) {
        Ok(tail) if !tail.is_empty() => error.because(tail),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scratch, machine};

    /// A machine with real directories and a program that does as the script says.
    fn prepared(scratch: &Scratch, script: &str) -> (Machine, std::path::PathBuf, File) {
        let mut machine = machine(scratch.path(), "00000000000a");
        std::fs::create_dir(&machine.runtime_dir).unwrap();
        machine.vmm_log = scratch.path().join("vmm.log");
        let program = scratch.path().join("program");
        crate::testing::script(&program, script);
        let log = super::super::create_log(&machine.vmm_log).unwrap();
        (machine, program, log)
    }

    #[test]
    fn a_program_that_ends_at_once_is_reported_at_once_with_its_words() {
        let scratch = Scratch::new();
        let (machine, program, log) = prepared(&scratch, "echo no such luck >&2; exit 3");
        let before = Instant::now();
        let error = start(&program, &machine, &log).err().unwrap();
        assert!(before.elapsed() < START_TIMEOUT, "noticed, not timed out");
        assert_eq!(error.code(), Code::VmmFailed);
        assert!(
            error.chain().contains("exit status: 3"),
            "{}",
            error.chain()
        );
        assert!(error.chain().contains("no such luck"), "{}", error.chain());
    }

    #[test]
    fn the_socket_is_noticed_however_late_and_stale_ones_do_not_count() {
        use std::os::unix::net::UnixListener;
        let scratch = Scratch::new();
        // Makes no socket itself: the test does, once it has seen the stale one go.
        let (machine, program, log) = prepared(&scratch, "exec sleep 1000");
        let socket = vhost_socket(&machine.runtime_dir);
        drop(UnixListener::bind(&socket).unwrap());
        std::fs::write(agent_socket(&machine.runtime_dir), "stale").unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let listening = std::thread::spawn({
            let socket = socket.clone();
            move || {
                // The stale socket goes away only when `start` has begun.
                receiver.recv().unwrap();
                UnixListener::bind(socket).unwrap()
            }
        });
        let watch_for_removal = std::thread::spawn({
            let socket = socket.clone();
            let dir = machine.runtime_dir.clone();
            move || {
                let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
                inotify::add_watch(&watch, &dir, inotify::WatchFlags::DELETE).unwrap();
                let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
                let mut reader = inotify::Reader::new(&watch, &mut buffer);
                while socket.exists() {
                    reader.next().unwrap();
                }
                sender.send(()).unwrap();
            }
        });
        let vsock = start(&program, &machine, &log).unwrap();
        watch_for_removal.join().unwrap();
        let listener = listening.join().unwrap();
        assert!(listener.accept().is_ok());
        assert!(!agent_socket(&machine.runtime_dir).exists());
        vsock.process.send_kill().unwrap();
        assert!(
            vsock
                .process
                .wait_until(Instant::now() + START_TIMEOUT)
                .unwrap()
        );
        vsock.process.reap();
    }

    #[test]
    fn a_missing_program_or_directory_is_named() {
        let scratch = Scratch::new();
        let (mut machine, program, log) = prepared(&scratch, "exit 0");
        let error = start(Path::new("/nonexistent/x"), &machine, &log)
            .err()
            .unwrap();
        assert_eq!(error.code(), Code::MissingProgram);
        machine.runtime_dir = scratch.path().join("gone");
        let error = start(&program, &machine, &log).err().unwrap();
        assert!(error.message().contains("gone"), "{error}");
    }
}
