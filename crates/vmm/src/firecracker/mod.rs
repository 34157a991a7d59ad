//! The Firecracker driver: one Firecracker per VM, told what to run over its API socket.
//!
//! ```text
//! keeper ─▶ Firecracker ─▶ pasta, with `--nat` ─▶ configuration ─▶ start
//! ```
//!
//! Everything Firecracker writes, the guest's console among it, goes through pipes to
//! `banger-vsock`, which keeps it within limits (`crates/vsock`): a guest must not fill the disk. Firecracker
//! carries vsock itself, and without `--nat` there is no network and no further process.
//!
//! The API and not a configuration file: a refusal comes back in words, and the socket stays for
//! what a running VM can be asked. It costs a few milliseconds (ARCHITECTURE.md).

mod api;
mod config;
mod facts;
mod install;
mod keeper;
mod namespace;
mod pasta;
mod version;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use banger_model::{Error, IoContext, Result, VmmKind};

use crate::discover::{Claim, value_of};
use crate::instance::{Makeup, Part};
use crate::log::create_log;
use crate::machine::agent_socket;
use crate::process::{Detached, Process};
use crate::{Driver, Instance, Machine, Patience, log_tail};

use api::{Api, Failure, Request, Watch};

pub use facts::FirecrackerFacts;
pub(crate) use facts::usable;
pub(crate) use install::{hint as install_hint, pasta_hint};
pub use keeper::HALTED;
pub(crate) use keeper::claim as keeper_claim;
pub(crate) use namespace::{Namespace, explain as explain_namespace};
pub(crate) use pasta::PASTA;
pub(crate) use version::{Judgement, Version};

/// The name Firecracker runs under, whatever its file is called: [`crate::find_all`] looks for
/// it.
pub(crate) const FIRECRACKER: &str = "firecracker";
const API_SOCKET: &str = "--api-sock";
const ID: &str = "--id";
/// After the VM's id in the instance's, when it has a network: `find_all` then looks for pasta.
const WITH_NETWORK: &str = "-nat";

const ALONE: Makeup = Makeup {
    kind: VmmKind::Firecracker,
    parts: &[Part::Vmm, Part::Console],
};
const NETWORKED: Makeup = Makeup {
    kind: VmmKind::Firecracker,
    parts: &[Part::Vmm, Part::Network, Part::Console],
};

/// The programs, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirecrackerPrograms {
    /// Firecracker.
    pub firecracker: PathBuf,
    /// `banger-vsock`, which keeps what Firecracker writes.
    pub keeper: PathBuf,
    /// pasta, where it is installed; only a VM with a network needs it.
    pub pasta: Option<PathBuf>,
}

/// Firecracker, with a `banger-vsock` that keeps what it writes.
#[derive(Clone, Debug)]
pub struct Firecracker {
    programs: FirecrackerPrograms,
}

impl Firecracker {
    /// A driver that uses these programs.
    pub fn new(programs: FirecrackerPrograms) -> Firecracker {
        Firecracker { programs }
    }

    /// Starts the processes and the guest; what was started is in the instance even when
    /// something fails.
    fn start(
        &self,
        machine: &Machine,
        requests: &[Request],
        output: keeper::Output,
        patience: &Patience,
        instance: &mut Instance,
    ) -> Result<(), Trouble> {
        let dir = &machine.runtime_dir;
        let watch = Watch::new(dir)?;
        let namespace = machine.nat.then(Namespace::new);
        let vmm = Detached {
            program: &self.programs.firecracker,
            arg0: FIRECRACKER,
            args: args(machine),
            stdin: Stdio::null(),
            stdout: Some(output.console.into()),
            log: &File::from(output.log),
            tied: false,
            namespace: namespace.as_ref(),
        }
        .spawn()?;
        let pid = vmm.pid();
        let makeup = if machine.nat { NETWORKED } else { ALONE };
        instance.add(Part::Vmm, vmm, Some(makeup));
        if let Some(pasta) = self.programs.pasta.as_deref().filter(|_| machine.nat) {
            let network = pasta::start(pasta, &machine.id, dir, pid, patience)?;
            instance.add(Part::Network, network, None);
        }
        let Some(vmm) = instance.vmm() else {
            return Err(Error::internal("the VMM is not in its own instance").into());
        };
        let mut api = Api::connect(&api_socket(dir), &watch, vmm, patience)?;
        for request in requests {
            api.put(request)?;
        }
        Ok(())
    }
}

impl Driver for Firecracker {
    fn kind(&self) -> VmmKind {
        VmmKind::Firecracker
    }

