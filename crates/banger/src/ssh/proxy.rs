//! `banger ssh-proxy`: the connection under OpenSSH's, for its option `ProxyCommand`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use banger_api::Vm;
use banger_config::Paths;
use banger_guest_api::Info;
use banger_guest_api::client::{self, Connection};
use banger_guest_api::frame::{self, Frame, Kind};
use banger_model::{Code, Error, Result};
use clap::Args;
use jiff::Timestamp;

use super::known_hosts::pin;
use super::{Files, SUFFIX};
use crate::connect::connect_and_ask;
use crate::exit::Exit;
use crate::ui::Ui;
use crate::vm::{agent_socket, reference};

/// Connect standard input and output to a port of a machine, for the `ProxyCommand` of ssh
///
/// Writes the machine's host key into banger's own `known_hosts` first.
#[derive(Args, Debug)]
pub(crate) struct SshProxyArgs {
    /// The machine: its name, or NAME.vm
    #[arg(value_name = "HOST", value_parser = host)]
    host: Host,

    /// The port in the guest
    #[arg(default_value_t = SSH, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

/// Where ssh servers listen.
const SSH: u16 = 22;

/// What ssh calls the machine, and what we do.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    typed: String,
    reference: String,
}

fn host(text: &str) -> Result<Host> {
    Ok(Host {
        typed: text.to_owned(),
        reference: reference(text.strip_suffix(SUFFIX).unwrap_or(text))?,
    })
}

/// From the start of the VMM: within it, an ssh server may still be coming up.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// How long a port may take in a guest that has long been up: its server may be restarting.
const LEAST_WAIT: Duration = Duration::from_secs(3);

pub(crate) async fn cmd_ssh_proxy(_ui: &Ui, args: SshProxyArgs) -> Result<Exit> {
    let paths = Paths::from_env()?;
    let (_, vm) =
        connect_and_ask(&paths, async |client| client.vm(&args.host.reference).await).await?;
    let socket = agent_socket(&vm)?;
    let key = vm.ssh_host_key.as_deref().ok_or_else(|| {
        Error::new(
            Code::Conflict,
            format!("`{}` has no ssh host key yet", vm.name),
        )
        .hint(format!("restart it: `banger vm restart {}`", vm.name))
    })?;
    pin(&Files::new(&paths), &args.host.typed, key)?;
    let stream = dial(&vm, &socket, args.port)
        .await
        .map_err(|error| explain(&vm, args.port, error))?;
    let stream = stream
        .into_stream()
        .into_std()
        .and_then(|stream| stream.set_nonblocking(false).map(|()| stream))
        .map_err(|error| Error::internal("cannot take the connection").because(error))?;
    // Nothing else happens on this thread from here on, so it may block.
    relay(stream).map_err(|error| {
        Error::new(
            Code::AgentFailed,
            format!("the connection to `{}` broke", vm.name),
        )
        .because(error)
    })?;
    Ok(Exit::SUCCESS)
}

/// Connects, at once where something listens. Waits for an ssh server only in a guest that has
/// one.
async fn dial(vm: &Vm, socket: &Path, port: u16) -> Result<Connection> {
    match client::dial(socket, port, Duration::ZERO).await {
        Err(error) if error.code() == Code::NotFound => {}
        other => return other,
    }
    let wait = patience(vm, Timestamp::now());
    let wait = match port {
        SSH => may_come(&client::info(socket).await?, wait)?,
        _ => wait,
    };
    client::dial(socket, port, wait).await
}

/// How long an ssh server may still take to come up, if there is one.
fn may_come(guest: &Info, wait: Duration) -> Result<Duration> {
    match (guest.ssh_server, &guest.init) {
        (Some(false), _) => Err(Error::new(Code::NotFound, "there is no ssh server in it")),
        // Somebody may be starting it by hand.
        (Some(true), None) => Ok(LEAST_WAIT),
        // An agent of an older release does not say.
        _ => Ok(wait),
    }
}

/// How long to wait for the server in the guest.
fn patience(vm: &Vm, now: Timestamp) -> Duration {
    let started = vm
        .started_at
        .as_ref()
        .and_then(|at| at.parse::<Timestamp>().ok());
    let up = started.map_or(Duration::ZERO, |at| {
        Duration::try_from(now.duration_since(at)).unwrap_or(Duration::ZERO)
    });
    BOOT_LIMIT.saturating_sub(up).max(LEAST_WAIT)
}

