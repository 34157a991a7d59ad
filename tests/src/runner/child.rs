//! One scenario in a process of its own: its output is kept apart, its end is bounded, and
//! nothing of it disturbs another.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::oracle::end_processes_of;
use crate::process::ends_within;
use crate::scenario::Scenario;
use crate::world::{ground_of, runtime_of};
use crate::{Base, pace};

use super::Ending;

/// The most a scenario may take; a hang is a failure with what it said.
const LIMIT_S: u64 = 15 * 60;
/// How much of its output is shown, from the end.
const SHOWN: u64 = 64 << 10;

/// Runs one in a process of its own.
pub(super) fn run(scenario: &Scenario, base: &Base, running: impl Fn(Option<Pid>)) -> Ending {
    let begun = Instant::now();
    let mut output = tempfile(base, scenario);
    let again = |file: &File| Stdio::from(file.try_clone().expect("duplicate a descriptor"));
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    command
        .args(["--here", scenario.name, "--ground"])
        .arg(&base.ground)
        .args(base.vmm.iter().flat_map(|vmm| ["--vmm", vmm]))
        .stdin(Stdio::null())
        .stdout(again(&output))
        .stderr(again(&output));
    // SAFETY: prctl is async-signal-safe and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
    let mut child = command.spawn().expect("run this program");
    let pid = Pid::from_child(&child);
    running(Some(pid));
    let limit = pace::seconds(LIMIT_S);
    let hung = !ends_within(pid, limit);
    if hung {
        end(base, scenario.name, pid);
    }
    let status = child.wait().expect("wait for a scenario");
    running(None);
    let took = begun.elapsed();
    if status.success() {
        return Ending::Passed(took);
    }
    remove_sockets(scenario.name, pid);
    let mut said = read_end(&mut output);
    if hung {
        said += &format!("\nit did not end within {limit:?} and was killed\n");
    } else if status.code() != Some(101) {
        // Not a panic, which has said what it is.
        said += &format!("\nits process ended with {status}\n");
    }
    Ending::Failed(took, said)
}

/// Ends a scenario that runs as process `pid`, and everything it has started.
pub(super) fn end(base: &Base, name: &str, pid: Pid) {
    // It may have ended by itself since.
    kill_process(pid, Signal::KILL).ok();
    end_processes_of(&[&ground_of(base, name), &runtime_of(pid, name)]);
    remove_sockets(name, pid);
}

/// Whoever looks for the reason of a failure finds files in the world's own directory; what is
/// in the other one are sockets.
fn remove_sockets(name: &str, pid: Pid) {
    let runtime = runtime_of(pid, name);
    if runtime.exists() {
        std::fs::remove_dir_all(&runtime).expect("remove a runtime directory");
    }
}

/// A file without a name, so that a process that outlives the scenario holds nobody up.
fn tempfile(base: &Base, scenario: &Scenario) -> File {
    let path = base.ground.join(format!("{}.output", scenario.name));
    let file = File::options()
        .read(true)
        .append(true)
        .create(true)
        .open(&path)
        .unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
    std::fs::remove_file(&path).expect("remove the name of a file");
    file
}

fn read_end(file: &mut File) -> String {
    let length = file.metadata().expect("the size of a file").len();
    file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)))
        .expect("seek");
    let mut bytes = Vec::new();
    file.take(SHOWN).read_to_end(&mut bytes).expect("read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A time as it is printed.
pub(super) fn shown(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}
