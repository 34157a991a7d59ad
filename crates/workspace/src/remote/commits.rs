//! Keeping commits of a guest's that no patch of its files holds: other branches, tags, the stash.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, IoContext, Result};

use super::file::{OutputFile, keep_file};
use super::run::Answer;
use super::{Origin, Remote, blocking, tame};
use crate::git::{Input, quoted};
use crate::guest::BASE_REF;
use crate::repository::Repository;

/// How much of its references a guest may list, in bytes.
const MAX_LISTED: usize = 4 << 20;

/// Commits that were kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The file, a git bundle.
    pub file: PathBuf,
    /// The command that brings them into the repository, for a shell: below `refs/banger/`.
    pub restore: String,
}

impl Remote {
    /// Keeps the commits of references other than the branch that is checked out, as far as the
    /// host's repository does not have them, as a file in the directory `kept`. Returns `None`
    /// when there are none, or the guest has no git. `temporary` is an existing directory.
    ///
    /// # Errors
    /// [`Code::AgentFailed`] when the guest hangs or goes away; [`Code::Io`] and
    /// [`Code::NoSpace`] when the bundle cannot be made or kept. Nothing is kept then.
    pub(super) async fn save_commits(
        &self,
        origin: &Origin,
        vm_name: &str,
        kept: &Path,
        temporary: &Path,
    ) -> Result<Option<Bundle>> {
        let mut listed = Answer::within(MAX_LISTED);
        let list = [
            "for-each-ref",
            "--format=%(HEAD) %(objectname) %(refname)",
            "refs/heads",
            "refs/tags",
            "refs/stash",
        ];
        let ended = self.run(self.git(&list), &mut listed).await?;
        if ended.status != 0 {
            // There is no git, or no repository: no commits that anybody could tell.
            return Ok(None);
        }
        if listed.0.len() >= MAX_LISTED {
            let message = format!("the guest lists more than {MAX_LISTED} bytes of references");
            return Err(Error::new(Code::AgentFailed, message));
        }
        let repository = origin.repository.clone();
        let unknown = blocking(move || unknown(&repository, &listed.0)).await?;
        if unknown.is_empty() {
            return Ok(None);
        }
        let directory = tempfile::Builder::new()
            .prefix("banger-bundle-")
            .tempdir_in(temporary)
            .at("create a directory in", temporary)?;
        let file = directory.path().join("bundle");
        let mut arguments = vec!["bundle", "create", "--quiet", "-"];
        arguments.extend(unknown.iter().map(String::as_str));
        if self.base().await?.is_some() {
            arguments.extend(["--not", BASE_REF]);
        }
        let mut bundle = OutputFile::create(&file, "commits on other branches")?;
        let ended = self.run(self.git(&arguments), &mut bundle).await?;
        if ended.status != 0 {
            let said = tame(&String::from_utf8_lossy(&ended.said));
            let message = "the commits on other branches of the guest cannot be read";
            return Err(Error::new(Code::Io, message).because(said));
        }
        bundle.finish().await?;
        let (kept, name) = (kept.to_owned(), vm_name.to_owned());
        let file = blocking(move || keep_file(&file, &kept, &name, "bundle")).await?;
        let word = |path: &Path| quoted(&path.to_string_lossy());
        let restore = format!(
            "git -C {} fetch {} 'refs/*:refs/banger/{vm_name}/*'",
            word(&origin.repository),
            word(&file)
        );
        drop(directory);
        Ok(Some(Bundle { file, restore }))
    }
}

/// The references whose commits the host does not have; all of them when there is no host's
/// repository any more. The guest's word is taken for nothing else than that.
fn unknown(repository: &Path, listed: &[u8]) -> Result<Vec<String>> {
    let text = String::from_utf8_lossy(listed);
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.get(2..).unwrap_or_default().splitn(2, ' ');
        let (id, name) = (words.next().unwrap_or_default(), words.next());
        let is_id = matches!(id.len(), 40 | 64) && id.bytes().all(|b| b.is_ascii_hexdigit());
        match name.filter(|name| name.starts_with("refs/")) {
            // The work on the branch that is checked out is in the patch.
            Some(name) if is_id && !line.starts_with('*') => found.push((id, name)),
            _ => {}
        }
    }
    let Ok(repository) = Repository::find(repository) else {
        return Ok(found.into_iter().map(|(_, name)| name.to_owned()).collect());
    };
    let ids: BTreeSet<&str> = found.iter().map(|(id, _)| *id).collect();
    let question: String = ids.iter().map(|id| format!("{id}\n")).collect();
    let check = ["cat-file", "--batch-check=%(objectname)"];
    let answer = repository
        .git
        .feed(&check, Input::Bytes(question.as_bytes()))?;
    let answer = String::from_utf8_lossy(&answer);
    let missing: BTreeSet<&str> = answer
        .lines()
        .filter_map(|line| line.strip_suffix(" missing"))
        .collect();
    let names = found.into_iter().filter(|(id, _)| missing.contains(id));
    Ok(names.map(|(_, name)| name.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pair, text};

    #[test]
    fn only_what_the_host_lacks_counts() {
        let pair = Pair::filled();
        let head = text(&pair.host(), "rev-parse HEAD");
        let (new, one) = ("a".repeat(40), "1".repeat(40));
        let listed = format!(
            "* {new} refs/heads/main\n  {head} refs/heads/old\n  {one} refs/heads/work\n  \
             {new} refs/stash\n  --all refs/heads/evil\n  {new} --upload-pack=x\n"
        );
        let known = unknown(&pair.host(), listed.as_bytes()).unwrap();
        assert_eq!(known, ["refs/heads/work", "refs/stash"]);
        // Without a repository there is nothing that could have them.
        let all = unknown(Path::new("/nonexistent"), listed.as_bytes()).unwrap();
        assert_eq!(all, ["refs/heads/old", "refs/heads/work", "refs/stash"]);
    }
}
