//! One child process: its output line by line, its end, and its violent end.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use banger_model::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::programs;
use crate::work::Work;

/// Longer lines are cut: no program we run writes any.
const MAX_LINE: usize = 4096;
/// How long the processes of a killed namespace may take to go. They are dead already; this
/// is about a disk that holds one of them in the kernel.
const REAP_SECONDS: i64 = 30;

/// Runs `command` to its end, giving every line of its output, both streams, to `on_line`.
///
/// The command must be an `unshare` with `--pid --fork`, or have no children that outlive it.
/// It dies with the calling thread.
///
/// # Errors
/// `missing_program`; `cancelled` after everything it started has ended.
pub(crate) fn run(
    command: &mut Command,
    work: &Work,
    on_line: &mut dyn FnMut(&str),
) -> Result<ExitStatus> {
    work.check()?;
    let program = command.get_program().to_string_lossy().into_owned();
    let fail = |act: &str, error: io::Error| {
        Error::internal(format!("cannot {act} `{program}`")).because(error)
    };
    let (mut output, stdout) = io::pipe().map_err(|error| fail("make a pipe for", error))?;
    let stderr = stdout
        .try_clone()
        .map_err(|error| fail("make a pipe for", error))?;
    command
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .env("PATH", programs::search_path())
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive");
    bind_to_this_thread(command);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(programs::missing(&program));
        }
        Err(error) => return Err(fail("start", error)),
    };
    // The command still holds the write end of the pipe, which would keep it from ending.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = Guard(Some(child));
    let pid = child.pid();
    let pidfd = pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| fail("watch", io::Error::from(error)))?;
    let nonblocking = rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&output, nonblocking)
        .map_err(|error| fail("read from", io::Error::from(error)))?;

    let mut lines = Lines::default();
    let mut open = true;
    loop {
        let (ended, stop) = {
            let mut fds = vec![
                PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(work.stop_event(), PollFlags::IN),
            ];
            if open {
                fds.push(PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN));
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(fail("wait for", io::Error::from(error))),
            }
            let ready = |index: usize| !fds[index].revents().is_empty();
            (ready(0), ready(1))
        };
        if stop {
            child.kill();
            return Err(Error::cancelled());
        }
        // Read before looking at `ended`: what was written before the end is in the pipe.
        open = open
            && lines
                .drain(&mut output, on_line)
                .map_err(|e| fail("read from", e))?;
        if ended {
            lines.finish(on_line);
            return child.wait().map_err(|error| fail("wait for", error));
        }
    }
}

/// Arranges that the kernel kills the child when the thread that spawns it ends, which
/// includes every way in which this process can end, and that files it makes have the modes
/// it means, whatever the umask here.
pub(crate) fn bind_to_this_thread(command: &mut Command) {
    let parent = rustix::process::getpid();
    let arrange = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the request was in place.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        Ok(())
    };
    // SAFETY: the closure makes three system calls and allocates nothing, which is allowed
    // between fork and exec.
    unsafe {
        command.pre_exec(arrange);
    }
}

/// A child that does not survive its owner.
struct Guard(Option<Child>);

impl Guard {
    fn pid(&self) -> Pid {
        match &self.0 {
            Some(child) => Pid::from_child(child),
            None => unreachable!("a guard holds its child until it is waited for"),
        }
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        match self.0.take() {
            Some(mut child) => child.wait(),
            None => Ok(ExitStatus::from_raw(0)),
        }
    }

    /// Kills the child and its children and returns when they are gone.
    ///
    /// `unshare` waits for pid 1 of its pid namespace. Killing only `unshare` would let pid 1
    /// die a moment later, while files are already being removed under it. So the child is
    /// stopped first, which fixes who its children are, and the end of each is awaited: a pid 1
    /// is reported dead only after every process of its namespace has gone.
    fn kill(&mut self) {
        let Some(mut child) = self.0.take() else {
            return;
        };
        let pid = Pid::from_child(&child);
        let log = |act: &str, error: io::Error| {
            tracing::warn!(pid = pid.as_raw_nonzero().get(), %error, "cannot {act} a child");
        };
        if let Err(error) = kill_process(pid, Signal::STOP) {
            log("stop", error.into());
        }
        wait_until_stopped(pid);
        let mut handles = Vec::new();
        for grandchild in children_of(pid) {
            // One that has gone already needs nothing.
            if let Ok(handle) = pidfd_open(grandchild, PidfdFlags::empty()) {
                // Not ours to kill when it is set-user-id, like newuidmap, which ends by itself.
                if pidfd_send_signal(&handle, Signal::KILL).is_ok() {
                    handles.push(handle);
                }
            }
        }
        if let Err(error) = child.kill() {
            log("kill", error);
        }
        if let Err(error) = child.wait() {
            log("wait for", error);
        }
        for handle in &handles {
            await_end(handle);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.kill();
    }
}

fn wait_until_stopped(pid: Pid) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), options) {}
}

