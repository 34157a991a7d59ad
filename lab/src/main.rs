//! `make lab`: the scenario suite on a whole machine of its own.
//!
//! ```text
//! this machine ── QEMU, software emulation with emulated SVM ──▶ outer machine: Debian, systemd
//!      │                                                            │ /dev/kvm works
//!      │ a disk in: programs, scenarios, image, kernel              ▼
//!      │ a serial line out: results as they happen          the scenarios ──▶ VMs of banger's
//!      │ a disk out: logs
//! ```
//!
//! There banger meets what an ordinary build machine does not have: KVM that works, both kinds
//! of user, and a system it may change. The outer machine has no network and no state: it
//! starts from the same disk every time.

mod carry;
mod machine;
mod outer;
mod plan;
mod results;
mod settings;
mod suite;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use banger_model::{Code, Error, IoContext, Result};
use tokio_util::sync::CancellationToken;

use crate::results::Results;
use crate::settings::Settings;
use crate::suite::Suite;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match lab().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {}", words(&error));
            if let Some(hint) = error.hint_text() {
                eprintln!("lab: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

/// An error and all its causes.
fn words(error: &Error) -> String {
    let mut text = error.message().to_owned();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        text += &format!(": {deeper}");
        cause = deeper.source();
    }
    text
}

/// Whether everything passed.
async fn lab() -> Result<bool> {
    let settings = Settings::read()?;
    let cancel = cancelled_by_signals()?;
    let plan = plan::make(&settings)?;
    let suite = Suite::build()?;
    for half in plan.iter().filter(|half| half.scenarios != plan::BENCH) {
        suite.check(&half.scenarios)?;
    }
    let logs = suite.target.join("lab");
    if logs.exists() {
        fs::remove_dir_all(&logs).at("remove", &logs)?;
    }
    fs::create_dir_all(&logs).at("create", &logs)?;
    if settings.firecracker.is_none() {
        println!(
            "Firecracker half not run: there is no `firecracker` on PATH, and BANGER_FIRECRACKER \
             names none"
        );
    }
    let outer = outer::ensure(&settings.cache, &cancel).await?;
    let scratch = tempfile::Builder::new()
        .prefix("banger-lab-")
        .tempdir_in(&suite.target)
        .at("make a directory in", &suite.target)?;
    let disks = carry::pack(&settings, &suite, &plan, scratch.path())?;
    let mut results = Results::new(&plan);
    let console = logs.join("console.log");
    let ended = machine::run(
        &outer,
        &disks,
        &console,
        settings.limit,
        &cancel,
        &mut |line| {
            if let Some(words) = results.line(line) {
                println!("{words}");
            }
        },
    )
    .await;
    unpack(&disks.results, &logs);
    print!("{}", results.table());
    println!("logs: {}", logs.display());
    ended?;
    Ok(results.passed())
}

/// The logs are worth having however the run ended, and never a reason for it to fail.
fn unpack(disk: &Path, logs: &Path) {
    let status = std::process::Command::new("tar")
        .arg("-xf")
        .arg(disk)
        .arg("-C")
        .arg(logs)
        .args(["--no-same-owner", "--no-same-permissions"])
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => eprintln!("lab: the logs could not be unpacked: tar: {status}"),
        Err(error) => eprintln!("lab: the logs could not be unpacked: tar: {error}"),
    }
}

/// Fires at Ctrl-C and at the signals that ask a program to end.
fn cancelled_by_signals() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let cancel = CancellationToken::new();
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        let mut signals = signal(kind)
            .map_err(|error| Error::new(Code::Io, "cannot catch signals").because(error))?;
        let cancel = cancel.clone();
        tokio::spawn(async move {
            signals.recv().await;
            cancel.cancel();
        });
    }
    Ok(cancel)
}
