//! One process, held by its pidfd, so that a reused process id can never be mistaken for it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use banger_model::{Code, Error, IoContext, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal,
    waitid,
};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::firecracker::{Namespace, explain_namespace};

/// Clock ticks per second in `/proc/<pid>/stat`; fixed by the kernel's interface on every
/// architecture banger runs on.
const USER_HZ: u64 = 100;

/// A process this user owns.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    started_at: SystemTime,
    /// Known once the process has ended and was our child.
    status: Mutex<Option<ExitStatus>>,
}

/// A program to start detached: in its own session, in `/`, with an empty environment, and with
/// no descriptor of ours but the ones named here.
pub(crate) struct Detached<'a> {
    /// The file to execute.
    pub(crate) program: &'a Path,
    /// What it is told its name is: [`crate::find_all`] looks for it.
    pub(crate) arg0: &'a str,
    pub(crate) args: Vec<OsString>,
    pub(crate) stdin: Stdio,
    /// Standard output; the log when absent.
    pub(crate) stdout: Option<Stdio>,
    /// Takes standard error.
    pub(crate) log: &'a File,
    /// Whether it must not outlive the calling thread.
    pub(crate) tied: bool,
    /// The network of its own that it gets.
    pub(crate) namespace: Option<&'a Namespace>,
}

impl Detached<'_> {
    pub(crate) fn spawn(self) -> Result<Process> {
        let output = |log: &File| log.try_clone().at("duplicate the log", self.program);
        let stdout = match self.stdout {
            Some(stdout) => stdout,
            None => output(self.log)?.into(),
        };
        let mut command = Command::new(self.program);
        command
            .arg0(self.arg0)
            .args(&self.args)
            .env_clear()
            .current_dir("/")
            .stdin(self.stdin)
            .stdout(stdout)
            .stderr(output(self.log)?);
        let tied = self.tied;
        let namespace = self.namespace.cloned();
        // SAFETY: between fork and exec the closure makes system calls only: it allocates
        // nothing and takes no lock.
        unsafe {
            command.pre_exec(move || prepare(tied, namespace.as_ref()));
        }
        let child = command.spawn().map_err(|source| {
            if let Some(error) = explain_namespace(&source) {
                return error;
            }
            Error::new(
                Code::MissingProgram,
                format!("cannot run `{}`", self.program.display()),
            )
            .because(source)
        })?;
        // The child cannot be reaped by anyone else, so its id is still its own here.
        let pid = Pid::from_child(&child);
        Process::adopt(pid).at("watch the process of", self.program)
    }
}

/// Runs in the child, before exec.
fn prepare(tied: bool, namespace: Option<&Namespace>) -> io::Result<()> {
    rustix::process::setsid()?;
    // Sockets and files are private from the moment they exist, and none is to be executed.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    if let Some(namespace) = namespace {
        namespace.enter()?;
    }
    if tied {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    // Marks rather than closes: the descriptor on which std reports a failed exec must live
    // until then.
    // SAFETY: takes numbers only, touches no memory.
    let marked = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if marked != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl Process {
    /// Takes hold of the process that has this id now. The caller must make sure afterwards
    /// that it is the one it means.
    pub(crate) fn adopt(pid: Pid) -> io::Result<Process> {
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Process {
            pid,
            pidfd,
            started_at: started_at(pid).unwrap_or_else(|_| SystemTime::now()),
            status: Mutex::new(None),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// Whether it has ended, without waiting.
    pub(crate) fn has_ended(&self) -> bool {
        self.wait_until(Instant::now()).unwrap_or(false)
    }

    /// Waits until it ends or the deadline passes; says whether it has ended.
    pub(crate) fn wait_until(&self, deadline: Instant) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        Ok(poll_until(&mut fds, deadline)? && !fds[0].revents().is_empty())
    }

    /// Waits until it has ended, and reaps it if it was ours.
    pub(crate) async fn ended(&self) -> io::Result<Option<ExitStatus>> {
        // A duplicate of its own for each waiter: one descriptor registers only once.
        let own = self.pidfd.try_clone()?;
        // SAFETY: an `OwnedFd` keeps one open descriptor for as long as it lives, and the
        // `AsyncFd` owns it.
        let watched = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }?;
        // Readable means ended, and stays so; the guard has nothing to clear.
        drop(watched.readable().await?);
        Ok(self.reap())
    }

    /// Collects the status after it has ended, so that no zombie stays; absent when somebody
    /// else is its parent.
    pub(crate) fn reap(&self) -> Option<ExitStatus> {
        let mut known = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            if let Ok(Some(status)) = waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                *known = Some(exit_status(&status));
            }
        }
        *known
    }

    /// Sends SIGKILL; a process that has ended is fine.
    pub(crate) fn send_kill(&self) -> io::Result<()> {
        self.send(Signal::KILL)
    }

    /// Sends a signal; a process that has ended is fine.
    pub(crate) fn send(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Adds this process to a set of descriptors to poll: it becomes readable when it ends.
    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.pidfd, PollFlags::IN)
    }
}

