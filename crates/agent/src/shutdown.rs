//! Bringing the guest down without losing data.
//!
//! The disks are flushed before the host gets its answer. Then the init system is asked to go
//! down in its own order, each kind in its own way; one that does not, or cannot be asked, is
//! overruled after a while.
//! Everything ends in a reset, see [`failure::end_the_guest`].

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::Signal;

use crate::failure;
use crate::init::{Init, Kind};

/// How long an init system may take to stop everything.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked: very early in its boot it does not listen yet.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long processes get between SIGTERM and SIGKILL, as a container gets.
const TERMINATION: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Brings the guest down; does not return.
pub(crate) fn begin(init: Option<&Init>) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Err(error) = ask(init) {
            eprintln!("banger: ask init to go down: {error}");
        }
        std::thread::sleep(ASK_AGAIN);
    }
    eprintln!("banger: init does not go down, the agent ends the guest");
    force()
}

fn ask(init: Option<&Init>) -> io::Result<()> {
    // An init that could not be executed has left its place to us.
    let kind = match is_our_pid_1()? {
        true => None,
        false => init.map(|init| init.kind),
    };
    match kind {
        // systemd's signal for reboot.target: works without D-Bus and without `systemctl`.
        Some(Kind::Systemd) => signal_init(libc::SIGRTMIN() + 5),
        Some(Kind::OpenRc) => signal_init(libc::SIGINT),
        Some(Kind::SysV) => run_reboot(),
        // Our own PID 1 means it as BusyBox does: reboot.
        Some(Kind::BusyBox) | None => signal_init(libc::SIGTERM),
    }
}

/// Whether PID 1 runs this very program.
fn is_our_pid_1() -> io::Result<bool> {
    let [first, own] = ["/proc/1/exe", "/proc/self/exe"].map(std::fs::metadata);
    let (first, own) = (first?, own?);
    Ok((first.dev(), first.ino()) == (own.dev(), own.ino()))
}

fn run_reboot() -> io::Result<()> {
    let program = reboot_program().ok_or(io::ErrorKind::NotFound)?;
    let mut child = Command::new(program)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::spawn(move || child.wait());
    Ok(())
}

fn reboot_program() -> Option<&'static str> {
    ["/sbin/reboot", "/usr/sbin/reboot", "/bin/reboot"]
        .into_iter()
        .find(|path| Path::new(path).exists())
}

fn signal_init(signal: i32) -> io::Result<()> {
    // SAFETY: a plain system call.
    match unsafe { libc::kill(1, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends all processes, makes the disks clean and resets. For PID 1 and for the agent.
pub(crate) fn force() -> ! {
    signal_all(Signal::TERM);
    let deadline = Instant::now() + TERMINATION;
    while others_are_alive() && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
    signal_all(Signal::KILL);
    rustix::fs::sync();
    for path in ["/root", "/"] {
        // A read-only remount also commits the journal. Whoever is still writing keeps it from
        // happening, and then the journal is replayed at the next boot.
        if let Err(error) = rustix::mount::mount_remount(path, MountFlags::RDONLY, c"")
            && !matches!(error, Errno::INVAL | Errno::BUSY)
        {
            eprintln!("banger: remount {path} read-only: {error}");
        }
    }
    failure::end_the_guest()
}

/// Everything but PID 1 and, on Linux, the caller.
fn signal_all(signal: Signal) {
    // SAFETY: a plain system call.
    if unsafe { libc::kill(-1, signal.as_raw()) } != 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ESRCH) {
            eprintln!("banger: end all processes: {error}");
        }
    }
}

/// Whether a process besides PID 1 and the agent is left; the agent ignores SIGTERM.
fn others_are_alive() -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return false;
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "1" && name.bytes().all(|byte| byte.is_ascii_digit()))
        .any(|pid| {
            // Kernel threads and zombies have no command line.
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.first().is_some_and(|first| *first != b'@'))
        })
}