    fn launch(&self, machine: &Machine, patience: &Patience) -> Result<Instance> {
        machine.validate()?;
        config::validate(machine)?;
        if machine.nat && self.programs.pasta.is_none() {
            return Err(pasta_missing());
        }
        let requests = config::requests(machine)?;
        let log = create_log(&machine.vmm_log)?;
        // Left by a VMM that was killed from outside. The boot socket is the caller's.
        for stale in [
            agent_socket(&machine.runtime_dir),
            api_socket(&machine.runtime_dir),
        ] {
            match std::fs::remove_file(&stale) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).at("remove", &stale);
                }
                _ => {}
            }
        }
        let (keeper, output) = keeper::start(&self.programs.keeper, machine, &log)?;
        // From here on the instance undoes what was done.
        let mut instance = Instance::new(
            machine.id.clone(),
            machine.runtime_dir.clone(),
            None,
            vec![(Part::Console, keeper)],
        );
        match self.start(machine, &requests, output, patience, &mut instance) {
            Ok(()) => {
                tracing::debug!(vm = %machine.id, pid = instance.pid(), "started Firecracker");
                Ok(instance)
            }
            Err(trouble) => {
                // An end of its own is looked at before it is killed.
                let ended = instance.vmm().and_then(Process::reap);
                if let Err(undo) = instance.kill_blocking() {
                    tracing::warn!(%undo, vm = %machine.id, "could not undo a failed launch");
                }
                // What it wrote has been kept by now.
                Err(trouble.into_error(ended, patience.within(), &machine.vmm_log))
            }
        }
    }
}

/// Why a start failed.
enum Trouble {
    Api(Failure),
    Other(Error),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Api(failure)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Other(error)
    }
}

impl Trouble {
    fn into_error(
        self,
        ended: Option<std::process::ExitStatus>,
        waited: Duration,
        log: &Path,
    ) -> Error {
        match self {
            Trouble::Other(error) => error,
            Trouble::Api(failure) => {
                let said = log_tail(log, 3).unwrap_or_default();
                failure.into_error(ended, waited, &said)
            }
        }
    }
}

/// The error for a network that cannot be.
pub(crate) fn pasta_missing() -> Error {
    Error::new(
        banger_model::Code::MissingProgram,
        format!("`{PASTA}` is not installed, and `--nat` under Firecracker needs it"),
    )
    .hint(format!("{}; or use `--vmm qemu`", install::pasta_hint()))
}

/// Firecracker's API socket.
pub(crate) fn api_socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("api.sock")
}

/// The arguments, after the program's name.
fn args(machine: &Machine) -> Vec<OsString> {
    let mut id = machine.id.to_string();
    if machine.nat {
        id.push_str(WITH_NETWORK);
    }
    vec![
        ID.into(),
        id.into(),
        API_SOCKET.into(),
        api_socket(&machine.runtime_dir).into(),
        // Standard output is the guest's console.
        "--log-path".into(),
        "/dev/stderr".into(),
        "--level".into(),
        "Warn".into(),
    ]
}

/// What a command line says, when it is one made by [`args`].
fn vmm_claim(args: &[&OsStr]) -> Option<Claim> {
    let socket = Path::new(value_of(args, API_SOCKET)?);
    let runtime_dir = socket.parent()?.to_owned();
    let id = value_of(args, ID)?.to_str()?;
    let exact = api_socket(&runtime_dir).as_os_str() == socket.as_os_str();
    let makeup = match id.strip_suffix(WITH_NETWORK) {
        Some(_) => NETWORKED,
        None => ALONE,
    };
    exact.then_some(Claim {
        runtime_dir,
        part: Part::Vmm,
        vmm: Some(makeup),
    })
}

/// What a command line says, when it is that of Firecracker or pasta.
pub(crate) fn claim(name: &str, args: &[&OsStr]) -> Option<Claim> {
    match name {
        FIRECRACKER => vmm_claim(args),
        _ if pasta::is_name(name) => pasta::claim(args),
        _ => None,
    }
}

/// Starts a guest that only says whether it reached user space, for the live probe. It has no
/// vsock, no disk and no network, and ends with the calling thread.
pub(crate) fn spawn_probe(
    program: &Path,
    kernel: &Path,
    initramfs: &Path,
    console: &Path,
    log: &Path,
) -> Result<Process> {
    let file = console.with_extension("json");
    std::fs::write(&file, config::probe(kernel, initramfs)?).at("write", &file)?;
    let output = File::options()
        .append(true)
        .open(console)
        .at("open", console)?;
    Detached {
        program,
        arg0: FIRECRACKER,
        args: vec![
            "--no-api".into(),
            ID.into(),
            "banger-probe".into(),
            "--level".into(),
            "Warn".into(),
            "--config-file".into(),
            file.into(),
        ],
        stdin: Stdio::null(),
        stdout: Some(output.into()),
        log: &create_log(log)?,
        tied: true,
        namespace: None,
    }
    .spawn()
}

/// The names and arguments of all processes of a machine.
#[cfg(test)]
pub(crate) fn command_lines(machine: &Machine) -> [(&'static str, Vec<OsString>); 3] {
    [
        (FIRECRACKER, args(machine)),
        (PASTA, pasta::args(&machine.runtime_dir, 1)),
        (crate::qemu::VSOCK, keeper::args(machine)),
    ]
}

#[cfg(test)]
mod tests;
