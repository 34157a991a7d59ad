//! pasta: carries the packets of a VM's own network namespace to the outside, as ordinary
//! sockets of this user.
//!
//! It opens one of the taps that [`super::namespace`] made, and takes the part that QEMU's
//! user-mode network plays for its guests: the same addresses, the same gateway, which is this
//! host, and the same name server. It forwards no ports.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use banger_model::{Code, Error, IoContext, Result, VmId};

use super::api::{Failure, Watch};
use super::namespace::PASTA_TAP;
use crate::discover::{Claim, value_of};
use crate::instance::Part;
use crate::process::{Detached, Process};
use crate::{Patience, guest_network, log_tail};

/// The name it runs under; it looks at its name to know what it is.
pub(crate) const PASTA: &str = "pasta";
/// The names it may have in the process table: it executes itself again for some processors.
const NAMES: [&str; 2] = [PASTA, "pasta.avx2"];
const PID_FILE: &str = "--pid";
/// The gateway's address on the guest's link: the one it has under QEMU.
const GATEWAY_MAC: &str = "52:55:0a:00:02:02";

fn pid_file(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("pasta.pid")
}

/// The arguments, after the program's name.
pub(crate) fn args(runtime_dir: &Path, vmm: u32) -> Vec<OsString> {
    let network = guest_network();
    let mut args: Vec<OsString> = Vec::new();
    let mut pair = |option: &str, value: OsString| {
        args.push(option.into());
        args.push(value);
    };
    pair(PID_FILE, pid_file(runtime_dir).into());
    pair("--log-file", runtime_dir.join("pasta.log").into());
    pair("--ns-ifname", PASTA_TAP.into());
    // Everything it would copy from the host's interface is said here, so that it also works
    // where the host has none but the loopback.
    pair("--interface", "lo".into());
    pair("--mac-addr", GATEWAY_MAC.into());
    pair("--address", network.address.to_string().into());
    pair("--netmask", network.prefix.to_string().into());
    pair("--gateway", network.gateway.to_string().into());
    for server in &network.dns {
        pair("--dns-forward", server.to_string().into());
    }
    // Neither into the guest nor out of it: `vm forward` goes through the agent.
    for option in ["--tcp-ports", "--udp-ports", "--tcp-ns", "--udp-ns"] {
        pair(option, "none".into());
    }
    // It would become nobody, who may not enter the namespace.
    if rustix::process::geteuid().is_root() {
        pair("--runas", "0:0".into());
    }
    for flag in [
        "--ipv4-only",
        "--no-dhcp",
        "--no-ndp",
        "--no-dhcpv6",
        "--no-ra",
        "--quiet",
        "--foreground",
    ] {
        args.push(flag.into());
    }
    args.push(vmm.to_string().into());
    args
}

/// What a command line says, when it is one made of [`args`].
pub(super) fn claim(args: &[&OsStr]) -> Option<Claim> {
    let file = Path::new(value_of(args, PID_FILE)?);
    let runtime_dir = file.parent()?.to_owned();
    (pid_file(&runtime_dir).as_os_str().as_bytes() == file.as_os_str().as_bytes()).then_some(
        Claim {
            runtime_dir,
            part: Part::Network,
            vmm: None,
        },
    )
}

