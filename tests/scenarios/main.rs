//! The scenario suite: black-box tests with real guests.
//!
//! Run by `make test`, `make smoke SCENARIO=a,b` and, inside an emulated machine, `make lab`. The default image and kernel
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
mod network;
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

use banger_tests::Scenario;

/// The registry, in the order in which they run.
const SUITE: &[&[Scenario]] = &[
    run::SCENARIOS,
    network::SCENARIOS,
    stdio::SCENARIOS,
    tty::SCENARIOS,
    signals::SCENARIOS,
    lifecycle::SCENARIOS,
    verbs::SCENARIOS,
    reach::SCENARIOS,
    sync::SCENARIOS,
    workspace::SCENARIOS,
    workspace_copy::SCENARIOS,
    review::SCENARIOS,
    crash::SCENARIOS,
    faults::SCENARIOS,
    hostile::SCENARIOS,
    boot::SCENARIOS,
    teardown::SCENARIOS,
    anyboot::SCENARIOS,
    docker::SCENARIOS,
    daemon::SCENARIOS,
    errors::SCENARIOS,
    oci::SCENARIOS,
    kernels::SCENARIOS,
    images::SCENARIOS,
];

fn main() -> ExitCode {
    banger_tests::runner::main(&SUITE.concat(), env!("CARGO_TARGET_TMPDIR"))
}
