//! QEMU's command line, as a pure function of the machine.
//!
//! - `-blockdev` rather than `-drive`: a path is then never taken for a protocol. Writes go
//!   through the host's page cache and the guest's flushes become `fdatasync`, so what the
//!   guest has synced is on the disk. Discards reach the sparse file. Images are locked, so
//!   that no second VM can write to the same disk.
//! - The connections to the vsock program were made before QEMU started: the device's is standard
//!   input, the serial port's is standard output.
//! - No monitor, no default devices, no configuration files; a seccomp filter that denies new
//!   privileges, new programs and changes of scheduling.
//! - The runtime directory is the machine's name: it is how the process is found again.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Accel;
use super::clock::Counter;
use crate::discover::{Claim, value_of};
use crate::instance::Part;
use crate::machine::mac;
use crate::{Disk, Machine, guest_network};

const NAME: &str = "-name";
const NAME_PREFIX: &str = "guest=";
const ACCEL: &str = "-accel";
const KVM: &str = "kvm";

/// Every argument after the program's name.
pub(super) fn argv(machine: &Machine, accel: Accel, counter: Option<Counter>) -> Vec<OsString> {
    let mut args = Args::default();
    args.pair(NAME, option(NAME_PREFIX, &machine.runtime_dir));
    base(
        &mut args,
        accel,
        machine.vcpus,
        machine.memory.as_mib(),
        Sharing::WithVsock,
    );
    args.pair("-kernel", &machine.kernel);
    args.pair("-initrd", &machine.initramfs);
    args.pair("-append", kernel_args(accel, counter));
    console(&mut args, "socket,id=console,fd=1".into());
    args.pair("-chardev", "socket,id=vsock,fd=0");
    args.pair("-device", "vhost-user-vsock-device,chardev=vsock");
    for (index, disk) in machine.disks.iter().enumerate() {
        args.pair("-blockdev", blockdev(index, disk));
        args.pair("-device", format!("virtio-blk-device,drive=disk{index}"));
    }
    if machine.nat {
        args.pair("-netdev", netdev());
        args.pair(
            "-device",
            format!("virtio-net-device,netdev=net,mac={}", mac(&machine.id)),
        );
    }
    args.0
}

/// The arguments of the guest that only proves that KVM works.
pub(super) fn probe_argv(kernel: &Path, initramfs: &Path, console_log: &Path) -> Vec<OsString> {
    let mut args = Args::default();
    args.pair(NAME, "guest=banger-probe");
    base(&mut args, Accel::Kvm, 1, 256, Sharing::Alone);
    args.pair("-kernel", kernel);
    args.pair("-initrd", initramfs);
    let append = kernel_args(Accel::Kvm, None) + " banger.probe";
    args.pair("-append", append);
    console(&mut args, option("file,id=console,path=", console_log));
    args.0
}

/// Whether the guest's memory is shared with the vsock program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    WithVsock,
    Alone,
}

fn base(args: &mut Args, accel: Accel, vcpus: u32, memory_mib: u64, sharing: Sharing) {
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        args.0.push(flag.into());
    }
    args.pair("-display", "none");
    args.pair(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    let machine = "microvm,acpi=on,dump-guest-core=off";
    let (accel, cpu) = match accel {
        Accel::Kvm => (KVM, "host"),
        // Without `cx16`, for which kernels have another way: QEMU 7.2 leaves nonsense in the flags
        // after a `cmpxchg16b` without `lock`, and an interrupt that comes right then takes them
        // for the guest's. Linux 6.12 allocates all its memory with that instruction: see
        // docs/performance.md for how many boots it panics in.
        Accel::Tcg => ("tcg,thread=multi", "max,cx16=off"),
    };
    match sharing {
        Sharing::WithVsock => {
            args.pair("-machine", format!("{machine},memory-backend=memory"));
            args.pair(
                "-object",
                format!("memory-backend-memfd,id=memory,size={memory_mib}M,share=on"),
            );
        }
        Sharing::Alone => args.pair("-machine", machine),
    }
    args.pair("-m", format!("{memory_mib}M"));
    args.pair(ACCEL, accel);
    args.pair("-cpu", cpu);
    args.pair("-smp", vcpus.to_string());
}

/// The kernel's command line.
///
/// The self-tests of the kernel's cryptography would be a sixth of the processor time of an
/// emulated boot. Under emulation the guest's clock is the host's counter, told and trusted: a
/// kernel that measures it hangs on a busy host, and one that watches it gives it up for a
/// clock of 4 ms steps.
fn kernel_args(accel: Accel, counter: Option<Counter>) -> String {
    let mut args = String::from("console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests");
    if accel == Accel::Tcg
        && let Some(counter) = counter
    {
        args.push_str(&format!(" tsc_early_khz={} no_timer_check", counter.khz));
        if counter.steady {
            args.push_str(" tsc=reliable");
        }
    }
    args
}

fn console(args: &mut Args, chardev: OsString) {
    args.pair("-chardev", chardev);
    args.pair("-serial", "chardev:console");
}

fn blockdev(index: usize, disk: &Disk) -> OsString {
    let read_only = if disk.read_only { "on" } else { "off" };
    option(
        &format!(
            "driver=raw,node-name=disk{index},read-only={read_only},discard=unmap,\
             file.driver=file,file.locking=on,file.discard=unmap,file.filename="
        ),
        &disk.path,
    )
}

fn netdev() -> String {
    let network = guest_network();
    let dns: Vec<String> = network
        .dns
        .iter()
        .map(|address| format!(",dns={address}"))
        .collect();
    // The guest's addresses are static, so no DHCP lease is ever given; it is told where they
    // would start only because QEMU refuses a start outside the network.
    format!(
        "user,id=net,ipv4=on,ipv6=off,net={guest}/{prefix},host={gateway}{dns},dhcpstart={guest}",
        guest = network.address,
        prefix = network.prefix,
        gateway = network.gateway,
        dns = dns.concat(),
    )
}

#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn pair(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }
}

/// `prefix` and a path, whose commas QEMU wants doubled.
fn option(prefix: &str, path: &Path) -> OsString {
    let mut bytes = prefix.as_bytes().to_vec();
    for byte in path.as_os_str().as_bytes() {
        bytes.push(*byte);
        if *byte == b',' {
            bytes.push(b',');
        }
    }
    OsString::from_vec(bytes)
}

/// What a command line says, when it is one made by [`argv`].
pub(crate) fn claim(args: &[&OsStr]) -> Option<Claim> {
    let name = value_of(args, NAME)?.as_bytes();
    let doubled = name.strip_prefix(NAME_PREFIX.as_bytes())?;
    let runtime_dir = PathBuf::from(OsString::from_vec(undouble(doubled)?));
    let said = value_of(args, ACCEL)?;
    Some(Claim {
        runtime_dir,
        part: Part::Vmm,
        vmm: Some(super::makeup(if said == KVM {
            Accel::Kvm
        } else {
            Accel::Tcg
        })),
    })
}

/// The text whose commas were doubled; none when one was not.
fn undouble(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        if *byte == b',' && rest.next() != Some(&b',') {
            return None;
        }
        plain.push(*byte);
    }
    Some(plain)
}

#[cfg(test)]
mod tests;
