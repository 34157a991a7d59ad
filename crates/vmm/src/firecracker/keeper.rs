//! The program that keeps what Firecracker and its guest write: `banger-vsock` without vsock.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use banger_model::{IoContext, Result};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::Machine;
use crate::discover::{Claim, value_of};
use crate::instance::Part;
use crate::process::{Detached, Process};
use crate::qemu::VSOCK;

/// Its exit code when the guest has halted, which is how one powers itself off under Firecracker:
/// the VMM is then to be ended.
pub const HALTED: i32 = 3;

const RUNTIME_DIR: &str = "--runtime-dir";
const CONSOLE: &str = "--console";
const LOG: &str = "--log";

/// Where Firecracker writes to.
pub(super) struct Output {
    /// Its standard output: the guest's console.
    pub(super) console: OwnedFd,
    /// Its standard error and its log.
    pub(super) log: OwnedFd,
}

/// The arguments, after the program's name.
pub(crate) fn args(machine: &Machine) -> Vec<OsString> {
    vec![
        RUNTIME_DIR.into(),
        (&machine.runtime_dir).into(),
        CONSOLE.into(),
        (&machine.console_log).into(),
        LOG.into(),
        (&machine.vmm_log).into(),
    ]
}

/// What a command line says, when it is one made of [`args`].
pub(crate) fn claim(args: &[&OsStr]) -> Option<Claim> {
    let runtime_dir = value_of(args, RUNTIME_DIR)?;
    value_of(args, LOG)?;
    Some(Claim {
        runtime_dir: Path::new(runtime_dir).to_owned(),
        part: Part::Console,
        vmm: None,
    })
}

/// Starts it. Pipes and not socket pairs: Firecracker opens `/dev/stderr` by its name.
pub(super) fn start(program: &Path, machine: &Machine, log: &File) -> Result<(Process, Output)> {
    let pipe = || {
        pipe_with(PipeFlags::CLOEXEC)
            .map_err(std::io::Error::from)
            .at("make a pipe for", &machine.runtime_dir)
    };
    let ((console, to_console), (kept, to_log)) = (pipe()?, pipe()?);
    let process = Detached {
        program,
        arg0: VSOCK,
        args: args(machine),
        stdin: console.into(),
        stdout: Some(kept.into()),
        log,
        tied: false,
        namespace: None,
    }
    .spawn()?;
    Ok((
        process,
        Output {
            console: to_console,
            log: to_log,
        },
    ))
}