fn children_of(pid: Pid) -> Vec<Pid> {
    let pid = pid.as_raw_nonzero();
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    if let Ok(list) = listed {
        return list.split_whitespace().filter_map(parse_pid).collect();
    }
    // The kernel has no such file: look at every process.
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let candidate = parse_pid(entry.file_name().to_str()?)?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name, which may hold anything: state, parent.
            let (_, rest) = stat.rsplit_once(')')?;
            let parent = parse_pid(rest.split_whitespace().nth(1)?)?;
            (parent.as_raw_nonzero() == pid).then_some(candidate)
        })
        .collect()
}

fn parse_pid(text: &str) -> Option<Pid> {
    text.parse().ok().and_then(Pid::from_raw)
}

fn await_end(handle: &OwnedFd) {
    let limit = Timespec {
        tv_sec: REAP_SECONDS,
        tv_nsec: 0,
    };
    loop {
        let mut fds = [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&limit)) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(0) => tracing::warn!("a killed process is still there after {REAP_SECONDS} s"),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot wait for a killed process"),
        }
        return;
    }
}

/// Cuts a byte stream into lines.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Takes what the pipe holds now. False when it has ended.
    fn drain(&mut self, from: &mut impl Read, on_line: &mut dyn FnMut(&str)) -> io::Result<bool> {
        let mut chunk = [0; 16 * 1024];
        loop {
            match from.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(read) => self.push(&chunk[..read], on_line),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn push(&mut self, bytes: &[u8], on_line: &mut dyn FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let ends = piece.ends_with(b"\n") || piece.ends_with(b"\r");
            let room = MAX_LINE - self.partial.len();
            let text = if ends {
                &piece[..piece.len() - 1]
            } else {
                piece
            };
            self.partial
                .extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.finish(on_line);
            }
        }
    }

    fn finish(&mut self, on_line: &mut dyn FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.partial);
        let text = text.trim_end();
        if !text.is_empty() {
            on_line(text);
        }
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use banger_model::{Code, Quiet};
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn sh(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    #[tokio::test]
    async fn output_and_end_are_seen_to_the_last_byte() {
        let (status, lines) = crate::run("t", &Quiet, &CancellationToken::new(), |work| {
            let mut lines = Vec::new();
            let mut command = sh("echo one; echo two >&2; umask; printf three; exit 3");
            let status = run(&mut command, work, &mut |line| lines.push(line.to_owned()))?;
            Ok((status, lines))
        })
        .await
        .unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(lines, ["one", "two", "0022", "three"]);
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let outcome = crate::run("t", &Quiet, &CancellationToken::new(), |work| {
            run(&mut Command::new("/no/such/program"), work, &mut |_| {})
        })
        .await;
        assert_eq!(outcome.unwrap_err().code(), Code::MissingProgram);
    }

    #[tokio::test]
    async fn cancelling_ends_the_child_and_its_child_before_it_returns() {
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let (tell, told) = std::sync::mpsc::channel();
        let outcome = crate::run("t", &Quiet, &cancel, move |work| {
            let mut command = sh("sleep 1000 & echo $$ $!; wait");
            run(&mut command, work, &mut |line| {
                tell.send(line.to_owned()).unwrap();
                token.cancel();
            })
        })
        .await;
        assert_eq!(outcome.unwrap_err().code(), Code::Cancelled);
        for pid in told.recv().unwrap().split_whitespace() {
            // Gone, or dead and waiting for whoever inherited it.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
        }
    }

    #[test]
    fn lines_survive_any_cut() {
        let input = b"one\ntwo\r\n\nthree\rfour";
        for size in 1..input.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for piece in input.chunks(size) {
                lines.push(piece, &mut |line| seen.push(line.to_owned()));
            }
            lines.finish(&mut |line| seen.push(line.to_owned()));
            assert_eq!(seen, ["one", "two", "three", "four"], "pieces of {size}");
        }
    }

    #[test]
    fn endless_lines_are_cut() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        lines.push(&[b'x'; MAX_LINE * 3], &mut |_| {});
        lines.push(b"y\nshort\n", &mut |line| seen.push(line.len()));
        assert_eq!(seen, [MAX_LINE, 5]);
    }
}
