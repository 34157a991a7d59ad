//! Putting a patch into the host's working tree: all of it or nothing.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use banger_model::{Code, Error, IoContext, Result};

use crate::fingerprint::Fingerprint;
use crate::git::{Input, broken};
use crate::repository::Repository;

/// Applies `patch`, a file, to the working tree, which must be as it was when `expected` was
/// taken: the patch is one against [`Base::Prepared`](crate::Base::Prepared) or
/// [`TreeBase::WorkingTree`](crate::TreeBase::WorkingTree). The index stays as it is: the changes
/// are there to be looked at and staged. An empty patch changes nothing.
///
/// Git checks the whole patch before it writes the first file. This is the one place where the
/// user's own filters run, as for any `git apply` of theirs.
///
/// # Errors
/// [`Code::Conflict`] when the repository has changed, when the copy was of a commit and not of
/// the working tree, or when the patch does not fit, with what git says as the cause. Nothing has
/// been changed then.
pub fn apply(repository: &Repository, patch: &Path, expected: &Fingerprint) -> Result<()> {
    let save = "keep the changes as a patch, and apply it with `git apply --3way`";
    if expected.is_of_commit() {
        let message = "the workspace was made of a commit, not of the working tree";
        return Err(Error::new(Code::Conflict, message).hint(save));
    }
    if !repository.is_unchanged(expected)? {
        let message = format!(
            "`{}` has changed since it was copied into the guest",
            repository.top().display()
        );
        return Err(Error::new(Code::Conflict, message).hint(save));
    }
    let file = File::open(patch).at("open", patch)?;
    if file.metadata().at("look at", patch)?.len() == 0 {
        return Ok(());
    }
    let arguments = ["apply", "--whitespace=nowarn", "-"];
    // Git checks everything first, and then writes file by file.
    let ended =
        repository
            .git
            .apart()
            .end(&arguments, Input::From(Stdio::from(file)), |mut stdout| {
                std::io::copy(&mut stdout, &mut std::io::sink()).map_err(|error| broken(&error))?;
                Ok(())
            })?;
    if ended.status.success() {
        return Ok(());
    }
    let failure = repository.git.failure(&arguments, &ended);
    if failure.code() == Code::NoSpace {
        return Err(failure);
    }
    let message = format!("the patch does not fit `{}`", repository.top().display());
    Err(Error::new(Code::Conflict, message)
        .hint(save)
        .because(failure))
}
