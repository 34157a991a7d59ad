//! The daemon: owns the VMs of one user, answers requests on a private socket.
//!
//! A table of contents. The way of a request: [`server`] takes it, [`vm`] hands it to the
//! owner of its VM, which shows how it goes in [`operations`].

mod args;
mod console;
mod context;
mod daemon;
mod disks;
mod failpoint;
mod flight;
mod image;
mod kernels;
mod keys;
mod layout;
mod lock;
mod log;
mod operations;
mod random;
mod server;
mod starter;
mod vm;

use std::process::ExitCode;

use args::Args;
use banger_model::Code;

/// Another daemon serves this state directory.
const EXIT_ALREADY_RUNNING: u8 = 3;
/// The arguments make no sense.
const EXIT_USAGE: u8 = 2;

/// How many heaps the allocator may have. By default it makes one for each thread that allocates
/// at the same time as another, and what was freed in each stays there: after a thousand VMs had
/// come and gone, 85 MiB.
const HEAPS: libc::c_int = 1;

fn main() -> ExitCode {
    // SAFETY: called before there is a second thread, with a documented parameter.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, HEAPS) };
    match args::parse(std::env::args_os().skip(1)) {
        Ok(Args::Serve { foreground }) => match daemon::run(foreground) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bangerd: {}", error.chain());
                match error.code() {
                    Code::DaemonRunning => ExitCode::from(EXIT_ALREADY_RUNNING),
                    _ => ExitCode::FAILURE,
                }
            }
        },
        Ok(Args::Version) => {
            println!("bangerd {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Ok(Args::Help) => {
            print!("{}", args::USAGE);
            ExitCode::SUCCESS
        }
        Err(unknown) => {
            eprintln!("bangerd: unknown argument `{unknown}`\n\n{}", args::USAGE);
            ExitCode::from(EXIT_USAGE)
        }
    }
}
