//! Starting a planned command: descriptors, session, credentials, fork and exec.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;

use banger_guest_api::{Exec, TtySize};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, WaitId};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::Refusal;
use super::plan::Plan;

/// Asked for; the kernel may refuse and then the default stays.
const PIPE_SIZE: usize = 256 << 10;
/// What a login session would give: programs that use `select` break above it.
const SOFT_OPEN_FILES: u64 = 1024;

/// A started command.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) stdio: Stdio,
}

/// The agent's ends of a command's standard streams, all non-blocking.
#[derive(Debug)]
pub(super) enum Stdio {
    /// Separate streams; no standard input when it is `/dev/null`.
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// The master side of a terminal.
    Terminal(OwnedFd),
}

/// Starts `plan` with the streams `exec` asks for.
pub(super) fn start(plan: &Plan, exec: &Exec) -> Result<Running, Refusal> {
    let (stdio, child_stdio) = match exec.tty {
        Some(size) => terminal(size, plan.user.uid),
        None => pipes(exec.stdin, plan.user.uid),
    }
    .map_err(|error| Refusal::other(format!("cannot set up the command's streams: {error}")))?;
    let (report, report_child) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| Refusal::other(format!("cannot create a pipe: {error}")))?;

    let mut child = Child::new(
        plan,
        &child_stdio,
        exec.tty.is_some(),
        report_child.as_raw_fd(),
    );
    // SAFETY: the child only makes system calls and touches memory prepared by `Child::new`
    // until it executes the program or exits; it never returns.
    let pid = match unsafe { libc::fork() } {
        -1 => {
            let error = io::Error::last_os_error();
            return Err(Refusal::other(format!("cannot fork: {error}")));
        }
        // SAFETY: this is the fork's child.
        0 => unsafe { child.execute() },
        pid => pid,
    };
    drop(report_child);
    drop(child_stdio);
    let pid = Pid::from_raw(pid).ok_or_else(|| Refusal::other("fork gave no process"))?;

    let failure = read_report(report);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
    match (failure, pidfd) {
        (None, Ok(pidfd)) => Ok(Running { pid, pidfd, stdio }),
        (failure, pidfd) => {
            if failure.is_none() {
                // Started, but it cannot be watched: it must not run on unattended.
                super::ignore_gone(rustix::process::kill_process_group(
                    pid,
                    rustix::process::Signal::KILL,
                ));
            }
            super::reap(WaitId::Pid(pid));
            Err(match (failure, pidfd) {
                (Some((stage, errno)), _) => explain(plan, stage, errno),
                (None, Err(error)) => Refusal::other(format!("cannot watch the command: {error}")),
                (None, Ok(_)) => Refusal::other("cannot watch the command"),
            })
        }
    }
}

/// The command may also open its streams by name, such as `/dev/stdout`: they are its user's.
fn pipes(stdin: bool, owner: u32) -> io::Result<(Stdio, [OwnedFd; 3])> {
    let (stdin, child_stdin) = if stdin {
        let (read, write) = pipe()?;
        (Some(write), read)
    } else {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        (None, null)
    };
    let (stdout, child_stdout) = pipe()?;
    let (stderr, child_stderr) = pipe()?;
    for ours in [Some(&stdout), Some(&stderr), stdin.as_ref()]
        .into_iter()
        .flatten()
    {
        rustix::io::ioctl_fionbio(ours, true)?;
        let owner = Some(rustix::fs::Uid::from_raw(owner));
        match rustix::fs::fchown(ours, owner, None) {
            // An agent that is not root (only in tests) cannot.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let stdio = Stdio::Pipes {
        stdin,
        stdout,
        stderr,
    };
    Ok((stdio, [child_stdin, child_stdout, child_stderr]))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    match rustix::pipe::fcntl_setpipe_size(&read, PIPE_SIZE) {
        // The default size only costs speed.
        Ok(_) | Err(_) => Ok((read, write)),
    }
}

fn terminal(size: TtySize, owner: u32) -> io::Result<(Stdio, [OwnedFd; 3])> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    // By descriptor, so that it works whatever is mounted on /dev/pts by then.
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    resize(&master, size)?;
    rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(owner)), None)?;
    rustix::io::ioctl_fionbio(&master, true)?;
    let child = [slave.try_clone()?, slave.try_clone()?, slave];
    Ok((Stdio::Terminal(master), child))
}

/// Sets the size of the terminal behind `master`; its foreground group gets SIGWINCH.
pub(super) fn resize(master: &OwnedFd, size: TtySize) -> io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(master, size)?)
}

