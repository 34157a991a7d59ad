//! From the kernel's first process to a running VM.
//!
//! ```text
//! /proc /sys /dev ─▶ modules ─▶ listen ─▶ dial the host: Hello, BootConfig ─▶ clock
//!   ─▶ disks ─▶ switch root ─▶ which init? ─▶ /run and others ─▶ work disk ─▶ identity ─▶ network
//!   ─▶ fork the agent, which reports Ready ─▶ exec the image's init, or stay and reap
//! ```
//!
//! Single-threaded up to the fork. Every step has a name; when one fails the host is told the
//! name and the reason, the console shows both, and the VM ends.
//!
//! The initramfs must hold `/dev/console`: Rust's runtime needs descriptors 0 to 2 before any
//! of this runs, and takes them from there.

mod build;
mod dial;
mod files;
mod gitconfig;
mod grow;
mod handover;
mod identity;
mod kernel;
mod modules;
mod network;
mod pid1;
mod root;
mod runtime;
mod work_disk;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use banger_guest_api::{AGENT_PORT, BootConfig, BootReport, InitPolicy};
use vsock::{VMADDR_CID_ANY, VsockListener};

use crate::failure::{self, Failure, Result, Step};
use crate::init;
use crate::server;
use crate::socket::{Socket, wait_readable};

/// How long the host may take to read the report of a failure.
const LINGER: Duration = Duration::from_secs(5);

/// PID 1 of the initramfs. Does not return.
pub(crate) fn main() -> ExitCode {
    failure::end_the_guest_on_panic();
    let mut host = None;
    match boot(&mut host) {
        Ok(never) => match never {},
        Err(failure) => {
            report(host, &failure);
            eprintln!("banger: {failure}");
            failure::end_the_guest()
        }
    }
}

/// Succeeds by becoming something else.
enum Never {}

fn boot(host: &mut Option<Socket>) -> Result<Never> {
    kernel::mount_basics()?;
    if kernel::is_probe()? {
        println!("banger-probe-ok");
        failure::end_the_guest();
    }
    kernel::load_modules("boot.list")?;
    let listener =
        VsockListener::bind_with_cid_port(VMADDR_CID_ANY, AGENT_PORT).step("listen on vsock")?;
    let (connection, config) = dial::host()?;
    let host = host.insert(connection);
    kernel::set_clock(config.clock_unix_ns)?;
    if config.network.is_some() {
        kernel::load_modules("net.list")?;
    }

    if let Some(device) = &config.build {
        return build_a_disk(&config, device, host);
    }
    let (work_disk, modules) = become_the_vm(&config)?;
    let init = match config.init {
        InitPolicy::Auto => init::find(Path::new("/")).step("look for the image's init system")?,
        InitPolicy::None => None,
    };
    runtime::prepare(init.is_some())?;
    work_disk::attach(work_disk)?;
    modules::attach(modules)?;
    identity::write(&config, init.as_ref())?;
    network::configure(config.network.as_ref())?;
    handover::hand_over(init.as_ref(), listener, host)
}

/// Mounts the disks and makes the VM's root the root of this process. Returns the mounts that
/// have not found their places yet: the work disk and the kernel's modules.
fn become_the_vm(config: &BootConfig) -> Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    let disks = root::mount_disks(config)?;
    let modules = modules::mount(config.modules.as_deref())?;
    Ok((root::switch(disks)?, modules))
}

/// Does what a builder guest is there for, and ends it.
fn build_a_disk(config: &BootConfig, device: &str, host: &mut Socket) -> Result<Never> {
    let disks = root::mount_disks(config)?;
    build::run(device)?;
    drop(disks);
    let report = BootReport::Ready(server::info(None));
    host.send(&report).step("report that the disk is written")?;
    // The host hangs up once it has the report.
    if !wait_readable(host.as_fd(), LINGER) {
        eprintln!("banger: the host does not take the report");
    }
    failure::end_the_guest()
}

/// Tells the host, as far as it still listens.
fn report(host: Option<Socket>, failure: &Failure) {
    let Some(mut host) = host else {
        return;
    };
    let report = BootReport::Failed {
        step: failure.step.clone(),
        message: failure.message.clone(),
    };
    match host.send(&report) {
        Ok(()) => host.linger(LINGER),
        Err(error) => eprintln!("banger: report a failed boot: {error}"),
    }
}
