//! The daemon over its real socket, each test with a daemon, a state directory and a runtime
//! directory of its own. Guests, where there are any, are no real ones (`examples/fake-vmm.rs`):
//! those are the scenario suite's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod crashes;
mod ground;
mod growth;
mod guests;
mod images;
mod lifecycle;
mod load;
mod private;
mod requests;
mod sync;
mod workspaces;
