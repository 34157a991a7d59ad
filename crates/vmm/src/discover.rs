//! Finds instances that run already.
//!
//! The process table is the only witness: a VM runs if a process of this user, under the name
//! of one of our programs, was started with the arguments a driver gives it for exactly that
//! runtime directory. Files that claim so are never asked.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use banger_model::{IoContext, Result, VmId};
use rustix::process::Pid;

use crate::instance::{Makeup, Part};
use crate::process::Process;
use crate::{Instance, firecracker, qemu};

/// What a command line says its process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) runtime_dir: PathBuf,
    pub(crate) part: Part,
    /// What the VM consists of; its VMM knows.
    pub(crate) vmm: Option<Makeup>,
}

/// The argument that follows an option.
pub(crate) fn value_of<'a>(args: &[&'a OsStr], option: &str) -> Option<&'a OsStr> {
    let at = args.iter().position(|arg| *arg == option)?;
    args.get(at + 1).copied()
}

/// Every VM of this user whose runtime directory is directly below `runtime_root`, in the order
/// of their ids. Includes VMs of which only one process is left.
///
/// # Errors
/// `io` when `/proc` cannot be read.
pub fn find_all(runtime_root: &Path) -> Result<Vec<(VmId, Instance)>> {
    find_in(Path::new("/proc"), runtime_root)
}

fn find_in(proc_dir: &Path, runtime_root: &Path) -> Result<Vec<(VmId, Instance)>> {
    let mut found: BTreeMap<VmId, Instance> = BTreeMap::new();
    for entry in std::fs::read_dir(proc_dir).at("list", proc_dir)? {
        let Some(pid) = entry
            .at("list", proc_dir)?
            .file_name()
            .to_str()
            .and_then(parse_pid)
        else {
            continue;
        };
        let process_dir = proc_dir.join(pid.as_raw_nonzero().to_string());
        // First a cheap look, then the same look with the process held.
        let Some((id, _)) = claim_below(&process_dir, runtime_root) else {
            continue;
        };
        let process = match Process::adopt(pid) {
            Ok(process) => process,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
            Err(error) => return Err(error).at("watch the process at", &process_dir),
        };
        let claim = claim_below(&process_dir, runtime_root).filter(|(again, _)| *again == id);
        // If it is alive now, its id was its own while the command line was read.
        let (Some((_, claim)), false) = (claim, process.has_ended()) else {
            continue;
        };
        match found.get_mut(&id) {
            Some(instance) => instance.add(claim.part, process, claim.vmm),
            None => {
                let instance = Instance::new(
                    id.clone(),
                    claim.runtime_dir,
                    claim.vmm,
                    vec![(claim.part, process)],
                );
                found.insert(id, instance);
            }
        }
    }
    Ok(found.into_iter().collect())
}

fn parse_pid(name: &str) -> Option<Pid> {
    if !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Pid::from_raw(name.parse().ok()?)
}

/// What the process says it is, when it is ours and below `runtime_root`. A process that is
/// gone, a zombie or unreadable says nothing.
fn claim_below(process_dir: &Path, runtime_root: &Path) -> Option<(VmId, Claim)> {
    let claim = match read_claim(process_dir) {
        Ok(claim) => claim?,
        Err(error) => {
            tracing::trace!(dir = %process_dir.display(), %error, "skipped a process");
            return None;
        }
    };
    if claim.runtime_dir.parent()? != runtime_root {
        return None;
    }
    let id = claim.runtime_dir.file_name()?.to_str()?.parse().ok()?;
    // Rebuilt and compared, so that `x/../y` and `x//y` do not count as `y`.
    let exact = crate::runtime_dir(runtime_root, &id);
    (exact.as_os_str() == claim.runtime_dir.as_os_str()).then_some((id, claim))
}