fn explain(vm: &Vm, port: u16, error: Error) -> Error {
    let name = &vm.name;
    Error::new(
        error.code(),
        format!("cannot reach port {port} of `{name}`"),
    )
    .hint(match port {
        SSH => format!(
            "`banger vm exec {name} -- COMMAND` needs no ssh server in the image, nor does `banger \
             vm cp`"
        ),
        _ => format!("`banger vm ports {name}` shows what it listens on"),
    })
    .because(error)
}

/// Hands bytes through in both directions until the guest has said its last. The end of our
/// input ends only that direction.
fn relay(mut stream: UnixStream) -> io::Result<()> {
    let mut to_guest = stream.try_clone()?;
    let mut input = own(rustix::stdio::stdin())?;
    // The program's end takes it along, wherever it is.
    std::thread::spawn(move || send_all(&mut input, &mut to_guest));
    let mut output = own(rustix::stdio::stdout())?;
    match receive_all(&mut stream, &mut output) {
        // ssh has ended.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Sends what it reads, as it comes, and then the end.
fn send_all(input: &mut impl Read, to_guest: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match input.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let payload = buffer[..count].to_vec();
        frame::write(
            to_guest,
            &Frame {
                kind: Kind::Stdin,
                payload,
            },
        )?;
        if count == 0 {
            return Ok(());
        }
    }
}

/// Writes what the guest says, as it comes, up to its end.
fn receive_all(from_guest: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    loop {
        match frame::read(from_guest)? {
            Some(frame) if frame.kind != Kind::Stdout => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a frame of {:?} does not belong here", frame.kind),
                ));
            }
            Some(frame) if frame.payload.is_empty() => return Ok(()),
            Some(frame) => output.write_all(&frame.payload)?,
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A file of our own, without a buffer: what is written is gone at once.
fn own(fd: BorrowedFd) -> io::Result<File> {
    Ok(File::from(rustix::io::fcntl_dupfd_cloexec(fd, 3)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::example;

    #[test]
    fn hosts_are_names_with_or_without_the_suffix() {
        for (typed, name) in [("box", "box"), ("box.vm", "box"), ("0123.vm", "0123")] {
            let host = host(typed).unwrap();
            assert_eq!(
                (host.typed.as_str(), host.reference.as_str()),
                (typed, name)
            );
        }
        for bad in [
            "", ".vm", "a.b.vm", "box.vm.", "a b", "a\nb", "$(x)", "a;b.vm", "-'.vm",
        ] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_server_that_cannot_come_is_not_waited_for() {
        let guest = |ssh_server, init: Option<&str>| Info {
            version: 3,
            agent_release: String::new(),
            boot_id: String::new(),
            kernel: String::new(),
            init: init.map(str::to_owned),
            ssh_server,
        };
        let wait = |guest| may_come(&guest, BOOT_LIMIT);
        let none = wait(guest(Some(false), Some("/sbin/init"))).unwrap_err();
        assert_eq!(none.code(), Code::NotFound);
        assert_eq!(wait(guest(Some(true), None)).unwrap(), LEAST_WAIT);
        assert_eq!(
            wait(guest(Some(true), Some("/sbin/init"))).unwrap(),
            BOOT_LIMIT
        );
        assert_eq!(
            wait(guest(None, None)).unwrap(),
            BOOT_LIMIT,
            "an older agent"
        );
    }

    #[test]
    fn a_young_guest_gets_the_rest_of_its_time() {
        let at = |started: Option<&str>| {
            let vm = Vm {
                started_at: started.map(str::to_owned),
                ..example()
            };
            patience(&vm, "2026-01-01T00:01:00Z".parse().unwrap()).as_secs()
        };
        assert_eq!(at(Some("2026-01-01T00:00:50Z")), 80);
        assert_eq!(at(Some("2025-01-01T00:00:00Z")), 3);
        // A clock that went back, or no time at all.
        assert_eq!(at(Some("2027-01-01T00:00:00Z")), 90);
        assert_eq!(at(None), 90);
    }
}
