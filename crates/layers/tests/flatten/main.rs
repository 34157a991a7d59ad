//! Flattening archives and looking at what came of it, against an independent unpacker.

mod corpus;
mod hostile;
mod limits;
mod sparse;
mod support;
mod volume;
