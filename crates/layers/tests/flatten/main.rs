//! Flattening archives and looking at what came of it, against an independent unpacker.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod corpus;
mod hostile;
mod layering;
mod limits;
mod sparse;
mod support;
mod volume;