/// Whether this is one of its names.
pub(super) fn is_name(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Starts it for the namespace of this process, and returns once it carries packets.
pub(super) fn start(
    program: &Path,
    id: &VmId,
    runtime_dir: &Path,
    vmm: u32,
    patience: &Patience,
) -> Result<Process> {
    let said = runtime_dir.join("pasta.err");
    // Of an earlier one: it must not be taken for that of this one.
    let stale = pid_file(runtime_dir);
    match std::fs::remove_file(&stale) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).at("remove", &stale);
        }
        _ => {}
    }
    let watch = Watch::new(runtime_dir)?;
    let process = Detached {
        program,
        arg0: PASTA,
        args: args(runtime_dir, vmm),
        stdin: Stdio::null(),
        stdout: None,
        log: &File::create(&said).at("create", &said)?,
        tied: false,
        namespace: None,
    }
    .spawn()?;
    // It writes its process id once it is ready.
    let file = pid_file(runtime_dir);
    let failure = loop {
        match std::fs::metadata(&file) {
            Ok(found) if found.len() > 0 => return Ok(process),
            _ => {}
        }
        if let Err(failure) = watch.wait(&process, patience) {
            break failure;
        }
    };
    // Nobody else knows of it yet.
    let ended = process.send_kill().and_then(|()| {
        process.wait_until(Instant::now() + Duration::from_secs(5))?;
        Ok(process.reap())
    });
    if let Err(error) = ended {
        tracing::warn!(%error, pid = process.pid(), "pasta was not ended");
    }
    let mut how = match failure {
        Failure::Ended => "it ended at once".to_owned(),
        Failure::Broken(error) => error.to_string(),
        Failure::Unwanted => return Err(Error::cancelled()),
        // It is asked nothing that it could refuse.
        Failure::Silent | Failure::Refused { .. } => {
            format!("it was not ready within {} s", patience.within().as_secs())
        }
    };
    for log in [said, runtime_dir.join("pasta.log")] {
        let tail = log_tail(&log, 3)?;
        if !tail.is_empty() {
            how.push_str(": ");
            how.push_str(&tail.replace('\n', "; "));
        }
    }
    Err(Error::new(
        Code::VmmFailed,
        format!("pasta, which carries the network of VM {id}, did not start: {how}"),
    )
    .hint("leave out `--nat`, or use `--vmm qemu`, whose network needs no pasta"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_again_by_its_exact_command_line() {
        let dir = Path::new("/run/banger/vm/00000000000a");
        let args = args(dir, 42);
        let mut said: Vec<&OsStr> = vec![OsStr::new(PASTA)];
        said.extend(args.iter().map(OsString::as_os_str));
        let claim = claim(&said).unwrap();
        assert_eq!(
            (claim.runtime_dir.as_path(), claim.part),
            (dir, Part::Network)
        );
        assert_eq!(args.last().unwrap(), "42");
        assert!(is_name("pasta.avx2") && !is_name("passt"));
        assert_eq!(
            super::claim(&[OsStr::new(PASTA), OsStr::new("--config-net")]),
            None
        );
        assert_eq!(
            super::claim(&["--pid", "/run/x/other.pid"].map(OsStr::new)),
            None
        );
    }

    /// The processes whose command line names this directory.
    fn named_after(dir: &Path) -> Vec<String> {
        let dir = dir.to_str().unwrap();
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("cmdline")).ok())
            .filter(|line| line.contains(dir))
            .collect()
    }

    #[test]
    fn one_that_does_not_get_ready_is_ended() {
        let scratch = crate::testing::Scratch::new();
        let program = scratch.path().join("pasta");
        crate::testing::script(&program, "kill -STOP $$");
        let id = "00000000000a".parse().unwrap();
        let (unwanted, wanted) = Patience::while_wanted(Duration::from_secs(60)).unwrap();
        drop(wanted);
        let error = start(&program, &id, scratch.path(), 1, &unwanted).unwrap_err();
        assert_eq!(error.code(), Code::Cancelled);
        assert_eq!(named_after(scratch.path()), [""; 0]);
        let short = Patience::of(Duration::from_millis(1));
        let error = start(&program, &id, scratch.path(), 1, &short).unwrap_err();
        assert_eq!(error.code(), Code::VmmFailed);
        assert!(error.message().contains("not ready within 0 s"), "{error}");
        assert_eq!(named_after(scratch.path()), [""; 0]);
    }

    /// Runs a command in the namespaces of a process, as somebody who may do all in there.
    fn within(process: &Process, script: &str) -> std::process::Output {
        std::process::Command::new("nsenter")
            .args(["--preserve-credentials", "--user", "--net", "--target"])
            .arg(process.pid().to_string())
            .args(["bash", "-c", script])
            .output()
            .unwrap()
    }

    #[test]
    fn a_guest_reaches_the_host_through_it() {
        let search = crate::Search {
            path: std::env::var_os("PATH"),
            ..crate::Search::default()
        };
        let program = search.pasta().expect("scripts/install-deps installs it");
        let scratch = crate::testing::Scratch::new();
        let (input, _never_written) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let vmm = Detached {
            program: Path::new("/bin/cat"),
            arg0: "cat",
            args: Vec::new(),
            stdin: input.into(),
            stdout: None,
            log: &File::create("/dev/null").unwrap(),
            tied: true,
            namespace: Some(&super::super::Namespace::new()),
        }
        .spawn()
        .unwrap();
        let id = "00000000000a".parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let patience = Patience::of(Duration::from_secs(20));
        let pasta = start(&program, &id, scratch.path(), vmm.pid(), &patience).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = std::thread::spawn(move || {
            let (mut guest, _) = listener.accept().unwrap();
            std::io::Write::write_all(&mut guest, b"visit").unwrap();
        });
        // The bridge takes the guest's place.
        let said = within(
            &vmm,
            &format!(
                "set -e; ip address add 10.0.2.15/24 dev bridge; ip route add default via 10.0.2.2
                timeout 15 cat < /dev/tcp/10.0.2.2/{port}"
            ),
        );
        assert_eq!(String::from_utf8_lossy(&said.stdout), "visit", "{said:?}");
        host.join().unwrap();
        for process in [&pasta, &vmm] {
            process.send_kill().unwrap();
            assert!(process.wait_until(deadline).unwrap());
            process.reap();
        }
        // Without the namespace it says why, and nothing is left.
        let error = start(&program, &id, scratch.path(), vmm.pid(), &patience).unwrap_err();
        assert_eq!(error.code(), Code::VmmFailed);
        assert!(error.message().contains("did not start"), "{error}");
        assert!(error.hint_text().unwrap().contains("--vmm qemu"));
    }
}
