//! Keeping work under a reference of the host's repository, where nothing else changes.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use banger_model::{Code, Error, IoContext, Result};

use crate::git::{Input, quoted, shown};
use crate::guest::identified;
use crate::repository::Repository;

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
    let index = temporary.path().join("index");
    let git = repository.git.with("GIT_INDEX_FILE", index);
    let git = git.setting(&["core.splitIndex=false", "core.sparseCheckout=false"]);
    git.run(&[
        "read-tree",
        base.unwrap_or(repository.object_format().empty_tree()),
    ])?;
    let file = File::open(patch).at("open", patch)?;
    if file.metadata().at("look at", patch)?.len() > 0 {
        let apply = ["apply", "--cached", "--whitespace=nowarn", "-"];
        git.feed(&apply, Input::From(Stdio::from(file)))
            .map_err(|error| match error.code() {
                Code::Io => {
                    let message = "the changes do not fit the commit they are said to be based on";
                    Error::new(Code::Conflict, message).because(error)
                }
                _ => error,
            })?;
    }
    let tree = git.word(&["write-tree"])?;
    let message = format!("Work of the VM {vm_name}, saved by banger");
    let mut commit = vec!["commit-tree", &tree, "-m", &message];
    if let Some(base) = base {
        commit.extend(["-p", base]);
    }
    let commit = identified(&git).word(&commit)?;
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
