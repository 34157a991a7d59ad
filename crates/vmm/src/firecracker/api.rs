//! Firecracker's API socket: HTTP/1.1, one request after the other on one connection.
//!
//! Every wait is bounded by one patience for the whole conversation, and ends at once when the
//! process does. What Firecracker says is taken in bounded pieces and escaped before it is shown.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use banger_model::{Code, Error, IoContext, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify;
use serde_json::Value;

use crate::patience::{Over, Patience};
use crate::process::Process;

/// The most of an answer that is read, in bytes.
const ANSWER_MAX: usize = 64 << 10;
/// How much of what Firecracker says is shown, in characters.
const FAULT_MAX: usize = 600;
/// Between binding its socket and listening on it, Firecracker needs microseconds, and nothing
/// tells of it.
const LISTENS_SOON: Duration = Duration::from_millis(1);

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) body: Value,
}

impl Request {
    pub(super) fn put(path: impl Into<String>, body: Value) -> Request {
        Request {
            path: path.into(),
            body,
        }
    }
}

/// Why a conversation failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The process ended.
    Ended,
    /// It did not answer in time.
    Silent,
    /// Nobody wants an answer any longer.
    Unwanted,
    /// It refused a request, and said why.
    Refused { path: String, fault: String },
    /// What it said is not HTTP, or the connection broke.
    Broken(io::Error),
}

/// Tells when something is made in a directory. Made before the process is started, so that
/// nothing is missed.
pub(super) struct Watch(OwnedFd);

impl Watch {
    pub(super) fn new(dir: &Path) -> Result<Watch> {
        let start = || {
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let watch = inotify::init(flags)?;
            let events = inotify::WatchFlags::CREATE | inotify::WatchFlags::CLOSE_WRITE;
            inotify::add_watch(&watch, dir, events)?;
            Ok(watch)
        };
        start()
            .map(Watch)
            .map_err(|errno: rustix::io::Errno| io::Error::from(errno))
            .at("watch", dir)
    }

    /// Waits for a change; an end of the process or of the patience is a failure.
    pub(super) fn wait(&self, process: &Process, patience: &Patience) -> Result<(), Failure> {
        let fds = [process.poll_fd(), PollFd::new(&self.0, PollFlags::IN)];
        if wait(patience, fds)?[0] {
            return Err(Failure::Ended);
        }
        let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        while reader.next().is_ok() {}
        Ok(())
    }
}

/// An open conversation.
pub(super) struct Api<'a> {
    stream: UnixStream,
    process: &'a Process,
    patience: &'a Patience,
    /// Read and not used yet.
    rest: Vec<u8>,
}

