//! A private place to run the built program in, and fakes of what it talks to.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test program uses a part of this"
)]

mod daemon;
mod scripted;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use banger_guest_api::frame::{self, Frame, Kind};
use banger_guest_api::{Exec, ExecEvent, Open, Request};
use tempfile::TempDir;

pub(crate) use daemon::{Boot, FakeDaemon};
pub(crate) use scripted::{Scripted, agent_for, vm_json};

/// A home, state and runtime directory of its own.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        for name in ["home", "run"] {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        Place { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The program, with an environment in which nothing but this place exists.
    pub(crate) fn banger(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_banger"));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.path().join("home"))
            .env("XDG_RUNTIME_DIR", self.path().join("run"))
            .stdin(Stdio::null());
        // A shell without job control starts background work, which may be this test, with
        // SIGINT ignored, and what is ignored at the start stays ignored.
        // SAFETY: signal(2) is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            });
        }
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.banger().args(args).output().unwrap()
    }

    /// Every file and directory below this place, in order.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![self.path().to_owned()];
        while let Some(dir) = left.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path.clone());
                }
                found.push(path);
            }
        }
        found.sort();
        found
    }
}

/// One connection to the fake agent, after its `Open`.
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
    pub(crate) exec: Exec,
}

impl Connection {
    pub(crate) fn event(&mut self, event: &ExecEvent) {
        frame::write(&mut self.stream, &Frame::control(event).unwrap()).unwrap();
    }

    /// Sends output; `false` when the host has gone.
    pub(crate) fn output(&mut self, kind: Kind, bytes: &[u8]) -> bool {
        let frame = Frame {
            kind,
            payload: bytes.to_vec(),
        };
        frame::write(&mut self.stream, &frame).is_ok()
    }

    /// The next frame from the host; `None` when it has gone.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        frame::read(&mut self.stream).ok().flatten()
    }

    pub(crate) fn read_all_stdin(&mut self) -> Vec<u8> {
        let mut input = Vec::new();
        while let Some(frame) = self.next() {
            if frame.kind != Kind::Stdin {
                continue;
            }
            if frame.payload.is_empty() {
                break;
            }
            input.extend_from_slice(&frame.payload);
            let bytes = frame.payload.len() as u32;
            self.event(&ExecEvent::StdinCredit { bytes });
        }
        input
    }
}

/// Listens as a VM's agent does and hands each `exec` to `serve`. The guest's behaviour in these
/// tests is whatever the protocol allows, which no real guest can be made to do at will.
pub(crate) fn fake_agent(dir: &Path, serve: impl Fn(Connection) + Send + 'static) -> PathBuf {
    let socket = dir.join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            read_line(&mut stream);
            stream.write_all(b"OK 1\n").unwrap();
            let open: Open = frame::read(&mut stream).unwrap().unwrap().parse().unwrap();
            let Request::Exec(exec) = open.request else {
                panic!("not an exec: {:?}", open.request);
            };
            serve(Connection { stream, exec });
        }
    });
    socket
}

fn read_line(stream: &mut UnixStream) {
    let mut byte = [0];
    while byte[0] != b'\n' {
        stream.read_exact(&mut byte).unwrap();
    }
}

/// Sends a signal to a program we started.
pub(crate) fn kill(child: &Child, signal: &str) {
    let killed = Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
}
