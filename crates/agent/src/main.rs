//! The program inside every guest: first the initramfs's `/init`, then the agent that serves the
//! host over vsock for as long as the guest lives.
//!
//! This file is the table of contents. The kernel starts the program as PID 1 and [`boot`] makes
//! the VM out of the disks and the host's configuration. It forks the agent, which executes
//! this same program again as `@banger-agent serve …` ([`server`]), and PID 1 becomes the
//! image's init, or the reaper in `boot::pid1`.

mod boot;
mod copy;
mod dial;
mod exec;
mod failure;
mod init;
mod listeners;
mod relay;
mod replace;
mod server;
mod shutdown;
mod socket;
mod stats;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod users;
mod wait_boot;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments
        .next()
        .is_some_and(|first| first == server::SUBCOMMAND)
    {
        return server::main(arguments);
    }
    if std::process::id() == 1 {
        return boot::main();
    }
    eprintln!(
        "banger-agent {}: the guest's side of banger; it runs as /init of a VM's initramfs",
        env!("CARGO_PKG_VERSION")
    );
    ExitCode::from(2)
}
