//! Running programs with a bound, and reading all they say.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::seconds;

/// No scenario's command may take longer than this: a hang is a failure with its output.
pub fn limit() -> Duration {
    seconds(120)
}

/// A finished command.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
    /// How long it took.
    pub took: Duration,
}

impl Finished {
    /// The exit code; 128 + n when it was killed by signal n.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("standard output is not JSON: {error}\n{self:?}"))
    }

    /// Panics, showing everything, unless the exit code is `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert!(
            self.code() == code,
            "exit code {} instead of {code} after {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.code(),
            self.took,
            shown(&self.stdout),
            shown(&self.stderr)
        );
        self
    }

    /// Panics, showing everything, unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.expect_code(0)
    }
}

/// The end of what a command wrote, for a person; binary output stays out of the terminal.
fn shown(bytes: &[u8]) -> String {
    let end = &bytes[bytes.len().saturating_sub(4096)..];
    match std::str::from_utf8(end) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("{} bytes that are not text", bytes.len()),
    }
}

/// A command under way. Its output is collected by threads from the start.
pub struct Running {
    child: Child,
    begun: Instant,
    stdin: Option<thread::JoinHandle<()>>,
    stdout: thread::JoinHandle<Vec<u8>>,
    stderr: thread::JoinHandle<Vec<u8>>,
    lines: mpsc::Receiver<(Output, String)>,
    seen: Vec<(Output, String)>,
}

/// Where a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Out,
    Err,
}

/// How much of an output is looked at line by line; the rest, of commands that write megabytes,
/// is only kept.
const WATCHED: usize = 1 << 20;

/// Keeps all a command writes and tells its lines.
fn collect(
    output: Output,
    mut pipe: impl Read + Send + 'static,
    lines: mpsc::Sender<(Output, String)>,
) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let (mut all, mut line, mut buffer) = (Vec::new(), Vec::new(), [0; 64 << 10]);
        loop {
            let n = pipe.read(&mut buffer).expect("read what a command writes");
            if n == 0 {
                return all;
            }
            all.extend_from_slice(&buffer[..n]);
            if all.len() > WATCHED {
                continue;
            }
            for &byte in &buffer[..n] {
                if byte == b'\n' {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    // Nobody may be listening for lines.
                    drop(lines.send((output, text)));
                    line.clear();
                } else {
                    line.push(byte);
                }
            }
        }
    })
}

impl Running {
    /// Starts a command with `input` on its standard input, or `/dev/null`.
    #[track_caller]
    pub fn start(mut command: Command, input: Option<Vec<u8>>) -> Running {
        command.stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let stdin = input.map(|bytes| {
            let mut pipe = child.stdin.take().expect("piped");
            // The command may end without reading everything: that is its business.
            thread::spawn(move || drop(pipe.write_all(&bytes)))
        });
        let (sender, lines) = mpsc::channel();
        let out = child.stdout.take().expect("piped");
        let err = child.stderr.take().expect("piped");
        let stdout = collect(Output::Out, out, sender.clone());
        let stderr = collect(Output::Err, err, sender);
        Running {
            child,
            begun,
            stdin,
            stdout,
            stderr,
            lines,
            seen: Vec::new(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("signal the command");
    }

    /// Sends it SIGINT, as Ctrl-C does.
    #[track_caller]
    pub fn interrupt(self) -> Self {
        self.signal(Signal::INT);
        self
    }

    /// Waits until a line of its standard error contains `text`.
    #[track_caller]
    pub fn wait_for_stderr(&mut self, text: &str) {
        self.wait_for(&[Output::Err], text);
    }

    /// Waits until a line of its standard output contains `text`.
    #[track_caller]
    pub fn wait_for_stdout(&mut self, text: &str) {
        self.wait_for(&[Output::Out], text);
    }

    /// Waits until a line of either output contains `text`.
    #[track_caller]
    pub fn wait_for_output(&mut self, text: &str) {
        self.wait_for(&[Output::Out, Output::Err], text);
    }

    #[track_caller]
    fn wait_for(&mut self, outputs: &[Output], text: &str) {
        let found =
            |(output, line): &(Output, String)| outputs.contains(output) && line.contains(text);
        loop {
            match self.lines.recv_timeout(limit()) {
                Ok(line) => {
                    let found = found(&line);
                    self.seen.push(line);
                    if found {
                        return;
                    }
                }
                Err(_) => panic!(
                    "no line with {text:?} on {outputs:?}, only {:#?}",
                    self.seen
                ),
            }
        }
    }

    /// Waits for its end; kills it and panics when [`limit`] passes.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        if !ends_within(self.pid(), limit()) {
            kill_process(self.pid(), Signal::KILL).expect("kill the command");
            let status = self.child.wait().expect("wait for the command");
            let (out, err) = (self.stdout.join(), self.stderr.join());
            panic!(
                "the command did not end within {:?} ({status})\n--- stdout\n{}\n--- stderr\n{}",
                limit(),
                shown(&out.expect("reader")),
                shown(&err.expect("reader")),
            );
        }
        let status = self.child.wait().expect("wait for the command");
        let took = self.begun.elapsed();
        if let Some(writer) = self.stdin {
            writer.join().expect("writer of standard input");
        }
        Finished {
            status,
            stdout: self.stdout.join().expect("reader of standard output"),
            stderr: self.stderr.join().expect("reader of standard error"),
            took,
        }
    }
}

/// Whether the process ends within `limit`; true when it is gone already.
pub fn ends_within(pid: Pid, limit: Duration) -> bool {
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return true;
    };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(
            &mut [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)],
            Some(&timeout),
        ) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll a pidfd: {error}"),
        }
    }
}
