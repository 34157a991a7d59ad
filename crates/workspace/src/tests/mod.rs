//! From the host into a guest and back.

mod guest;
mod host;
mod states;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use banger_model::Code;

use crate::testing::{Pair, files, git, git_in, put, text};
use crate::{
    Base, Export, Fingerprint, Mode, Options, Output, Repository, TreeBase, apply, export_failure,
    export_from_tree, save_ref,
};

fn round_trip(pair: &Pair) {
    let (_, summary) = pair.prepare(&Options::default());
    pair.same_picture();
    back(pair, summary.base.as_deref());
}

/// What is in the guest comes out of it, against the base and against what was copied.
fn back(pair: &Pair, base: Option<&str>) {
    let patch = pair.export(Base::Recorded);
    assert_eq!(pair.applied(base, &patch), files(&pair.guest()));
    let none = pair.export(Base::Prepared);
    assert_eq!(String::from_utf8_lossy(&none), "");
}
