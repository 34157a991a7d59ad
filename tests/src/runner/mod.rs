//! Runs scenarios, some side by side, and says how each ended.
//!
//! The lines `PASS name (time)`, `FAIL name (time)` and `SKIP name (reason)` are for people and
//! for the lab; the closing line is the one that `cargo test` prints.

mod arguments;
mod child;
mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::oracle::Snapshot;
use crate::scenario::{Need, Place, Scenario};
use crate::world::BASE;
use crate::{Base, World, pace, plain};

use arguments::Arguments;
use queue::{Next, Queue};

/// Bad usage, such as the name of no scenario.
const USAGE: u8 = 2;
/// Nothing ran: automake's code for a test that was skipped.
const SKIPPED: u8 = 77;

/// How a scenario ended.
enum Ending {
    Passed(Duration),
    /// With what it said.
    Failed(Duration, String),
    /// With the reason.
    Skipped(String),
}

/// The suite as a program. `ground` is where worlds are made unless `--ground` says otherwise.
pub fn main(suite: &[Scenario], ground: &str) -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(name) = twice(suite) {
        panic!("there are two scenarios `{name}`");
    }
    let ground = arguments.ground.clone().unwrap_or_else(|| ground.into());
    let mut base = Base::locate(ground);
    base.vmm = arguments.vmm.clone();
    if let Some(name) = &arguments.here {
        let scenario = suite.iter().find(|scenario| scenario.name == name);
        return here(scenario.expect("the runner names what it knows"), &base);
    }
    let chosen = match arguments.select(suite) {
        Ok(chosen) => chosen,
        Err(words) => {
            eprintln!("scenarios: {words}");
            return ExitCode::from(USAGE);
        }
    };
    if arguments.list {
        list(&chosen);
        return ExitCode::SUCCESS;
    }
    if arguments.pull {
        pull_base(&base);
        return ExitCode::SUCCESS;
    }
    let place = Place {
        vmm: arguments.vmm.clone(),
        offline: arguments.offline,
        archive: arguments.archive,
        slower: pace::factor(),
        named: arguments.scenario.clone(),
    };
    pull_base(&base);
    let before = Snapshot::take();
    let left_out = suite.len() - chosen.len();
    let mut tally = run(chosen, &base, &place, arguments.jobs);
    let leaks = before.differences(&Snapshot::take());
    if !leaks.is_empty() {
        println!("the suite changed the machine: {leaks:#?}");
        tally.failed.push("(the machine after the suite)");
    }
    tally.close(left_out)
}

/// A name that two scenarios have: their worlds would be one.
fn twice(suite: &[Scenario]) -> Option<&'static str> {
    let mut seen = BTreeSet::new();
    let mut names = suite
        .iter()
        .flat_map(|scenario| [&[scenario.name], scenario.also].concat());
    names.find(|name| !seen.insert(*name))
}

fn list(suite: &[Scenario]) {
    for scenario in suite {
        let names = [&[scenario.name], scenario.also].concat().join(", ");
        let needs: Vec<String> = scenario.needs.iter().map(Need::to_string).collect();
        let needs = match needs.is_empty() {
            true => String::new(),
            false => format!(" (needs {})", needs.join(", ")),
        };
        println!(
            "{names:<36} {:<12} {}{needs}",
            scenario.class.name(),
            scenario.about
        );
    }
}

/// Runs one in this process. A panic ends it with 101, after its message.
fn here(scenario: &Scenario, base: &Base) -> ExitCode {
    let world = (scenario.ground)(base, scenario.name);
    (scenario.body)(&world);
    world.finish();
    ExitCode::SUCCESS
}

/// What has become of the scenarios.
struct Tally {
    begun: Instant,
    passed: usize,
    skipped: usize,
    failed: Vec<&'static str>,
}

impl Tally {
    fn count(&mut self, scenario: &Scenario, ending: Ending) {
        let name = scenario.name;
        match ending {
            Ending::Passed(took) => {
                self.passed += 1;
                println!("PASS {name} ({})", child::shown(took));
            }
            Ending::Skipped(reason) => {
                self.skipped += 1;
                println!("SKIP {name} ({reason})");
            }
            Ending::Failed(took, said) => {
                self.failed.push(name);
                println!("FAIL {name} ({})", child::shown(took));
                for line in said.lines() {
                    println!("  | {line}");
                }
            }
        }
    }

    fn close(self, left_out: usize) -> ExitCode {
        if !self.failed.is_empty() {
            println!("\nfailed: {}", self.failed.join(", "));
        }
        println!(
            "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; {left_out} filtered \
             out; finished in {:.2}s",
            if self.failed.is_empty() {
                "ok"
            } else {
                "FAILED"
            },
            self.passed,
            self.failed.len(),
            self.skipped,
            self.begun.elapsed().as_secs_f64()
        );
        if !self.failed.is_empty() {
            ExitCode::FAILURE
        } else if self.passed == 0 {
            ExitCode::from(SKIPPED)
        } else {
            ExitCode::SUCCESS
        }
    }
}

/// What the workers share.
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Which scenario runs as which process.
    running: Mutex<BTreeMap<&'static str, Pid>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no worker panics")
}

impl Shared {
    /// The next scenario, when one may begin.
    fn next(&self) -> Option<Scenario> {
        let mut queue = locked(&self.queue);
        loop {
            match queue.next() {
                Next::Run(scenario) => return Some(scenario),
                Next::Done => return None,
                Next::Wait => queue = self.changed.wait(queue).expect("no worker panics"),
            }
        }
    }

