//! What would be copied, found without a guest and without writing anything.

use std::collections::HashSet;

use banger_model::{Code, Error, Result};
use sha2::{Digest, Sha256};

use crate::fingerprint::Fingerprint;
use crate::git::shown;
use crate::repository::{GITLINK, Head, Repository, Staged, has_submodules, some, strange};
use crate::tree::{Kind, Seen, Tree};

/// How much of a repository goes into the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The working tree, and the one commit it stands on.
    #[default]
    Overlay,
    /// The working tree, and the whole history: every branch, tag and remote branch.
    FullCopy,
    /// The whole history without any file: a sparse checkout of nothing, which
    /// `git sparse-checkout disable` fills.
    MetadataOnly,
}

/// What to copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How much.
    pub mode: Mode,
    /// Also files that git does not know and does not ignore.
    pub include_untracked: bool,
    /// A branch to be created in the guest and checked out.
    pub branch: Option<String>,
    /// The commit that branch starts at. The guest then gets the clean tree of that commit
    /// instead of the working tree. Needs `branch`.
    pub from: Option<String>,
}

/// One file that would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From the repository's top; any bytes but NUL.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content, or of the link's target. For a commit's tree this is the size in git,
    /// which line ends may change.
    pub size: u64,
    pub(crate) seen: Seen,
}

/// Everything that would be copied, as it was at one moment.
#[derive(Debug)]
pub struct Plan {
    pub(crate) repository: Repository,
    pub(crate) options: Options,
    pub(crate) head: Head,
    pub(crate) from: Option<String>,
    pub(crate) index: Vec<Staged>,
    pub(crate) listing: [u8; 32],
    entries: Vec<Entry>,
    untracked_left_out: u64,
    fingerprint: Fingerprint,
}

impl Repository {
    /// Finds out what would be copied.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] for `from` without `branch`, a branch name that git does not
    /// allow, or a commit that does not exist; [`Code::AlreadyExists`] for a branch that does;
    /// [`Code::Conflict`] for submodules, an unfinished merge, or untracked repositories that
    /// were asked for; [`Code::Io`] when git or a file fails.
    pub fn plan(&self, options: &Options) -> Result<Plan> {
        let from = self.check_branch(options)?;
        let head = self.head()?;
        let (index, listing) = self.index()?;
        let untracked = self.untracked()?;
        let mut plan = Plan {
            repository: self.clone(),
            options: options.clone(),
            head,
            from,
            index,
            listing: Sha256::digest(&listing).into(),
            entries: Vec::new(),
            untracked_left_out: 0,
            fingerprint: Fingerprint::default(),
        };
        match &plan.from {
            Some(commit) => plan.entries = self.entries_of(commit)?,
            None => {
                plan.entries = self.entries(&plan.index, &untracked, options.include_untracked)?;
            }
        }
        if options.mode == Mode::MetadataOnly || plan.from.is_some() || !options.include_untracked {
            plan.untracked_left_out = untracked.len() as u64;
        }
        plan.fingerprint = Fingerprint::of(&plan, &listing);
        if options.mode == Mode::MetadataOnly {
            plan.entries.clear();
        }
        Ok(plan)
    }

    /// The commit of `from`, when everything about the branch is right.
    fn check_branch(&self, options: &Options) -> Result<Option<String>> {
        let Some(branch) = &options.branch else {
            return match &options.from {
                None => Ok(None),
                Some(_) => Err(Error::new(
                    Code::InvalidArgument,
                    "a commit to start from needs a branch to create",
                )
                .hint("name the new branch with `--branch`")),
            };
        };
        let full = format!("refs/heads/{branch}");
        let valid = !branch.starts_with('-') && branch != "HEAD";
        if !valid || !self.git.asks(&["check-ref-format", &full])? {
            let message = format!(
                "`{}` cannot be the name of a branch",
                shown(branch.as_bytes())
            );
            return Err(Error::new(Code::InvalidArgument, message)
                .hint("use letters, digits, `-`, `_`, `.` and `/`"));
        }
        let existing = self
            .git
            .run(&["for-each-ref", "--format=%(refname)", "refs/heads"])?;
        for existing in String::from_utf8_lossy(&existing).lines() {
            let below = |long: &str, short: &str| {
                long.strip_prefix(short)
                    .is_some_and(|rest| rest.starts_with('/'))
            };
            if existing == full || below(existing, &full) || below(&full, existing) {
                let name = existing.trim_start_matches("refs/heads/");
                let message = match existing == full {
                    true => format!("the branch `{name}` exists"),
                    false => format!("`{branch}` cannot be created: the branch `{name}` exists"),
                };
                return Err(Error::new(Code::AlreadyExists, message).hint(
                    "choose another name, or leave `--branch` out to work on what is checked out",
                ));
            }
        }
        let Some(from) = &options.from else {
            return Ok(None);
        };
        let commit = format!("{from}^{{commit}}");
        let verify = ["rev-parse", "--verify", "--quiet", &commit];
        if from.starts_with('-') || from.is_empty() || !self.git.asks(&verify)? {
            let message = format!("there is no commit `{}`", shown(from.as_bytes()));
            return Err(Error::new(Code::InvalidArgument, message).hint(
                "`git branch --all` and `git log` list what there is; `git fetch` brings more",
            ));
        }
        self.git.word(&verify).map(Some)
    }