/// What the child was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    Session = 1,
    Credentials = 2,
    Workdir = 3,
    Execute = 4,
}

/// Blocks until the child has executed its program (`None`) or failed.
fn read_report(report: OwnedFd) -> Option<(Stage, Errno)> {
    let mut message = [0; 5];
    // Nothing, or a read error, means that the pipe went away with the exec.
    File::from(report).read_exact(&mut message).ok()?;
    let stage = match message[0] {
        1 => Stage::Session,
        2 => Stage::Credentials,
        3 => Stage::Workdir,
        _ => Stage::Execute,
    };
    let errno = i32::from_ne_bytes([message[1], message[2], message[3], message[4]]);
    Some((stage, Errno::from_raw_os_error(errno)))
}

fn explain(plan: &Plan, stage: Stage, errno: Errno) -> Refusal {
    let program = &plan.program;
    match stage {
        Stage::Session => Refusal::other(format!("cannot start a session: {errno}")),
        Stage::Credentials => {
            Refusal::other(format!("cannot become user `{}`: {errno}", plan.user.name))
        }
        Stage::Workdir => Refusal::other(format!(
            "cannot enter the directory {:?}: {errno}",
            plan.workdirs
                .last()
                .map(CString::as_c_str)
                .unwrap_or_default()
        )),
        Stage::Execute if matches!(errno, Errno::NOENT | Errno::NOTDIR) => {
            if let Some(path) = plan.existing_candidate() {
                return Refusal::not_executable(format!(
                    "cannot execute `{path}`: the interpreter or loader it asks for is missing"
                ));
            }
            let place = if program.contains('/') {
                ""
            } else {
                " in PATH"
            };
            Refusal::not_found(format!("no such program{place}: `{program}`"))
        }
        Stage::Execute if errno == Errno::NOEXEC => Refusal::not_executable(format!(
            "cannot execute `{program}`: it is no program for this machine ({errno})"
        )),
        Stage::Execute => Refusal::not_executable(format!("cannot execute `{program}`: {errno}")),
    }
}

/// Everything the child needs, as plain memory.
struct Child<'a> {
    plan: &'a Plan,
    stdio: [RawFd; 3],
    tty: bool,
    report: RawFd,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    /// For a script without `#!`: the shell, the script, its arguments.
    script: Vec<*const c_char>,
}

impl<'a> Child<'a> {
    fn new(plan: &'a Plan, stdio: &[OwnedFd; 3], tty: bool, report: RawFd) -> Self {
        let pointers = |strings: &[CString]| -> Vec<*const c_char> {
            let pointers = strings.iter().map(|string| string.as_ptr());
            pointers.chain([ptr::null()]).collect()
        };
        let argv = pointers(&plan.argv);
        let mut script = vec![c"/bin/sh".as_ptr(), ptr::null()];
        script.extend_from_slice(argv.get(1..).unwrap_or_default());
        Child {
            plan,
            stdio: [
                stdio[0].as_raw_fd(),
                stdio[1].as_raw_fd(),
                stdio[2].as_raw_fd(),
            ],
            tty,
            report,
            argv,
            env: pointers(&plan.env),
            script,
        }
    }

