//! What Firecracker is told, as a pure function of the machine.
//!
//! - Drives are in the order of the machine's disks, none of them a "root device": that would
//!   only add words to the kernel's command line.
//! - `Writeback` makes the guest's flushes reach the disk. Firecracker's default, `Unsafe`,
//!   would lose what the guest has synced when the host's power goes.
//! - No entropy device, no balloon, no metrics: nothing in a guest or in banger uses them, and
//!   each would be one more device for every boot to find.

use std::path::Path;

use banger_model::{Code, Error, FIRECRACKER_MAX_VCPUS as VCPUS_MAX, Result};
use serde_json::json;

use super::api::Request;
use super::namespace::GUEST_TAP;
use crate::Machine;
use crate::machine::{agent_socket, mac};

/// The most disks: Firecracker has 19 interrupt lines for devices, and the network and vsock
/// need one each.
const DISKS_MAX: usize = 17;
/// The guest's context id. Each guest has a vsock of its own, so all have the same.
const GUEST_CID: u32 = 3;

/// The kernel's command line.
///
/// `reboot=k` resets through the keyboard controller, which is how a guest ends its Firecracker;
/// the `i8042` words keep the kernel from looking for a keyboard and a mouse at it. The serial
/// console costs nothing until something is printed, and `quiet` leaves only what went wrong.
pub(super) const KERNEL_ARGS: &str = "console=ttyS0 quiet panic=-1 reboot=k cryptomgr.notests \
                                      i8042.noaux i8042.nomux i8042.dumbkbd";

/// Checks what only Firecracker could not carry out.
pub(super) fn validate(machine: &Machine) -> Result<()> {
    check_vcpus(machine.vcpus)?;
    if machine.disks.len() > DISKS_MAX {
        return Err(Error::new(
            Code::InvalidArgument,
            format!(
                "a VM has at most {DISKS_MAX} disks under Firecracker, not {}",
                machine.disks.len()
            ),
        ));
    }
    Ok(())
}

/// Checks the number of virtual processors.
pub(crate) fn check_vcpus(vcpus: u32) -> Result<()> {
    if vcpus <= VCPUS_MAX {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!("Firecracker gives a VM at most {VCPUS_MAX} virtual processors, not {vcpus}"),
    )
    .hint(format!(
        "choose at most {VCPUS_MAX} with `--vcpu`, or use `--vmm qemu`"
    )))
}

/// Every request up to the start, in order.
pub(super) fn requests(machine: &Machine) -> Result<Vec<Request>> {
    let mut requests = vec![
        Request::put(
            "/machine-config",
            json!({ "vcpu_count": machine.vcpus, "mem_size_mib": machine.memory.as_mib() }),
        ),
        boot_source(&machine.kernel, &machine.initramfs, KERNEL_ARGS)?,
    ];
    for (index, disk) in machine.disks.iter().enumerate() {
        let id = format!("disk{index}");
        requests.push(Request::put(
            format!("/drives/{id}"),
            json!({
                "drive_id": id,
                "path_on_host": text(&disk.path)?,
                "is_root_device": false,
                "is_read_only": disk.read_only,
                "cache_type": "Writeback",
            }),
        ));
    }
    if machine.nat {
        requests.push(Request::put(
            "/network-interfaces/net",
            json!({
                "iface_id": "net",
                "host_dev_name": GUEST_TAP,
                "guest_mac": mac(&machine.id),
            }),
        ));
    }
    requests.push(Request::put(
        "/vsock",
        json!({ "guest_cid": GUEST_CID, "uds_path": text(&agent_socket(&machine.runtime_dir))? }),
    ));
    requests.push(Request::put(
        "/actions",
        json!({ "action_type": "InstanceStart" }),
    ));
    Ok(requests)
}

/// The configuration file of the guest that only proves that KVM works.
pub(super) fn probe(kernel: &Path, initramfs: &Path) -> Result<String> {
    let source = boot_source(kernel, initramfs, &format!("{KERNEL_ARGS} banger.probe"))?;
    Ok(json!({
        "boot-source": source.body,
        "drives": [],
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 256 },
    })
    .to_string())
}

fn boot_source(kernel: &Path, initramfs: &Path, args: &str) -> Result<Request> {
    Ok(Request::put(
        "/boot-source",
        json!({
            "kernel_image_path": text(kernel)?,
            "initrd_path": text(initramfs)?,
            "boot_args": args,
        }),
    ))
}

/// The path as JSON can carry it.
fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::new(
            Code::InvalidArgument,
            format!(
                "Firecracker takes UTF-8 paths only, and `{}` is none",
                path.display()
            ),
        )
        .hint("move banger's state to a directory with an ordinary name, or use `--vmm qemu`")
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::Disk;
    use crate::testing::machine;

    #[test]
    fn a_machine_becomes_requests_in_order() {
        let mut machine = machine(Path::new("/run/banger/vm"), "00000000000a");
        machine.nat = true;
        let said: Vec<String> = requests(&machine)
            .unwrap()
            .iter()
            .map(|request| format!("{} {}", request.path, request.body))
            .collect();
        insta::assert_snapshot!(said.join("\n"));
        machine.nat = false;
        let said = requests(&machine).unwrap();
        assert!(!said.iter().any(|request| request.path.contains("network")));
    }

    #[test]
    fn what_firecracker_cannot_carry_out_is_refused() {
        let good = machine(Path::new("/run/banger/vm"), "00000000000a");
        validate(&good).unwrap();
        let many = Machine {
            vcpus: 33,
            ..good.clone()
        };
        let error = validate(&many).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.hint_text().unwrap().contains("--vcpu"));
        let disk = good.disks[0].clone();
        let full = Machine {
            disks: vec![disk; DISKS_MAX + 1],
            ..good.clone()
        };
        assert!(validate(&full).is_err());
        let odd = Machine {
            disks: vec![Disk {
                path: OsStr::from_bytes(b"/\xff").into(),
                read_only: true,
            }],
            ..good
        };
        assert_eq!(requests(&odd).unwrap_err().code(), Code::InvalidArgument);
    }
}
