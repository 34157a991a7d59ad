//! The daemon's HTTP API: its types and its client.
//!
//! HTTP/1 with JSON over a unix socket. `openapi.json` beside this crate is generated from
//! these types and the daemon's routes; a test holds the two together.

mod client;
mod types;
mod workspace;

pub use client::{Client, Events, Lease};
pub use types::*;
pub use workspace::check_guest_path;
