//! The scenario suite: black-box tests with real guests.
//!
//! Run by `make test`, or `cargo test -p banger-tests -- FILTER`. The default image and kernel
//! are pulled once, for real, into a base that every scenario's world links to. Set
//! `BANGER_TEST_BASE=keep` to keep that base between runs while developing. The scenarios of Docker
//! take a minute or two and are run by `make test-docker`; elsewhere they are listed as ignored.

mod anyboot;
mod boot;
mod crash;
mod daemon;
mod docker;
mod errors;
mod faults;
mod hostile;
mod images;
mod kernels;
mod lifecycle;
mod oci;
mod reach;
mod review;
mod run;
mod signals;
mod stdio;
mod sync;
mod teardown;
mod tty;
mod verbs;
mod workspace;
mod workspace_copy;

use std::process::ExitCode;
use std::sync::Arc;

use banger_tests::oracle::Snapshot;
use banger_tests::{Base, World};
use libtest_mimic::{Arguments, Trial};

/// A scenario: its name and what it does in a world with that name.
pub(crate) type Scenario = (&'static str, fn(&World));

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let base = Arc::new(Base::locate(env!("CARGO_TARGET_TMPDIR")));
    let groups: &[(&[Scenario], Ground)] = &[
        (run::SCENARIOS, World::new),
        (stdio::SCENARIOS, World::new),
        (tty::SCENARIOS, World::new),
        (signals::SCENARIOS, World::new),
        (lifecycle::SCENARIOS, World::new),
        (verbs::SCENARIOS, World::new),
        (reach::SCENARIOS, World::new),
        (sync::SCENARIOS, World::new),
        (workspace::SCENARIOS, World::new),
        (workspace_copy::SCENARIOS, World::new),
        (review::SCENARIOS, World::new),
        (crash::SCENARIOS, World::new),
        (faults::SCENARIOS, World::new),
        (hostile::SCENARIOS, World::new),
        (boot::SCENARIOS, World::new),
        (teardown::SCENARIOS, World::new),
        (anyboot::SCENARIOS, World::new),
        (docker::SCENARIOS, World::new),
        (daemon::SCENARIOS, World::new),
        (errors::SCENARIOS, World::new),
        (oci::SCENARIOS, World::new),
        (kernels::SCENARIOS, World::new),
        (images::SCENARIOS, World::empty),
    ];
    let trials = groups
        .iter()
        .flat_map(|(scenarios, ground)| scenarios.iter().map(move |scenario| (*scenario, ground)))
        .map(|((name, body), ground)| {
            let base = Arc::clone(&base);
            let trial = Trial::test(name, move || {
                let world = ground(&base, name);
                body(&world);
                world.finish();
                Ok(())
            });
            trial.with_ignored_flag(name.starts_with("docker-"))
        })
        .collect();

    if arguments.list {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    pull_base(&base);
    let before = Snapshot::take();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let leaks = before.differences(&Snapshot::take());
    if !leaks.is_empty() {
        eprintln!("the suite changed the machine: {leaks:#?}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// How a world is prepared.
type Ground = fn(&Base, &str) -> World;

/// Pulls the default image and kernel once, as a user's first command would.
fn pull_base(base: &Base) {
    let keep = std::env::var_os("BANGER_TEST_BASE").is_some_and(|value| value == "keep");
    if keep && base.artifacts.join("images").exists() {
        eprintln!("BANGER_TEST_BASE=keep: using the image and kernel of an earlier run");
        return;
    }
    eprintln!("pulling the default image and kernel");
    let world = World::empty(base, "base");
    // One run fills every cache: image, kernel, initramfs and disk templates.
    let done = world.banger(["vm", "run", "--rm", "--", "true"]).ok();
    eprint!("{}", done.err());
    world.banger(["daemon", "stop"]).ok();
    world.keep();
}
