//! The daemon over its real socket, each test with a daemon, a state directory and a runtime
//! directory of its own. No guests: those are the scenario suite's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod ground;
mod lifecycle;
mod private;
mod requests;