fn read_claim(process_dir: &Path) -> io::Result<Option<Claim>> {
    if !is_ours(process_dir)? {
        return Ok(None);
    }
    let raw = std::fs::read(process_dir.join("cmdline"))?;
    let Some(raw) = raw.strip_suffix(b"\0") else {
        return Ok(None);
    };
    let args: Vec<&OsStr> = raw
        .split(|byte| *byte == 0)
        .map(OsStr::from_bytes)
        .collect();
    Ok(claim(&args))
}

/// Whether it is a process of this user. One that hides from debuggers, as pasta does, has a
/// directory that belongs to root, and says in a file whose it is.
fn is_ours(process_dir: &Path) -> io::Result<bool> {
    let user = rustix::process::geteuid().as_raw();
    let owner = std::fs::metadata(process_dir)?.uid();
    if owner == user || owner != 0 {
        return Ok(owner == user);
    }
    let status = std::fs::read_to_string(process_dir.join("status"))?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_ascii_whitespace().nth(1))
        .and_then(|id| id.parse::<u32>().ok());
    Ok(effective == Some(user))
}

/// What a command line says, when it is that of one of the programs of a VM.
fn claim(args: &[&OsStr]) -> Option<Claim> {
    match Path::new(args.first()?).file_name()?.to_str()? {
        qemu::QEMU => qemu::claim(args),
        qemu::VSOCK => firecracker::keeper_claim(args).or_else(|| qemu::vsock_claim(args)),
        name => firecracker::claim(name, args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scratch, machine};
    use banger_model::VmmKind;
    use std::ffi::OsString;
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::process::Stdio;

    /// A process that looks like one of ours in the process table: a shell under another name
    /// that waits for the end of its input.
    fn stand_in(arg0: &str, ours: Vec<OsString>, input: &OwnedFd) -> Process {
        let mut args = vec!["-c".into(), "read line".into(), "stand-in".into()];
        args.extend(ours);
        crate::process::Detached {
            program: Path::new("/bin/sh"),
            arg0,
            args,
            stdin: Stdio::from(input.try_clone().unwrap()),
            stdout: None,
            log: &File::create("/dev/null").unwrap(),
            tied: true,
            namespace: None,
        }
        .spawn()
        .unwrap()
    }

    #[test]
    fn finds_whole_and_half_instances_and_nothing_else() {
        let scratch = Scratch::new();
        let root = scratch.path().join("vm");
        let whole = machine(&root, "00000000000a");
        let half = machine(&root, "00000000000b");
        let elsewhere = machine(&scratch.path().join("other"), "00000000000c");
        let (input, _never_written) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();

        let vmm = stand_in(qemu::QEMU, qemu::argv_for_tests(&whole), &input);
        let vsock = stand_in(
            qemu::VSOCK,
            qemu::vsock_args(&whole.runtime_dir, &whole.console_log),
            &input,
        );
        let lonely = stand_in(
            qemu::VSOCK,
            qemu::vsock_args(&half.runtime_dir, &half.console_log),
            &input,
        );
        // The same arguments under another program's name, and another root: not ours.
        let debugger = stand_in("strace", qemu::argv_for_tests(&whole), &input);
        let other = stand_in(qemu::QEMU, qemu::argv_for_tests(&elsewhere), &input);

        let found = find_all(&root).unwrap();
        let ids: Vec<&str> = found.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["00000000000a", "00000000000b"]);
        assert_eq!(found[0].1.pid(), vmm.pid());
        let mut pids = found[0].1.pids();
        pids.sort_unstable();
        let mut expected = vec![vmm.pid(), vsock.pid()];
        expected.sort_unstable();
        assert_eq!(pids, expected);
        assert!(found[0].1.is_alive());
        assert_eq!(found[0].1.kind(), Some(VmmKind::QemuTcg));
        assert_eq!(found[0].1.runtime_dir(), whole.runtime_dir);
        assert_eq!(found[1].1.pid(), lonely.pid());
        assert!(!found[1].1.is_alive(), "half an instance is not alive");
        assert_eq!(found[1].1.kind(), None);

        for (_, instance) in &found {
            instance.kill_blocking().unwrap();
            instance.kill_blocking().unwrap();
        }
        // Ended but not yet reaped by us, their parent: zombies are not instances.
        assert!(find_all(&root).unwrap().is_empty());
        for process in [vmm, vsock, lonely, debugger, other] {
            process.send_kill().unwrap();
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            assert!(process.wait_until(deadline).unwrap());
            process.reap();
        }
    }

    #[test]
    fn finds_firecracker_with_all_that_it_needs() {
        let scratch = Scratch::new();
        let root = scratch.path().join("vm");
        let plain = machine(&root, "00000000000a");
        let mut networked = machine(&root, "00000000000b");
        networked.nat = true;
        let (input, _never_written) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut started = Vec::new();
        for machine in [&plain, &networked] {
            for (name, args) in firecracker::command_lines(machine) {
                if machine.nat || name != firecracker::PASTA {
                    started.push(stand_in(name, args, &input));
                }
            }
        }
        let found = find_all(&root).unwrap();
        assert_eq!(found.len(), 2);
        for (_, instance) in &found {
            assert_eq!(instance.kind(), Some(VmmKind::Firecracker));
            assert!(instance.is_alive());
        }
        assert_eq!(found[0].1.pids(), [started[0].pid(), started[1].pid()]);
        let expected: Vec<u32> = started[2..].iter().map(Process::pid).collect();
        assert_eq!(found[1].1.pids(), expected);

        // Without its pasta it is half a VM, and is ended in one go.
        let pasta = &started[3];
        pasta.send_kill().unwrap();
        let soon = std::time::Instant::now() + std::time::Duration::from_secs(20);
        assert!(pasta.wait_until(soon).unwrap());
        let found = find_all(&root).unwrap();
        assert!(found[0].1.is_alive() && !found[1].1.is_alive());
        for process in started {
            process.send_kill().unwrap();
            assert!(process.wait_until(soon).unwrap());
            process.reap();
        }
        assert!(find_all(&root).unwrap().is_empty());
    }

    #[test]
    fn paths_must_match_exactly() {
        let scratch = Scratch::new();
        let process_dir = scratch.path().join("7");
        std::fs::create_dir(&process_dir).unwrap();
        let root = Path::new("/run/banger/vm");
        let claimed = |runtime_dir: &str| {
            let mut raw = qemu::VSOCK.as_bytes().to_vec();
            for arg in qemu::vsock_args(Path::new(runtime_dir), Path::new("/x")) {
                raw.push(0);
                raw.extend_from_slice(arg.as_bytes());
            }
            raw.push(0);
            std::fs::write(process_dir.join("cmdline"), raw).unwrap();
            let of_qemu = claim_below(&process_dir, root).map(|(id, _)| id.to_string());
            let socket = Path::new(runtime_dir).join("api.sock");
            let socket = socket.to_str().unwrap();
            let raw = format!("firecracker\0--id\0x\0--api-sock\0{socket}\0");
            std::fs::write(process_dir.join("cmdline"), raw).unwrap();
            let of_firecracker = claim_below(&process_dir, root).map(|(id, _)| id.to_string());
            assert_eq!(of_qemu, of_firecracker);
            of_qemu
        };
        assert_eq!(
            claimed("/run/banger/vm/00000000000a").unwrap(),
            "00000000000a"
        );
        for other in [
            "/run/banger/vm/../vm/00000000000a",
            "/run/banger//vm/00000000000a",
            "/run/banger/vm//00000000000a",
            "/run/banger/vm/00000000000A",
            "/run/banger/vm/00000000000",
            "/run/banger/vm/00000000000a/x",
            "/run/banger/vm2/00000000000a",
            "vm/00000000000a",
            "/",
            "",
        ] {
            assert_eq!(claimed(other), None, "{other:?}");
        }
        std::fs::write(process_dir.join("cmdline"), "").unwrap();
        assert_eq!(claim_below(&process_dir, root), None, "a zombie");
        std::fs::remove_file(process_dir.join("cmdline")).unwrap();
        assert_eq!(claim_below(&process_dir, root), None, "gone");
    }
}
