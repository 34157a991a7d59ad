//! Objects brought to a git that is to write, and must not know the host's.
//!
//! Git renews the time of an object that it is about to write and finds in a directory that it
//! knows, alternates included. So what writes knows only directories of ours, and gets there what
//! it has to read on the way.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use banger_model::Result;

use crate::git::{Git, Input};
use crate::repository::{GITLINK, strange};

/// Packs the objects `ids` that `from` has into the object directory `objects`.
pub(crate) fn bring(from: &Git, ids: &BTreeSet<String>, objects: &Path) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let list: String = ids.iter().map(|id| format!("{id}\n")).collect();
    let pack = objects.join("pack/pack");
    let options = ["pack-objects", "-q", "--delta-base-offset", "--window=0"];
    let arguments: Vec<&OsStr> = options
        .iter()
        .map(OsStr::new)
        .chain([pack.as_os_str()])
        .collect();
    from.setting(&["pack.compression=0"])
        .feed(&arguments, Input::Bytes(list.as_bytes()))
        .map(|_| ())
}

/// The files of an index that `wanted` names, by their objects.
pub(crate) fn staged(git: &Git, wanted: impl Fn(&[u8]) -> bool) -> Result<BTreeSet<String>> {
    let listed = git.run(&["ls-files", "--stage", "-z"])?;
    let mut ids = BTreeSet::new();
    for line in listed
        .split(|byte| *byte == 0)
        .filter(|line| !line.is_empty())
    {
        let tab = line.iter().position(|byte| *byte == b'\t');
        let tab = tab.ok_or_else(strange)?;
        let head = std::str::from_utf8(&line[..tab]).map_err(|_| strange())?;
        let mut words = head.split(' ');
        let (Some(mode), Some(id)) = (words.next(), words.next()) else {
            return Err(strange());
        };
        if mode != GITLINK && wanted(&line[tab + 1..]) {
            ids.insert(id.to_owned());
        }
    }
    Ok(ids)
}