    fn ended(&self, scenario: &Scenario) {
        locked(&self.queue).ended(scenario.class);
        self.changed.notify_all();
    }

    fn note(&self, scenario: &Scenario, pid: Option<Pid>) {
        let mut running = locked(&self.running);
        match pid {
            Some(pid) => running.insert(scenario.name, pid),
            None => running.remove(scenario.name),
        };
    }
}

fn run(chosen: Vec<Scenario>, base: &Base, place: &Place, jobs: u16) -> Tally {
    let mut tally = Tally {
        begun: Instant::now(),
        passed: 0,
        skipped: 0,
        failed: Vec::new(),
    };
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue::new(chosen)),
        changed: Condvar::new(),
        running: Mutex::default(),
    });
    end_all_on_signals(Arc::clone(&shared), base.clone());
    thread::scope(|scope| {
        let (sender, endings) = mpsc::channel();
        for _ in 0..jobs {
            let (shared, sender) = (&shared, sender.clone());
            scope.spawn(move || {
                while let Some(scenario) = shared.next() {
                    let ending = match scenario.unmet(place) {
                        Some(reason) => Ending::Skipped(reason),
                        None => child::run(&scenario, base, |pid| shared.note(&scenario, pid)),
                    };
                    shared.ended(&scenario);
                    sender.send((scenario, ending)).expect("somebody counts");
                }
            });
        }
        drop(sender);
        for (scenario, ending) in endings {
            tally.count(&scenario, ending);
        }
    });
    tally
}

/// Ctrl-C ends what the scenarios have started, too.
fn end_all_on_signals(shared: Arc<Shared>, base: Base) {
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).expect("catch a signal");
            let mut terminate = signal(SignalKind::terminate()).expect("catch a signal");
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        for (name, pid) in locked(&shared.running).iter() {
            child::end(&base, name, *pid);
        }
        std::process::exit(130);
    };
    thread::spawn(body);
}

/// Pulls the default image and kernel once, as a user's first command would.
fn pull_base(base: &Base) {
    let keep = std::env::var_os("BANGER_TEST_BASE").is_some_and(|value| value == "keep");
    let again = keep && base.artifacts.join("images").exists();
    let world = if again {
        println!("BANGER_TEST_BASE=keep: using the image and kernel of an earlier run");
        World::again(base, BASE)
    } else {
        println!("pulling the default image and kernel");
        World::empty(base, BASE)
    };
    // One run fills every cache: image, kernel, initramfs and disk templates, and whether this
    // machine's KVM works.
    let done = world.banger(["vm", "run", "--rm", "--", "true"]).ok();
    print!("{}", done.err());
    world.banger(["daemon", "stop"]).ok();
    world.keep();
    // Made of the other one, and so kept only with it; its name is the last thing it gets.
    if !(again && base.plain.join("images/names").join(plain::IMAGE).exists()) {
        println!("making the image without an init system");
        let world = World::new(base, plain::WORLD);
        plain::make(&world);
        world.banger(["daemon", "stop"]).ok();
        world.keep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::pure;

    fn suite() -> Vec<Scenario> {
        let one = |name| pure(name, "", |_| {});
        vec![one("one"), one("two-two"), one("other").also(&["another"])]
    }

    fn selected(line: &[&str]) -> Result<Vec<&'static str>, String> {
        let arguments = Arguments::try_parse_from([&["scenarios"], line].concat());
        let chosen = arguments.expect("a good line").select(&suite())?;
        Ok(chosen.iter().map(|scenario| scenario.name).collect())
    }

    #[test]
    fn names_are_exact_and_filters_are_parts() {
        assert_eq!(selected(&[]).unwrap(), ["one", "two-two", "other"]);
        assert_eq!(selected(&["o"]).unwrap(), ["one", "two-two", "other"]);
        assert_eq!(selected(&["t"]).unwrap(), ["two-two", "other"]);
        assert_eq!(
            selected(&["--scenario", "other,one"]).unwrap(),
            ["one", "other"]
        );
        assert_eq!(selected(&["--test-threads=1", "tw"]).unwrap(), ["two-two"]);
        assert_eq!(
            selected(&["--scenario", "two_two,another"]).unwrap(),
            ["two-two", "other"]
        );
        let unknown = selected(&["--scenario", "one,on"]).unwrap_err();
        assert!(unknown.contains("`on`"), "{unknown}");
        assert!(selected(&["nothing"]).unwrap_err().contains("nothing"));
    }

    #[test]
    fn names_are_given_once() {
        assert_eq!(twice(&suite()), None);
        let more = [suite(), vec![pure("another", "", |_| {})]].concat();
        assert_eq!(twice(&more), Some("another"));
    }

    #[test]
    fn the_exit_code_says_what_happened() {
        let code = |passed, skipped, failed: &[&'static str]| {
            let tally = Tally {
                begun: Instant::now(),
                passed,
                skipped,
                failed: failed.into(),
            };
            format!("{:?}", tally.close(0))
        };
        let is = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(code(1, 1, &[]), is(0));
        assert_eq!(code(1, 1, &["x"]), is(1));
        assert_eq!(code(0, 3, &[]), is(SKIPPED));
    }
}
