//! The program that carries vsock between the guest and unix sockets, and keeps the console.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use banger_model::{IoContext, Result};

use crate::Machine;
use crate::discover::{Claim, value_of};
use crate::instance::Part;
use crate::machine::agent_socket;
use crate::process::{Detached, Process};

use super::VSOCK;

const RUNTIME_DIR: &str = "--runtime-dir";
const CONSOLE: &str = "--console";

/// The vsock program, started, and the VMM's connections to it.
pub(super) struct Vsock {
    pub(super) process: Process,
    /// The vhost-user connection.
    pub(super) vhost: UnixStream,
    /// What the guest prints goes here.
    pub(super) serial: UnixStream,
}

/// The arguments, after the program's name.
pub(crate) fn args(runtime_dir: &Path, console: &Path) -> Vec<OsString> {
    vec![
        RUNTIME_DIR.into(),
        runtime_dir.into(),
        CONSOLE.into(),
        console.into(),
    ]
}

/// What a command line says, when it is one made of [`args`].
pub(crate) fn claim(args: &[&OsStr]) -> Option<Claim> {
    let runtime_dir = value_of(args, RUNTIME_DIR)?;
    value_of(args, CONSOLE)?;
    Some(Claim {
        runtime_dir: Path::new(runtime_dir).to_owned(),
        part: Part::Vsock,
        vmm: None,
    })
}

/// Starts it. It need not be ready before the VMM is started: what the VMM says waits in the
/// connections, and nobody dials the guest before the guest has dialled the host.
pub(super) fn start(program: &Path, machine: &Machine, log: &File) -> Result<Vsock> {
    let dir = &machine.runtime_dir;
    // Left by a VMM that was killed from outside. The boot socket is the caller's.
    let stale = agent_socket(dir);
    match std::fs::remove_file(&stale) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).at("remove", &stale);
        }
        _ => {}
    }
    let pair = || UnixStream::pair().at("make a connection for", dir);
    let ((vhost, device), (serial, console)) = (pair()?, pair()?);
    let process = Detached {
        program,
        arg0: VSOCK,
        args: args(dir, &machine.console_log),
        stdin: OwnedFd::from(device).into(),
        stdout: Some(OwnedFd::from(console).into()),
        log,
        tied: false,
        namespace: None,
    }
    .spawn()?;
    Ok(Vsock {
        process,
        vhost,
        serial,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::{Duration, Instant};

    use banger_model::Code;

    use super::*;
    use crate::testing::{Scratch, machine};

    #[test]
    fn both_connections_lead_to_the_program_and_nothing_stale_is_left() {
        let scratch = Scratch::new();
        let mut machine = machine(scratch.path(), "00000000000a");
        std::fs::create_dir(&machine.runtime_dir).unwrap();
        machine.vmm_log = scratch.path().join("vmm.log");
        std::fs::write(agent_socket(&machine.runtime_dir), "stale").unwrap();
        let program = scratch.path().join("program");
        crate::testing::script(&program, "echo serial; echo vhost >&0; echo log >&2");
        let log = crate::log::create_log(&machine.vmm_log).unwrap();
        let mut vsock = start(&program, &machine, &log).unwrap();
        assert!(!agent_socket(&machine.runtime_dir).exists());
        // Both end with the program: nobody else holds its ends.
        let mut text = String::new();
        vsock.vhost.read_to_string(&mut text).unwrap();
        vsock.serial.read_to_string(&mut text).unwrap();
        assert_eq!(text, "vhost\nserial\n");
        let soon = Instant::now() + Duration::from_secs(20);
        assert!(vsock.process.wait_until(soon).unwrap());
        vsock.process.reap();
        assert_eq!(std::fs::read(&machine.vmm_log).unwrap(), b"log\n");
    }

    #[test]
    fn a_missing_program_or_directory_is_named() {
        let scratch = Scratch::new();
        let machine = machine(scratch.path(), "00000000000a");
        let log = File::create("/dev/null").unwrap();
        let error = start(Path::new("/nonexistent/x"), &machine, &log)
            .err()
            .unwrap();
        assert_eq!(error.code(), Code::MissingProgram);
        assert!(error.message().contains("/nonexistent/x"), "{error}");
    }
}
