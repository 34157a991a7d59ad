//! How a machine is started by hand: read from one that banger runs, with other paths.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The processes of a machine and what they are told.
pub(crate) enum Recipe {
    /// QEMU, with banger's vsock program beside it.
    Qemu {
        vsock: Vec<String>,
        qemu: Vec<String>,
    },
    /// Firecracker, with all it is told in one file.
    Firecracker { program: PathBuf, config: String },
}

impl Recipe {
    /// Of the machine with this id and VMM process, whose sockets are in `sockets`. `rewrite`
    /// puts other paths into a word.
    pub(crate) fn of(id: &str, pid: u64, sockets: &Path, rewrite: impl Fn(&str) -> String) -> Self {
        let program = program_of(pid);
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("firecracker") {
            let config = rewrite(&configuration(&sockets.join("api.sock")));
            return Recipe::Firecracker { program, config };
        }
        let all = |words: Vec<String>| words.iter().map(|word| rewrite(word)).collect();
        Recipe::Qemu {
            qemu: all(command_line(pid)),
            vsock: all(vsock_command_line(id)),
        }
    }

    /// Starts everything; `dir` is for what has to be in a file.
    pub(crate) fn start(&self, dir: &Path) -> Vec<Child> {
        match self {
            Recipe::Qemu { vsock, qemu } => {
                // Connected as banger's own driver connects them.
                let (vhost, device) = UnixStream::pair().expect("a connection");
                let (serial, console) = UnixStream::pair().expect("a connection");
                let pipes = |[stdin, stdout]: [UnixStream; 2]| {
                    [stdin, stdout].map(|end| Stdio::from(OwnedFd::from(end)))
                };
                vec![
                    spawn(vsock, pipes([device, console])),
                    spawn(qemu, pipes([vhost, serial])),
                ]
            }
            Recipe::Firecracker { program, config } => {
                let file = dir.join("config.json");
                fs::write(&file, config).expect("write the configuration");
                let words = [text(program), "--no-api".into(), "--config-file".into()];
                let words = [&words[..], &[text(&file)]].concat();
                vec![spawn(&words, [Stdio::null(), Stdio::null()])]
            }
        }
    }
}

fn spawn(words: &[String], [stdin, stdout]: [Stdio; 2]) -> Child {
    Command::new(&words[0])
        .args(&words[1..])
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::null())
        .spawn()
        .expect("start by hand")
}

/// What a Firecracker says that it runs, as its configuration file has it.
fn configuration(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).expect("Firecracker's socket");
    stream
        .write_all(b"GET /vm/config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("ask for the configuration");
    let mut answer = Vec::new();
    // It may keep the connection: what was announced is enough.
    loop {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).expect("read the configuration");
        answer.extend_from_slice(&buffer[..n]);
        let said = String::from_utf8_lossy(&answer);
        let (head, body) = said.split_once("\r\n\r\n").unwrap_or_default();
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse::<usize>().ok());
        if length.is_some_and(|length| body.len() >= length) {
            return body.to_owned();
        }
        assert!(n > 0, "Firecracker's answer ended early: {said}");
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

fn program_of(pid: u64) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).expect("a process's file")
}

/// The command line of the vsock program of the VM with this id, beginning with its file.
fn vsock_command_line(id: &str) -> Vec<String> {
    let (pid, mut words) = fs::read_dir("/proc")
        .expect("read /proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok())
        .map(|pid| (pid, command_line(pid)))
        .find(|(_, words)| {
            words
                .first()
                .is_some_and(|program| program == "banger-vsock")
                && words.iter().any(|word| word.contains(id))
        })
        .expect("the VM's vsock program");
    words[0] = text(&program_of(pid));
    words
}

/// The words of a process's command line; none when it has ended.
fn command_line(pid: u64) -> Vec<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    raw.split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}