impl<'a> Api<'a> {
    /// Connects once the process listens.
    pub(super) fn connect(
        socket: &Path,
        watch: &Watch,
        process: &'a Process,
        patience: &'a Patience,
    ) -> Result<Api<'a>, Failure> {
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    watch.wait(process, patience)?;
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    let soon = patience.soon(LISTENS_SOON);
                    if process.wait_until(soon).map_err(Failure::Broken)? {
                        return Err(Failure::Ended);
                    }
                    if let Some(over) = patience.over().map_err(Failure::Broken)? {
                        return Err(over.into());
                    }
                }
                Err(error) => return Err(Failure::Broken(error)),
            }
        };
        stream.set_nonblocking(true).map_err(Failure::Broken)?;
        Ok(Api {
            stream,
            process,
            patience,
            rest: Vec::new(),
        })
    }

    /// Sends one request and waits for its answer.
    pub(super) fn put(&mut self, request: &Request) -> Result<(), Failure> {
        let body = request.body.to_string();
        let head = format!(
            "PUT {} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            request.path,
            body.len()
        );
        self.write((head + &body).as_bytes())?;
        let answer = self.answer()?;
        if (200..300).contains(&answer.status) {
            return Ok(());
        }
        Err(Failure::Refused {
            path: request.path.clone(),
            fault: answer.fault(),
        })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<Answer, Failure> {
        loop {
            match Answer::parse(&self.rest) {
                Ok(Some((answer, used))) => {
                    self.rest.drain(..used);
                    return Ok(answer);
                }
                Ok(None) => {}
                Err(what) => return Err(invalid(what)),
            }
            if self.rest.len() > ANSWER_MAX {
                return Err(invalid("an answer without end"));
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(self.broken(ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.rest.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    fn wait(&self, flags: PollFlags) -> Result<(), Failure> {
        let fds = [PollFd::new(&self.stream, flags), self.process.poll_fd()];
        // What it said before it ended still counts.
        match wait(self.patience, fds)?[0] {
            true => Ok(()),
            false => Err(Failure::Ended),
        }
    }

    /// A connection that breaks, breaks because the process ends, in a moment at the latest.
    fn broken(&self, error: io::Error) -> Failure {
        let soon = self.patience.soon(Duration::from_secs(1));
        match self.process.wait_until(soon) {
            Ok(true) => Failure::Ended,
            Ok(false) | Err(_) => Failure::Broken(error),
        }
    }
}

/// Waits until one of these is ready, and says which are.
fn wait<const N: usize>(patience: &Patience, fds: [PollFd<'_>; N]) -> Result<[bool; N], Failure> {
    match patience.poll(fds).map_err(Failure::Broken)? {
        (ready, None) => Ok(ready),
        (_, Some(over)) => Err(over.into()),
    }
}

impl From<Over> for Failure {
    fn from(over: Over) -> Failure {
        match over {
            Over::TimeIsUp => Failure::Silent,
            Over::Unwanted => Failure::Unwanted,
        }
    }
}

fn invalid(what: &str) -> Failure {
    Failure::Broken(io::Error::new(ErrorKind::InvalidData, what.to_owned()))
}

/// One answer.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Answer {
    /// The answer at the beginning of `bytes` and its length; none while it is incomplete.
    fn parse(bytes: &[u8]) -> Result<Option<(Answer, usize)>, &'static str> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is no text")?;
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1."))
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok())
            .ok_or("something that is not HTTP")?;
        let mut length = 0;
        for line in lines {
            let (name, value) = line.split_once(':').ok_or("a head that is not HTTP")?;
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(|_| "a length that is none")?;
            }
        }
        if length > ANSWER_MAX {
            return Err("an answer without end");
        }
        let body = end + 4;
        if bytes.len() < body + length {
            return Ok(None);
        }
        let answer = Answer {
            status,
            body: bytes[body..body + length].to_vec(),
        };
        Ok(Some((answer, body + length)))
    }

    /// What was wrong, on one line.
    fn fault(&self) -> String {
        let said = serde_json::from_slice::<Value>(&self.body).ok();
        let said = said
            .as_ref()
            .and_then(|said| said.get("fault_message"))
            .and_then(Value::as_str);
        let said = match said {
            Some(said) => said.to_owned(),
            None => format!(
                "status {}: {}",
                self.status,
                String::from_utf8_lossy(&self.body)
            ),
        };
        let line: Vec<&str> = said.split_whitespace().collect();
        let line = line.join(" ");
        line.chars()
            .take(FAULT_MAX)
            .collect::<String>()
            .escape_debug()
            .to_string()
            .replace("\\\"", "\"")
            .replace("\\'", "'")
    }
}

impl Failure {
    /// The error: how the process ended if it did, the last it `said`, and what to do.
    pub(super) fn into_error(
        self,
        ended: Option<ExitStatus>,
        waited: Duration,
        said: &str,
    ) -> Error {
        let failed = |message: String| Error::new(Code::VmmFailed, message);
        match self {
            Failure::Refused { path, fault } => {
                let hint = hint_for(&fault);
                let error = failed(format!("Firecracker refused `PUT {path}`: {fault}"));
                match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            }
            Failure::Silent => failed(format!(
                "Firecracker did not answer on its API socket within {} s",
                waited.as_secs()
            ))
            .hint(
                "try again when the machine is less busy, or set a longer `boot_timeout`, half of \
                 which it has; `banger doctor` tries the program",
            ),
            Failure::Unwanted => Error::cancelled(),
            Failure::Broken(error) => {
                failed("the conversation with Firecracker broke off".to_owned()).because(error)
            }
            Failure::Ended => {
                let how = match ended {
                    Some(status) => status.to_string(),
                    None => "nobody knows how".to_owned(),
                };
                let said = match said {
                    "" => String::new(),
                    said => format!("; it said: {}", said.replace('\n', "; ")),
                };
                let message = format!("Firecracker ended before the guest ran ({how}){said}");
                match hint_for_end(ended).or_else(|| hint_for(&said)) {
                    Some(hint) => failed(message).hint(hint),
                    None => failed(message),
                }
            }
        }
    }
}

/// What to do about a process that was killed by somebody else.
fn hint_for_end(ended: Option<ExitStatus>) -> Option<&'static str> {
    (ended?.signal() == Some(libc::SIGKILL)).then_some(KILLED_HINT)
}

/// Where a SIGKILL that nobody of banger's sent comes from.
pub(crate) const KILLED_HINT: &str = "the kernel kills what uses too much memory: see `sudo dmesg \
                                      | grep -i oom`, and ask for less with `--memory`";

/// What to do about a fault that has a known cause.
fn hint_for(fault: &str) -> Option<&'static str> {
    let lower = fault.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&[
        "cannot allocate memory",
        "out of memory",
        "guest memory",
        "os error 12",
    ]) {
        return Some("the host has too little free memory: ask for less with `--memory`");
    }
    if has(&["/dev/kvm", "kvm object", "kvm_create"]) {
        return Some("`banger doctor` says what is wrong with KVM; or use `--vmm qemu`");
    }
    if has(&["tap", "/dev/net/tun"]) {
        return Some("load the module: `sudo modprobe tun`; or use `--vmm qemu`");
    }
    None
}

#[cfg(test)]
mod tests;
