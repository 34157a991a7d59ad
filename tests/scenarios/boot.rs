//! Guests that do not come up: bounded, with what the console said, and nothing left.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use banger_tests::World;

use banger_tests::scenario::{Need, Scenario, pure};
use banger_tests::seconds;

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "boot-guest-panics",
        "a guest that panics is an error with its last words",
        panics,
    ),
    pure(
        "boot-guest-hangs",
        "a guest that hangs is given up in time",
        hangs,
    )
    .with_plain_guests(),
    pure(
        "boot-agent-never-reports",
        "an agent that says nothing is given up in time",
        silent,
    )
    .with_plain_guests(),
    pure(
        "boot-agent-sends-garbage",
        "an agent that sends garbage is refused",
        garbage,
    )
    .with_plain_guests(),
    pure(
        "boot-agent-reports-failure",
        "what the agent could not do is in the error",
        refuses,
    ),
    pure(
        "kvm-proven-once",
        "a kernel that has booted with KVM proves it for the starts to come",
        proven_once,
    )
    .with_plain_guests()
    .needs(&[Need::Kvm]),
];

/// Runs a VM whose agent misbehaves in this way; returns what banger said.
fn run_with(w: &World, mode: &str) -> String {
    let build = &w.base().build;
    let program = build.join("x86_64-unknown-linux-gnu/agent/banger-bad-agent");
    let mine = w.root().join("bad-agent");
    std::fs::copy(&program, &mine)
        .unwrap_or_else(|error| panic!("{}: {error}: run `make bad-agent`", program.display()));
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(&mine)
        .expect("open");
    write!(file, "\nmode={mode}").expect("append the mode");
    drop(file);
    w.use_agent(&mine);
    // Bounds that a person would not wait for; the defaults are longer.
    let patience = patience().as_secs();
    w.configure(&format!("[vm_defaults]\nboot_timeout = {patience}\n"));
    let done = w
        .banger(["vm", "run", "--rm", "--name", "bad", "--", "true"])
        .expect_code(125);
    assert_eq!(w.vms(), [], "nothing is left of it");
    assert_eq!(done.out(), "");
    let err = done.err();
    assert!(
        !err.contains('\x1b'),
        "what the guest says is escaped: {err:?}"
    );
    err
}

/// What a guest has for its start here.
fn patience() -> Duration {
    seconds(12)
}

/// How the message says it.
fn within() -> String {
    format!("within {} s", patience().as_secs())
}

fn panics(w: &World) {
    let err = run_with(w, "panic");
    assert!(
        err.contains("its kernel panicked: Attempted to kill init!"),
        "the reason is named, though its stack trace is longer than the tail:\n{err}"
    );
}

fn hangs(w: &World) {
    let err = run_with(w, "flood");
    assert!(err.contains(&within()), "the bound is named:\n{err}");
    assert!(
        err.contains("last words"),
        "the console's tail is shown:\n{err}"
    );
}

fn silent(w: &World) {
    let err = run_with(w, "silent");
    assert!(err.contains(&within()), "the bound is named:\n{err}");
}

fn garbage(w: &World) {
    for (mode, why) in [
        ("garbage", "the guest agent does not keep its protocol"),
        ("huge", "the guest agent does not keep its protocol"),
        ("close", "the connection to the guest agent broke"),
    ] {
        let err = run_with(w, mode);
        assert!(err.contains(why), "{mode}:\n{err}");
    }
}

fn refuses(w: &World) {
    let err = run_with(w, "refuse");
    assert!(err.contains("the root disk"), "the step is named:\n{err}");
}

fn proven_once(w: &World) {
    let proofs = || {
        ["kvm-probe.json", "kvm-probe.firecracker.json"]
            .map(|name| std::fs::metadata(w.state().join(name)).map(|found| found.ino()))
            .map(Result::ok)
    };
    w.banger(["vm", "run", "--rm", "--", "true"]).ok();
    let first = proofs();
    assert!(first.iter().any(Option::is_some), "nothing was proven");
    w.banger(["vm", "run", "--rm", "--", "true"]).ok();
    // A new answer is a new file.
    assert_eq!(proofs(), first, "it was proven again");
}
