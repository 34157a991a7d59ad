//! The daemon aborts at the n-th side effect of an operation, for every n until the operation
//! finishes untouched: afterwards each VM is absent or usable, and nothing is left over.

use std::time::{Duration, Instant};

use banger_tests::{Finished, Running, World};
use rustix::process::{Signal, kill_process};

use banger_tests::scenario::{Need, Scenario, pure};
use banger_tests::seconds;

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "crash-create",
        "the daemon aborts at any step of `create`, and no VM is left half-made",
        |w| aborts(w, &CREATE),
    )
    .needs(&[Need::QuickBoots]),
    pure(
        "crash-start",
        "the daemon aborts at any step of `start`, and no VM is left half-made",
        |w| aborts(w, &START),
    )
    .with_plain_guests()
    .needs(&[Need::QuickBoots]),
    pure(
        "crash-stop",
        "the daemon aborts at any step of `stop`, and no VM is left half-made",
        |w| aborts(w, &STOP),
    )
    .with_plain_guests()
    .needs(&[Need::QuickBoots]),
    pure(
        "crash-restart",
        "the daemon aborts at any step of `restart`, and no VM is left half-made",
        |w| aborts(w, &RESTART),
    )
    .with_plain_guests()
    .needs(&[Need::QuickBoots]),
    pure(
        "crash-kill",
        "the daemon aborts at any step of `kill`, and no VM is left half-made",
        |w| aborts(w, &KILL),
    )
    .with_plain_guests()
    .needs(&[Need::QuickBoots]),
    pure(
        "crash-set",
        "the daemon aborts at any step of `set`, and no VM is left half-made",
        |w| aborts(w, &SET),
    )
    .with_plain_guests()
    .needs(&[Need::QuickBoots]),
    pure(
        "crash-delete",
        "the daemon aborts at any step of `delete`, and no VM is left half-made",
        |w| aborts(w, &DELETE),
    )
    .with_plain_guests()
    .needs(&[Need::QuickBoots]),
    pure(
        "crash-steps-fail",
        "a step that fails is undone",
        steps_fail,
    )
    .with_plain_guests()
    .needs(&[Need::QuickBoots]),
    pure(
        "crash-hung-steps",
        "a step that hangs blocks nobody else",
        hung_steps,
    )
    .with_plain_guests()
    .needs(&[Need::QuickBoots]),
];

/// How soon a daemon that is started again must answer.
fn answers_within() -> Duration {
    seconds(5)
}

/// An operation and how to bring a VM to where it begins.
struct Operation {
    /// As the daemon names it.
    kind: &'static str,
    /// What a person types; the VM is `torn`.
    command: &'static [&'static str],
    /// Whether the VM exists, and whether it runs, before.
    before: Before,
    /// The fewest side effects it is known to have: fewer would mean that some are not covered.
    least: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Before {
    Absent,
    Stopped,
    Running,
}

const CREATE: Operation = Operation {
    kind: "create-vm",
    command: &["vm", "create", "--name", "torn"],
    before: Before::Absent,
    least: 8,
};
const START: Operation = Operation {
    kind: "start-vm",
    command: &["vm", "start", "torn"],
    before: Before::Stopped,
    least: 3,
};
const STOP: Operation = Operation {
    kind: "stop-vm",
    command: &["vm", "stop", "torn"],
    before: Before::Running,
    least: 2,
};
const RESTART: Operation = Operation {
    kind: "restart-vm",
    command: &["vm", "restart", "torn"],
    before: Before::Running,
    least: 4,
};
const KILL: Operation = Operation {
    kind: "kill-vm",
    command: &["vm", "kill", "torn"],
    before: Before::Running,
    least: 2,
};
const SET: Operation = Operation {
    kind: "set-vm",
    command: &["vm", "set", "torn", "--vcpu", "2", "--disk-size", "9G"],
    before: Before::Stopped,
    least: 2,
};
const DELETE: Operation = Operation {
    kind: "delete-vm",
    command: &["vm", "delete", "torn"],
    before: Before::Stopped,
    least: 3,
};

/// Runs `banger` so that the daemon it starts has this fault.
fn faulty(w: &World, variable: &str, step: &str, args: &[&str]) -> Running {
    w.banger(["daemon", "stop"]).ok();
    let mut command = w.banger_command(args);
    command.env(variable, step);
    Running::start(command, None)
}

/// Brings `torn` to where the operation begins.
fn prepare(w: &World, before: Before) {
    let state = w
        .vms()
        .into_iter()
        .find(|(name, _)| name == "torn")
        .map(|(_, state)| state);
    match (before, state.as_deref()) {
        (Before::Absent, Some(_)) => drop(w.banger(["vm", "delete", "torn"]).ok()),
        (Before::Absent, None) => {}
        (Before::Stopped, None) => {
            w.banger(["vm", "create", "--no-start", "--name", "torn"])
                .ok();
        }
        (Before::Stopped, Some("running")) => drop(w.banger(["vm", "kill", "torn"]).ok()),
        (Before::Running, None) => drop(w.banger(["vm", "create", "--name", "torn"]).ok()),
        (Before::Running, Some("stopped")) => drop(w.banger(["vm", "start", "torn"]).ok()),
        _ => {}
    }
}