/// Waits until a descriptor is ready or the deadline passes; says whether one is ready.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(fds, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    let dumped = if status.dumped() { 0x80 } else { 0 };
    ExitStatus::from_raw(match status.terminating_signal() {
        Some(signal) => signal | dumped,
        None => status.exit_status().unwrap_or(0) << 8,
    })
}

/// When the process was started, by the kernel's own account.
fn started_at(pid: Pid) -> io::Result<SystemTime> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    let after_boot = start_after_boot(&stat)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in /proc"))?;
    let uptime = clock_gettime(ClockId::Boottime);
    let uptime = Duration::try_from(uptime).unwrap_or_default();
    let now = SystemTime::now();
    Ok(now
        .checked_sub(uptime.saturating_sub(after_boot))
        .unwrap_or(now))
}

fn start_after_boot(stat: &str) -> Option<Duration> {
    // The second field is the program's name in parentheses and may hold anything, so count
    // from the last one: what follows is field 3, and the start time is field 22.
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks: u64 = after_name.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some(Duration::from_millis(ticks.checked_mul(1000 / USER_HZ)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(program: &str, args: &[&str], tied: bool) -> Process {
        Detached {
            program: Path::new(program),
            arg0: program,
            args: args.iter().map(OsString::from).collect(),
            stdin: Stdio::null(),
            stdout: None,
            log: &File::create("/dev/null").unwrap(),
            tied,
            namespace: None,
        }
        .spawn()
        .unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn an_end_is_noticed_with_its_status_by_every_waiter() {
        let process = start("/bin/sh", &["-c", "exit 7"], false);
        let (first, second) = tokio::join!(process.ended(), process.ended());
        assert_eq!(first.unwrap().unwrap().code(), Some(7));
        assert_eq!(second.unwrap().unwrap().code(), Some(7));
        assert!(process.has_ended());
        assert!(
            !Path::new(&format!("/proc/{}", process.pid())).exists(),
            "reaped"
        );
    }

    #[test]
    fn killing_is_idempotent_and_leaves_no_zombie() {
        let process = start("/bin/sleep", &["1000"], false);
        assert!(!process.has_ended());
        assert_eq!(process.reap(), None);
        process.send_kill().unwrap();
        assert!(process.wait_until(soon()).unwrap());
        assert_eq!(process.reap().unwrap().signal(), Some(9));
        process.send_kill().unwrap();
        assert_eq!(process.reap().unwrap().signal(), Some(9));
        assert!(!Path::new(&format!("/proc/{}", process.pid())).exists());
    }

    #[test]
    fn a_detached_process_inherits_nothing() {
        let dir = crate::testing::Scratch::new();
        let log = File::create(dir.path().join("log")).unwrap();
        // A descriptor without close-on-exec, as a careless library might leave one.
        let leak = File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
        let script = "echo $(pwd) $(umask); ls /proc/self/fd | wc -l; env | grep -v -e ^PWD= \
                      -e ^_= -e ^SHLVL= -e ^OLDPWD= | wc -l; \
                      cut -d' ' -f 1,6 /proc/$$/stat";
        let process = Detached {
            program: Path::new("/bin/sh"),
            arg0: "sh",
            args: vec!["-c".into(), script.into()],
            stdin: Stdio::null(),
            stdout: None,
            log: &log,
            tied: false,
            namespace: None,
        }
        .spawn()
        .unwrap();
        assert!(process.wait_until(soon()).unwrap());
        assert_eq!(process.reap().unwrap().code(), Some(0));
        let text = std::fs::read_to_string(dir.path().join("log")).unwrap();
        // 0, 1, 2 and the directory that `ls` itself has open; own session: session id = pid.
        let pid = process.pid();
        assert_eq!(text, format!("/ 0177\n4\n0\n{pid} {pid}\n"));
    }

    #[test]
    fn a_program_that_cannot_run_is_named() {
        let error = Detached {
            program: Path::new("/nonexistent/qemu"),
            arg0: "qemu",
            args: Vec::new(),
            stdin: Stdio::null(),
            stdout: None,
            log: &File::create("/dev/null").unwrap(),
            tied: false,
            namespace: None,
        }
        .spawn()
        .unwrap_err();
        assert_eq!(error.code(), Code::MissingProgram);
        assert!(error.message().contains("/nonexistent/qemu"), "{error}");
    }

    #[test]
    fn the_start_time_survives_odd_program_names() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 250 20 21";
        for name in ["qemu", "a) S 9 9 (b", ""] {
            let stat = format!("42 ({name}) {fields}");
            assert_eq!(
                start_after_boot(&stat),
                Some(Duration::from_millis(2500)),
                "{name}"
            );
        }
        assert_eq!(start_after_boot(""), None);
        assert_eq!(start_after_boot("1 (x) S"), None);
        let process = start("/bin/sleep", &["1000"], true);
        // The kernel counts in hundredths of a second.
        let age = process.started_at().elapsed().unwrap_or_default();
        assert!(age < Duration::from_secs(20), "{age:?}");
        process.send_kill().unwrap();
        assert!(process.wait_until(soon()).unwrap());
        process.reap();
    }
}
