//! The ground on which the scenario suite stands.
//!
//! Scenarios are black-box tests: they run the real `banger`, the real daemon, the real agent
//! and real guests, as an ordinary user would. Each one lives in a [`World`] of its own, with
//! its own state and runtime directories, so they run side by side and a leak names its
//! culprit.

mod documents;
pub mod files;
pub mod oracle;
pub mod pace;
pub mod plain;
pub mod process;
pub mod proxy;
pub mod pty;
pub mod registry;
pub mod repository;
pub mod runner;
pub mod scenario;
pub mod world;

pub use pace::seconds;
pub use process::{Finished, Running};
pub use scenario::{Class, Need, Scenario};
pub use world::{Base, World};

use std::time::{Duration, Instant};

/// Waits until `condition` holds, looking again every 20 ms: for state of the machine that
/// tells nobody when it changes. The bound is part of the promise under test.
#[track_caller]
pub fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
