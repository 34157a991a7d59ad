//! Stands in for QEMU and the vsock program, by the name it is run under, in the tests of the
//! daemon: a guest that is up in a millisecond and does exactly as the test wants. No part of
//! what is installed.
//!
//! How a guest behaves is read once from the file `behaviour` beside the directory of all VMs,
//! for the environment of a VMM is empty:
//!
//! | word       | what the guest does                              |
//! |------------|--------------------------------------------------|
//! | `silent`   | never dials                                      |
//! | `deaf`     | takes the request to shut down and does not obey |
//! | `stubborn` | as `deaf`, and its VMM ignores SIGTERM           |
//! | `dies`     | its VMM ends before it dials                     |

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use banger_guest_api::frame::{self, Frame};
use banger_guest_api::{BootReport, Hello, Info, Open, PROTOCOL_VERSION, Reply, Request};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let name = args
        .first()
        .and_then(|arg| Path::new(arg).file_name())
        .and_then(|name| name.to_str());
    let done = match name {
        Some("qemu-system-x86_64") => guest(&args),
        Some("banger-vsock") => vsock(),
        other => Err(format!("run under the name {other:?}").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-vmm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Ends when the VMM does.
fn vsock() -> Result<(), Failure> {
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    Ok(())
}

fn guest(args: &[String]) -> Result<(), Failure> {
    let dir = args
        .iter()
        .find_map(|arg| arg.strip_prefix("guest="))
        .map(PathBuf::from)
        .ok_or("no name")?;
    let behaviour = behaviour(&dir);
    match behaviour.as_str() {
        "silent" => loop {
            std::thread::park();
        },
        "dies" => return Ok(()),
        "stubborn" => ignore_sigterm()?,
        _ => {}
    }
    let listener = UnixListener::bind(dir.join("agent.sock"))?;
    let info = Info {
        version: PROTOCOL_VERSION,
        agent_release: "fake".to_owned(),
        boot_id: format!("boot-of-{}", std::process::id()),
        kernel: "fake".to_owned(),
        init: None,
        ssh_server: None,
    };
    let dialling = {
        let info = info.clone();
        // Beside the agent, like the real one, which answers before its report is read.
        std::thread::spawn(move || dial(&dir.join("agent.sock_1023"), &info))
    };
    for stream in listener.incoming() {
        // A client that hangs up is no reason to end.
        if matches!(serve(stream?, &info), Ok(true)) && behaviour.is_empty() {
            return Ok(());
        }
    }
    drop(dialling);
    Ok(())
}

fn behaviour(dir: &Path) -> String {
    let file = dir
        .parent()
        .and_then(Path::parent)
        .map(|dir| dir.join("behaviour"));
    file.and_then(|file| std::fs::read_to_string(file).ok())
        .unwrap_or_default()
}

/// By a process that leaves it ignored to what it executes.
fn ignore_sigterm() -> Result<(), Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or("no mask of signals")?;
    if ignored & (1 << 14) != 0 {
        return Ok(());
    }
    use std::os::unix::process::CommandExt;
    let own = std::env::current_exe()?;
    let mut args = std::env::args();
    let name = args.next().unwrap_or_default();
    let script = "trap '' TERM; file=$1; shift; exec -a \"$0\" \"$file\" \"$@\"";
    Err(std::process::Command::new("bash")
        .args(["-c", script, &name])
        .arg(own)
        .args(args)
        .exec()
        .into())
}

/// Dials until somebody listens and the conversation ends.
fn dial(socket: &Path, info: &Info) {
    loop {
        match boot(socket, info) {
            Ok(()) => return,
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn boot(socket: &Path, info: &Info) -> Result<(), Failure> {
    let mut stream = UnixStream::connect(socket)?;
    let hello = Hello {
        version: PROTOCOL_VERSION,
    };
    frame::write(&mut stream, &Frame::control(&hello)?)?;
    frame::read(&mut stream)?.ok_or("no configuration")?;
    let report = BootReport::Ready(info.clone());
    frame::write(&mut stream, &Frame::control(&report)?)?;
    Ok(())
}

/// Answers one request; says whether the guest is to go down.
fn serve(stream: UnixStream, info: &Info) -> Result<bool, Failure> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    writer.write_all(b"OK 1\n")?;
    let open: Open = frame::read(&mut reader)?.ok_or("no request")?.parse()?;
    let (reply, down) = match open.request {
        Request::Info => (Reply::Info(info.clone()), false),
        Request::Shutdown => (Reply::Done, true),
        _ => {
            let message = "a fake guest does nothing".to_owned();
            (Reply::Error { message }, false)
        }
    };
    frame::write(&mut writer, &Frame::control(&reply)?)?;
    Ok(down)
}
