//! Keeping work under a reference of the host's repository, where nothing else changes.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;

use banger_model::{Code, Error, IoContext, Result};

use crate::brought;
use crate::config::Settings;
use crate::export::ALTERNATES;
use crate::git::{Git, Input, c_quoted, quoted, shown};
use crate::guest::{self, identified, repository_objects};
use crate::repository::{Repository, strange};

/// How many saves of one VM there may be in a second.
const MANY: u32 = 1000;

/// Work that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRef {
    /// The reference, such as `refs/banger/box/20260102T030405Z`.
    pub reference: String,
    /// The commit it names.
    pub commit: String,
    /// The command that brings the work into the working tree, for a shell.
    pub restore: String,
}

/// Keeps `patch`, a file, as a commit on top of `base`, the full id of a commit; without one, of
/// nothing. Only objects and one new reference below `refs/banger/VM/` are written. `temporary`
/// is an existing directory. An empty patch is kept as well.
///
/// # Errors
/// [`Code::NotFound`] when the repository does not have `base`; [`Code::Conflict`] when the patch
/// is not one against `base`; [`Code::Io`] and [`Code::NoSpace`] when git fails.
pub fn save_ref(
    repository: &Repository,
    vm_name: &str,
    base: Option<&str>,
    patch: &Path,
    temporary: &Path,
) -> Result<SavedRef> {
    if let Some(base) = base
        && !repository.has_commit(base)?
    {
        let message = format!(
            "`{}` no longer has the commit `{}`",
            repository.top().display(),
            shown(base.as_bytes())
        );
        return Err(Error::new(Code::NotFound, message).hint("keep the changes as a patch"));
    }
    let temporary = tempfile::Builder::new()
        .prefix("banger-save-")
        .tempdir_in(temporary)
        .at("create a directory in", temporary)?;
    let commit = commit(repository, vm_name, base, patch, temporary.path())?;
    let reference = name(repository, vm_name, &commit)?;
    let directory = quoted(&repository.top().to_string_lossy());
    let restore = match base {
        Some(_) => format!("git -C {directory} cherry-pick --no-commit {reference}"),
        None => format!("git -C {directory} checkout {reference} -- ."),
    };
    Ok(SavedRef {
        reference,
        commit,
        restore,
    })
}

/// Makes the commit in a repository of ours, and adds what is new of it to the host's as one
/// pack: written there directly, it would renew the times of objects that are there already.
fn commit(
    repository: &Repository,
    vm_name: &str,
    base: Option<&str>,
    patch: &Path,
    temporary: &Path,
) -> Result<String> {
    let format = repository.object_format();
    let (directory, old) = (temporary.join("git"), temporary.join("old"));
    guest::skeleton(&directory, &Settings::default().text(format))?;
    let path = old.join("pack");
    fs::create_dir_all(&path).at("create", &path)?;
    let git = guest::within(&directory, temporary);
    let reader = git.with(
        ALTERNATES,
        OsStr::from_bytes(&repository_objects(repository)?),
    );
    let writer = git.with(ALTERNATES, c_quoted(old.as_os_str().as_bytes()));
    reader.run(&["read-tree", base.unwrap_or(format.empty_tree())])?;
    let open = || File::open(patch).at("open", patch);
    let mut ids: BTreeSet<String> = base.map(str::to_owned).into_iter().collect();
    let is_empty = open()?.metadata().at("look at", patch)?.len() == 0;
    if !is_empty {
        // An index of the files that the patch changes, as they were.
        let touched = temporary.join("touched");
        let mut list = OsString::from("--build-fake-ancestor=");
        list.push(&touched);
        let arguments = [OsStr::new("apply"), &list, OsStr::new("-")];
        let listed = reader.feed(&arguments, Input::From(Stdio::from(open()?)));
        listed.map_err(misfit)?;
        let touched = reader.with("GIT_INDEX_FILE", &touched);
        ids.extend(brought::staged(&touched, |_| true)?);
    }
    brought::bring(&reader, &ids, &old)?;
    if !is_empty {
        let apply = ["apply", "--cached", "--whitespace=nowarn", "-"];
        let applied = writer.feed(&apply, Input::From(Stdio::from(open()?)));
        applied.map_err(misfit)?;
    }
    let tree = writer.word(&["write-tree", "--missing-ok"])?;
    let message = format!("Work of the VM {vm_name}, saved by banger");
    let mut arguments = vec!["commit-tree", &tree, "-m", &message];
    if let Some(base) = base {
        arguments.extend(["-p", base]);
    }
    let commit = identified(&writer).word(&arguments)?;
    add(repository, base, &git)?;
    Ok(commit)
}

/// Adds the objects of `git` to the repository, but for those of `base`.
fn add(repository: &Repository, base: Option<&str>, git: &Git) -> Result<()> {
    let all = [
        "cat-file",
        "--batch-all-objects",
        "--batch-check=%(objectname)",
    ];
    let all = git.word(&all)?;
    let mut new: BTreeSet<&str> = all.lines().collect();
    if let Some(base) = base {
        let tree = repository
            .git
            .word(&["rev-parse", &format!("{base}^{{tree}}")])?;
        let below = repository.git.run(&["ls-tree", "-r", "-t", "-z", &tree])?;
        for line in below
            .split(|byte| *byte == 0)
            .filter(|line| !line.is_empty())
        {
            let mut words = line.splitn(4, |byte| matches!(byte, b' ' | b'\t'));
            let id = words.nth(2).and_then(|id| std::str::from_utf8(id).ok());
            new.remove(id.ok_or_else(strange)?);
        }
        new.remove(tree.as_str());
    }
    let list: String = new.iter().map(|id| format!("{id}\n")).collect();
    let pack = ["pack-objects", "-q", "--stdout"];
    let git = git.setting(&["pack.compression=-1"]);
    git.stream(&pack, Input::Bytes(list.as_bytes()), |pack| {
        let arguments = ["index-pack", "--stdin"];
        let taken = repository.git.feed(&arguments, Input::From(pack.into()));
        taken.map(|_| ())
    })
}

fn misfit(error: Error) -> Error {
    match error.code() {
        Code::Io => {
            let message = "the changes do not fit the commit they are said to be based on";
            Error::new(Code::Conflict, message).because(error)
        }
        _ => error,
    }
}

/// Gives the commit a name that nothing has.
fn name(repository: &Repository, vm_name: &str, commit: &str) -> Result<String> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let first = format!("refs/banger/{vm_name}/{now}");
    let absent = "0".repeat(commit.len());
    for number in 1..MANY {
        let reference = match number {
            1 => first.clone(),
            number => format!("{first}-{number}"),
        };
        if repository
            .git
            .asks(&["show-ref", "--verify", "--quiet", &reference])?
        {
            continue;
        }
        match repository
            .git
            .run(&["update-ref", &reference, commit, &absent])
        {
            Ok(_) => return Ok(reference),
            // Somebody else took it since.
            Err(error) if error.chain().contains("already exists") => {}
            Err(error) => return Err(error),
        }
    }
    let message = format!("there is no free name for a reference like `{first}`");
    Err(Error::new(Code::Conflict, message))
}