/// After a new daemon has looked at the system: absent, or boots and runs commands.
fn absent_or_usable(w: &World, when: &str) {
    let begun = Instant::now();
    let vms = w.vms();
    assert!(
        begun.elapsed() < answers_within(),
        "{when}: {:?}",
        begun.elapsed()
    );
    for (name, state) in vms {
        assert_eq!(name, "torn", "{when}");
        assert!(
            ["stopped", "running", "starting"].contains(&state.as_str()),
            "{when}: {state}"
        );
        w.banger(["vm", "start", "torn"]).ok();
        let done = w
            .banger(["vm", "exec", "torn", "--", "echo", "usable"])
            .ok();
        assert_eq!(done.out(), "usable\n", "{when}");
    }
}

fn aborts(w: &World, operation: &Operation) {
    let mut points = 0;
    loop {
        let n = points + 1;
        prepare(w, operation.before);
        let step = format!("{}:{n}", operation.kind);
        let done = faulty(w, "BANGER_TEST_ABORT", &step, operation.command).finish();
        if done.code() == 0 {
            break;
        }
        let when = format!("aborted at {step}");
        said_that_the_daemon_went(&done, &when);
        absent_or_usable(w, &when);
        points = n;
        assert!(points < 100, "it never ends");
    }
    println!("{}: {points} side effects", operation.kind);
    assert!(
        points >= operation.least,
        "{points} side effects of {}, there were {}",
        operation.kind,
        operation.least
    );
    w.banger(["daemon", "stop"]).ok();
    if !w.vms().is_empty() {
        w.banger(["vm", "delete", "torn"]).ok();
    }
}

fn said_that_the_daemon_went(done: &Finished, when: &str) {
    assert_eq!(done.code(), 1, "{when}: {}", done.err());
    assert!(done.err().contains("daemon"), "{when}: {}", done.err());
}

/// Each step as an I/O error instead: the operation fails, undoes itself, and what cannot be
/// undone is listed as broken and can be deleted.
fn steps_fail(w: &World) {
    for operation in [&CREATE, &START, &SET, &DELETE] {
        let mut n = 1;
        loop {
            prepare(w, operation.before);
            let step = format!("{}:{n}", operation.kind);
            let before = failures(w);
            let done = faulty(w, "BANGER_TEST_FAIL", &step, operation.command).finish();
            // Undone by the daemon itself, not by the next one.
            let states = w.vms();
            let when = format!("{step} failed");
            if failures(w) == before {
                assert_eq!(done.code(), 0, "{when}: {}", done.err());
                assert!(n > operation.least, "only {n} steps of {}", operation.kind);
                break;
            }
            if let Some((_, state)) = states.first() {
                let fine = match operation.kind {
                    // A step that an operation can do without.
                    _ if done.code() == 0 => state == "stopped" || state == "running",
                    "create-vm" => state == "broken",
                    "delete-vm" => state == "broken" || state == "stopped",
                    _ => state == "stopped" || state == "running",
                };
                assert!(fine, "{when}: {state}\n{}", done.err());
                if state == "broken" {
                    let refused = w.banger(["vm", "start", "torn"]).expect_code(1);
                    assert!(refused.err().contains("delete"), "{}", refused.err());
                    // The next daemon finishes a removal by itself, so nobody need ask again.
                    w.banger(["daemon", "stop"]).ok();
                    if !w.vms().is_empty() {
                        w.banger(["vm", "delete", "torn"]).ok();
                    }
                    assert_eq!(w.vms(), [], "{when}");
                }
            }
            n += 1;
            assert!(n < 100, "it never ends");
        }
    }
    w.banger(["daemon", "stop"]).ok();
    for (name, _) in w.vms() {
        w.banger(["vm", "delete", &name]).ok();
    }
}

/// How many steps the daemons of this world have made fail so far.
fn failures(w: &World) -> usize {
    let log = std::fs::read_to_string(w.state().join("bangerd.log")).unwrap_or_default();
    log.matches("failing, as the test wants").count()
}

/// A step that never ends, and a daemon that is killed in it.
fn hung_steps(w: &World) {
    for (operation, step) in [
        (&CREATE, 2),
        (&CREATE, 6),
        (&START, 2),
        (&STOP, 1),
        (&DELETE, 2),
    ] {
        prepare(w, operation.before);
        let step = format!("{}:{step}", operation.kind);
        let hung = faulty(w, "BANGER_TEST_HANG", &step, operation.command);
        // Readers never wait for it.
        let begun = Instant::now();
        let pid = w.daemon_pid();
        assert!(begun.elapsed() < seconds(2), "{step}");
        kill_process(pid, Signal::KILL).expect("kill the daemon");
        said_that_the_daemon_went(&hung.finish(), &step);
        let begun = Instant::now();
        drop(w.vms());
        assert!(begun.elapsed() < answers_within(), "{step}");
        absent_or_usable(w, &step);
        let begun = Instant::now();
        if !w.vms().is_empty() {
            w.banger(["vm", "delete", "torn"]).ok();
        }
        assert!(begun.elapsed() < seconds(10), "{step}");
    }
}
