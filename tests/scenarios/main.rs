//! The scenario suite: black-box tests with real guests.
//!
//! Run by `make test`, or `cargo test -p banger-tests -- FILTER`. The default image and kernel
//! are pulled once, for real, into a base that every scenario's world links to. Set
//! `BANGER_TEST_BASE=keep` to keep that base between runs while developing. The scenarios of Docker
//! take a minute or two and are run by `make test-docker`; elsewhere they are skipped.

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

use banger_tests::{Base, Class, Need, World};

/// A scenario: its name and what it does in a world with that name.
pub(crate) type Scenario = (&'static str, fn(&World));

/// How a world is prepared.
type Ground = fn(&Base, &str) -> World;

fn main() -> ExitCode {
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
    let suite: Vec<banger_tests::Scenario> = groups
        .iter()
        .flat_map(|(scenarios, ground)| scenarios.iter().map(move |scenario| (*scenario, *ground)))
        .map(|((name, body), ground)| banger_tests::Scenario {
            name,
            about: "",
            class: Class::Pure,
            needs: if name.starts_with("docker-") {
                &[Need::ToBeNamed]
            } else {
                &[]
            },
            ground,
            body,
        })
        .collect();
    banger_tests::runner::main(&suite, env!("CARGO_TARGET_TMPDIR"))
}
