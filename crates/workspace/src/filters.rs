//! Files that a filter of the host's changes on their way into git, such as those of Git LFS.
//!
//! The guest gets them as they are in the working tree, but not the filter: it is a program of
//! the host's. In its place stands a table from the content of each unchanged file to the object
//! that git has for it, so that the guest's git sees what the host's sees. A file that is edited
//! in the guest is stored as it is, and nothing of it is lost. Exports always go by the table,
//! also where the guest has a filter of the same name.
//!
//! What git itself would have to read to know whether it has changed counts as edited: to read
//! it would be to run the filter.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use banger_model::{IoContext, Result};

use crate::config::Settings;
use crate::git::{Input, c_quoted};
use crate::plan::Plan;
use crate::repository::{Repository, strange};
use crate::tree::Kind;

/// Stands for a filter's `clean`: the known object for known content, else the content.
const SCRIPT: &str = r#"set -eu
d=$(git rev-parse --absolute-git-dir)/banger
t=$(mktemp "$d/clean.XXXXXX")
trap 'rm -f "$t"' EXIT
trap 'exit 1' HUP INT TERM PIPE
cat >"$t"
id=$(git hash-object --no-filters "$t")
if [ -f "$d/clean/$id" ]; then
    git cat-file blob "$(cat "$d/clean/$id")"
else
    cat "$t"
fi
"#;

/// Writes the table below `directory`, the guest's `.git`, for all files but those in `dirty`.
pub(crate) fn write(
    plan: &Plan,
    repository: &Repository,
    settings: &Settings,
    dirty: &HashSet<Vec<u8>>,
    directory: &Path,
) -> Result<()> {
    if settings.drivers.is_empty() {
        return Ok(());
    }
    let table = directory.join("banger/clean");
    fs::create_dir_all(&table).at("create", &table)?;
    let script = directory.join("banger/clean.sh");
    fs::write(&script, SCRIPT).at("write", &script)?;
    let present = plan.present();
    let clean = plan
        .entries()
        .iter()
        .filter(|entry| entry.kind != Kind::Symlink);
    let clean: Vec<u8> = clean
        .filter(|entry| !dirty.contains(&entry.path))
        .flat_map(|entry| [entry.path.as_slice(), b"\0"].concat())
        .collect();
    let git = &repository.git;
    let said = git.feed(
        &["check-attr", "-z", "--stdin", "filter"],
        Input::Bytes(&clean),
    )?;
    let mut fields = said.split(|byte| *byte == 0);
    let mut filtered = HashSet::new();
    while let (Some(path), Some(_), Some(driver)) = (fields.next(), fields.next(), fields.next()) {
        if settings
            .drivers
            .iter()
            .any(|known| known.as_bytes() == driver)
        {
            filtered.insert(path);
        }
    }
    let files: Vec<_> = plan
        .index
        .iter()
        .filter(|staged| filtered.contains(&*staged.path))
        .collect();
    let files: Vec<_> = files
        .into_iter()
        .filter(|staged| present.contains(&*staged.path))
        .collect();
    let names: String = files
        .iter()
        .map(|staged| c_quoted(&staged.path) + "\n")
        .collect();
    let ids = git.feed(
        &["hash-object", "--no-filters", "--stdin-paths"],
        Input::Bytes(names.as_bytes()),
    )?;
    let ids = String::from_utf8(ids).map_err(|_| strange())?;
    for (staged, id) in files.iter().zip(ids.lines()) {
        if *staged.id != *id && repository.object_format().is_id(id) {
            let path = table.join(id);
            fs::write(&path, staged.id.as_bytes()).at("write", &path)?;
        }
    }
    Ok(())
}

/// The objects that the table below `directory` leads to.
pub(crate) fn known(directory: &Path) -> Result<Vec<String>> {
    let table = directory.join("banger/clean");
    if !table.exists() {
        return Ok(Vec::new());
    }
    let mut ids = Vec::new();
    for entry in fs::read_dir(&table).at("read", &table)? {
        let path = entry.at("read", &table)?.path();
        ids.push(fs::read_to_string(&path).at("read", &path)?);
    }
    Ok(ids)
}