    /// Becomes the command.
    ///
    /// # Safety
    /// Only in a fork's child. Makes system calls only: no allocation, no locks, no panics.
    unsafe fn execute(&mut self) -> ! {
        // SAFETY: plain system calls on memory that `self` owns and that was fully prepared
        // before the fork; all pointer arrays end in null and point into `self.plan`.
        unsafe {
            reset_signals();
            if libc::setsid() < 0 {
                self.fail(Stage::Session);
            }
            if self.tty && libc::ioctl(self.stdio[0], libc::TIOCSCTTY, 0) < 0 {
                self.fail(Stage::Session);
            }
            // The agent's own 0, 1 and 2 are open, so these are all above 2.
            for (target, fd) in (0..).zip(self.stdio) {
                if libc::dup2(fd, target) < 0 {
                    self.fail(Stage::Session);
                }
            }
            libc::umask(0o022);
            restore_limits();
            // As root first, which passes everywhere; again as the user on file systems that
            // trust only the user.
            let entered = self.enter_workdir();
            self.become_user();
            if !entered && !self.enter_workdir() {
                self.fail(Stage::Workdir);
            }
            // What is not close-on-exec of itself must not reach the command. Kernels before
            // 5.11 refuse, and then the agent's own descriptors still are.
            libc::syscall(
                libc::SYS_close_range,
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
            self.try_candidates()
        }
    }

    /// # Safety
    /// As [`Child::execute`].
    unsafe fn become_user(&self) {
        let user = &self.plan.user;
        // Straight system calls: the C library's versions wait for threads that the fork
        // did not copy.
        // SAFETY: the group list lives in the plan and its length is its own.
        unsafe {
            let groups =
                libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr());
            // An agent that is not root (only in tests) can stay what it is.
            let stays = libc::geteuid() == user.uid && libc::geteuid() != 0;
            if stays {
                return;
            }
            if groups < 0
                || libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid) < 0
                || libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid) < 0
            {
                self.fail(Stage::Credentials);
            }
        }
    }

    /// # Safety
    /// As [`Child::execute`].
    unsafe fn enter_workdir(&self) -> bool {
        for workdir in &self.plan.workdirs {
            // SAFETY: a C string owned by the plan.
            if unsafe { libc::chdir(workdir.as_ptr()) } == 0 {
                return true;
            }
        }
        false
    }

    /// Like `execvp`: later candidates are tried when one is not there, a program that may
    /// not be executed is remembered, a file of unknown format is given to the shell unless it is
    /// a program, for another kind of machine.
    ///
    /// # Safety
    /// As [`Child::execute`].
    unsafe fn try_candidates(&mut self) -> ! {
        let mut remembered = libc::ENOENT;
        for candidate in &self.plan.candidates {
            // SAFETY: null-terminated arrays of C strings owned by the plan.
            unsafe { libc::execve(candidate.as_ptr(), self.argv.as_ptr(), self.env.as_ptr()) };
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => remembered = libc::EACCES,
                // SAFETY: as above.
                libc::ENOEXEC if unsafe { is_elf(candidate) } => {
                    remembered = libc::ENOEXEC;
                    break;
                }
                libc::ENOEXEC => {
                    self.script[1] = candidate.as_ptr();
                    // SAFETY: as above.
                    unsafe {
                        libc::execve(c"/bin/sh".as_ptr(), self.script.as_ptr(), self.env.as_ptr());
                    }
                    remembered = libc::ENOEXEC;
                    break;
                }
                other => {
                    remembered = other;
                    break;
                }
            }
        }
        // SAFETY: as the caller.
        unsafe { self.fail_with(Stage::Execute, remembered) }
    }

    /// # Safety
    /// As [`Child::execute`].
    unsafe fn fail(&self, stage: Stage) -> ! {
        // SAFETY: as the caller.
        unsafe { self.fail_with(stage, errno()) }
    }

    /// # Safety
    /// As [`Child::execute`].
    unsafe fn fail_with(&self, stage: Stage, errno: c_int) -> ! {
        let errno = errno.to_ne_bytes();
        let message = [stage as u8, errno[0], errno[1], errno[2], errno[3]];
        // SAFETY: a local array and its own length; then the process ends without unwinding.
        unsafe {
            libc::write(self.report, message.as_ptr().cast(), message.len());
            libc::_exit(127)
        }
    }
}

/// # Safety
/// As [`Child::execute`].
unsafe fn is_elf(path: &CStr) -> bool {
    let mut magic = [0; 4];
    // SAFETY: plain system calls on a local array and its own length.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return false;
        }
        let count = libc::read(fd, magic.as_mut_ptr().cast(), magic.len());
        libc::close(fd);
        count == 4 && magic == *b"\x7fELF"
    }
}

fn errno() -> c_int {
    // SAFETY: the C library's pointer to this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

/// Default dispositions and an empty mask: the agent ignores SIGPIPE and SIGTERM, the command
/// must not.
///
/// # Safety
/// As [`Child::execute`].
unsafe fn reset_signals() {
    // SAFETY: 32 zero bytes are the kernel's `sigaction` of the default action, 8 the size of
    // its signal set; signals that cannot be changed are refused harmlessly. Not through the C
    // library, which keeps two signals to itself.
    unsafe {
        let action = [0_u64; 4];
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), 0, 8);
        }
        let mut empty: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut empty);
        libc::sigprocmask(libc::SIG_SETMASK, &empty, ptr::null_mut());
    }
}

/// Takes away what only the agent has: its protection from the OOM killer and its many files.
///
/// # Safety
/// As [`Child::execute`].
unsafe fn restore_limits() {
    // SAFETY: plain system calls on local memory and literals; failures leave the command
    // with the agent's values, which is harmless.
    unsafe {
        let fd = libc::open(
            c"/proc/self/oom_score_adj".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        );
        if fd >= 0 {
            libc::write(fd, b"0".as_ptr().cast(), 1);
            libc::close(fd);
        }
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max.min(SOFT_OPEN_FILES);
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}
