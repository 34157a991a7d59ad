//! `make lab`: the scenario suite on a whole machine of its own.
//!
//! ```text
//! this machine ── QEMU, software emulation with emulated SVM ──▶ outer machines: Debian, systemd
//!      │                                                            │ /dev/kvm works
//!      │ a disk in: programs, scenarios, image, kernel              ▼
//!      │ a serial line out: results as they happen          the scenarios ──▶ VMs of banger's
//!      │ a disk out: logs
//! ```
//!
//! There banger meets what an ordinary build machine does not have: KVM that works, both kinds
//! of user, and a system it may change. An outer machine has no network and no state: it
//! starts from the same disk every time, and runs scenarios on one VMM as one user. Two run side
//! by side, each with one processor: see [`machine`] for why.

mod archive;
mod carry;
mod emulator;
mod machine;
mod outer;
mod plan;
mod results;
mod settings;
mod suite;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use banger_model::{Code, Error, IoContext, Result};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::machine::Run;
use crate::outer::Outer;
use crate::plan::Batch;
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
    let batches = plan::make(&settings)?;
    let suite = Suite::build()?;
    let mut need_archive = false;
    for batch in batches.iter().filter(|batch| !batch.is_bench()) {
        need_archive |= suite.need_archive(&batch.scenarios.join(","))?;
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
    let archive = match need_archive {
        true => {
            let directory = scratch(&suite)?;
            archive::copy(directory.path(), &cancel).await?;
            Some(directory)
        }
        false => None,
    };
    let jobs = Semaphore::new(settings.jobs);
    let lab = Lab {
        deadline: Instant::now() + settings.limit,
        settings,
        suite,
        outer,
        archive,
        logs,
        jobs,
        cancel,
    };
    let lab = Arc::new(lab);
    let mut running = JoinSet::new();
    for (place, batch) in batches.into_iter().enumerate() {
        let lab = Arc::clone(&lab);
        running.spawn(async move { (place, lab.run(batch).await) });
    }
    let mut all = running.join_all().await;
    all.sort_by_key(|(place, _)| *place);
    let all: Vec<Results> = all.into_iter().map(|(_, results)| results).collect();
    let (table, passed) = results::table(&all);
    print!("{table}");
    println!("logs: {}", lab.logs.display());
    Ok(passed)
}

/// What all machines of a run share.
struct Lab {
    settings: Settings,
    suite: Suite,
    outer: Outer,
    /// Packages, when a scenario needs an archive.
    archive: Option<TempDir>,
    logs: PathBuf,
    /// A place for each machine that may run.
    jobs: Semaphore,
    deadline: Instant,
    cancel: CancellationToken,
}

impl Lab {
    /// Runs a batch on a machine of its own when there is a place for one. A machine that dies by
    /// itself is run again, once and not in silence: its emulation is not perfect (see
    /// [`machine`]), which says nothing about banger. What a scenario found stays found.
    async fn run(&self, batch: Batch) -> Results {
        let _place = self.jobs.acquire().await;
        let results = self.run_once(&batch).await;
        if !results.died() {
            return results;
        }
        let name = batch.name();
        eprintln!("lab: {name}: the outer machine died in the middle of its scenarios");
        let kept = self.logs.join(format!("{name}-died"));
        if let Err(error) = fs::rename(self.logs.join(&name), &kept) {
            eprintln!("lab: {name}: its logs are not kept: {error}");
        }
        eprintln!(
            "lab: {name}: running it again; the logs are in {}",
            kept.display()
        );
        let mut again = self.run_once(&batch).await;
        again.second_try();
        again
    }

    async fn run_once(&self, batch: &Batch) -> Results {
        let mut results = Results::new(batch.clone());
        if let Err(error) = self.run_into(batch, &mut results).await {
            let words = words(&error);
            eprintln!("lab: {}: {words}", batch.name());
            if let Some(hint) = error.hint_text() {
                eprintln!("lab: {hint}");
            }
            results.trouble(words.lines().next().unwrap_or_default().to_owned());
        }
        results
    }

    async fn run_into(&self, batch: &Batch, results: &mut Results) -> Result<()> {
        let name = batch.name();
        let scratch = scratch(&self.suite)?;
        let logs = self.logs.join(&name);
        fs::create_dir_all(&logs).at("create", &logs)?;
        let archive = self.archive.as_ref().map(TempDir::path);
        let disks = carry::pack(&self.settings, &self.suite, batch, archive, scratch.path())?;
        let run = Run {
            outer: &self.outer,
            disks: &disks,
            console: &logs.join("console.log"),
            deadline: self.deadline,
            cancel: &self.cancel,
        };
        let ended = machine::run(run, &mut |line| {
            if let Some(words) = results.line(line) {
                println!("{name}: {words}");
            }
        })
        .await;
        unpack(&disks.results, &logs);
        ended
    }
}

/// A directory that goes with what is made in it.
fn scratch(suite: &Suite) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("banger-lab-")
        .tempdir_in(&suite.target)
        .at("make a directory in", &suite.target)
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