    /// Files that git neither knows nor ignores; those of other repositories end in a slash.
    fn untracked(&self) -> Result<Vec<Vec<u8>>> {
        let listed = self
            .git
            .run(&["ls-files", "--others", "--exclude-standard", "-z"])?;
        let names = listed
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    fn entries(
        &self,
        index: &[Staged],
        untracked: &[Vec<u8>],
        include_untracked: bool,
    ) -> Result<Vec<Entry>> {
        let mut tree = Tree::open(self.top())?;
        let mut entries = Vec::with_capacity(index.len());
        for staged in index {
            if let Some(seen) = tree.look(&staged.path)? {
                entries.push(Entry::of(staged.path.to_vec(), seen));
            }
        }
        if include_untracked {
            let nested = |name: &&Vec<u8>| name.ends_with(b"/");
            let repositories: Vec<_> = untracked.iter().filter(nested).map(Vec::as_slice).collect();
            if !repositories.is_empty() {
                let message = format!(
                    "`{}` holds other repositories, which cannot be copied: {}",
                    self.top().display(),
                    some(&repositories)
                );
                return Err(Error::new(Code::Conflict, message)
                    .hint("leave `--include-untracked` out, or name them in `.gitignore`"));
            }
            for path in untracked {
                if let Some(seen) = tree.look(path)? {
                    entries.push(Entry::of(path.clone(), seen));
                }
            }
            entries.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        }
        Ok(entries)
    }

    fn entries_of(&self, commit: &str) -> Result<Vec<Entry>> {
        let listed = self
            .git
            .run(&["ls-tree", "-r", "-z", "-l", "--full-tree", commit])?;
        let (mut entries, mut submodules) = (Vec::new(), Vec::new());
        for line in listed
            .split(|byte| *byte == 0)
            .filter(|line| !line.is_empty())
        {
            let tab = line
                .iter()
                .position(|byte| *byte == b'\t')
                .ok_or_else(strange)?;
            let head = std::str::from_utf8(&line[..tab]).map_err(|_| strange())?;
            let path = &line[tab + 1..];
            let words: Vec<_> = head.split_ascii_whitespace().collect();
            let &[mode, _, _, size] = words.as_slice() else {
                return Err(strange());
            };
            let (kind, mode) = match mode {
                GITLINK => {
                    submodules.push(path);
                    continue;
                }
                "120000" => (Kind::Symlink, 0o777),
                "100755" => (Kind::Executable, 0o755),
                _ => (Kind::File, 0o644),
            };
            let seen = Seen {
                kind,
                size: size.parse().map_err(|_| strange())?,
                mode,
                modified: (0, 0),
            };
            entries.push(Entry::of(path.to_vec(), seen));
        }
        match submodules.is_empty() {
            true => Ok(entries),
            false => Err(has_submodules(commit, &submodules)),
        }
    }
}

impl Entry {
    fn of(path: Vec<u8>, seen: Seen) -> Entry {
        Entry {
            path,
            kind: seen.kind,
            size: seen.size,
            seen,
        }
    }
}

impl Plan {
    /// The repository it is about.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// What was asked for.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What is checked out on the host.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The commit that the guest's files stand on: that of `from`, or the host's; absent before
    /// the first commit.
    pub fn base(&self) -> Option<&str> {
        self.from.as_deref().or(self.head.commit.as_deref())
    }

    /// The branch in the guest, such as `refs/heads/main`; absent when a commit itself will be
    /// checked out.
    pub fn branch(&self) -> Option<String> {
        match &self.options.branch {
            Some(branch) => Some(format!("refs/heads/{branch}")),
            None => self.head.branch.clone(),
        }
    }

    /// The files that would go, in order of path; `.git` comes besides.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size).sum()
    }

    /// How many files stay behind because git does not know them. Ignored files do not count.
    pub fn untracked_left_out(&self) -> u64 {
        self.untracked_left_out
    }

    /// What tells later whether the repository has changed since.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Files in the tree that git knows.
    pub(crate) fn present(&self) -> HashSet<&[u8]> {
        self.entries
            .iter()
            .map(|entry| entry.path.as_slice())
            .collect()
    }
}
