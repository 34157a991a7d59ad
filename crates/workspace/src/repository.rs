//! A repository on the host, and whether it is one that can be copied.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, IoContext, Result};

use crate::git::{Git, quoted, shown};
use crate::stop::Stop;

/// The mode of a submodule in an index or a tree.
pub(crate) const GITLINK: &str = "160000";

/// A repository with a working tree on this machine. Looking at it writes nothing.
#[derive(Clone, Debug)]
pub struct Repository {
    top: PathBuf,
    format: ObjectFormat,
    pub(crate) git: Git,
}

/// How a repository names its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectFormat {
    /// 40 hexadecimal digits.
    Sha1,
    /// 64 hexadecimal digits.
    Sha256,
}

impl ObjectFormat {
    /// As git calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            ObjectFormat::Sha1 => "sha1",
            ObjectFormat::Sha256 => "sha256",
        }
    }

    pub(crate) fn empty_blob(self) -> &'static str {
        match self {
            ObjectFormat::Sha1 => "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
            ObjectFormat::Sha256 => {
                "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813"
            }
        }
    }

    pub(crate) fn empty_tree(self) -> &'static str {
        match self {
            ObjectFormat::Sha1 => "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
            ObjectFormat::Sha256 => {
                "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
            }
        }
    }

    pub(crate) fn is_id(self, id: &str) -> bool {
        let length = match self {
            ObjectFormat::Sha1 => 40,
            ObjectFormat::Sha256 => 64,
        };
        id.len() == length && id.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

/// One entry of the index.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    /// Whether the working tree does without the file (`skip-worktree`).
    pub(crate) skipped: bool,
    /// Whether git is told not to look for changes (`assume-unchanged`).
    pub(crate) assumed: bool,
    pub(crate) id: Box<str>,
    pub(crate) path: Box<[u8]>,
}

/// What is checked out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The commit; absent before the first one.
    pub commit: Option<String>,
    /// The branch, such as `refs/heads/main`; absent when the commit itself is checked out.
    pub branch: Option<String>,
}

impl Repository {
    /// Opens the repository whose top directory is `path`, for being copied.
    ///
    /// # Errors
    /// As [`find`](Self::find); [`Code::Conflict`] when it has submodules or an unfinished merge,
    /// which cannot be copied.
    pub fn open(path: &Path) -> Result<Repository> {
        let repository = Repository::find(path)?;
        repository.index()?;
        Ok(repository)
    }

    /// Finds the repository whose top directory is `path`, whatever state it is in: enough to
    /// save work in it.
    ///
    /// # Errors
    /// [`Code::MissingProgram`] without git 2.30 or newer; [`Code::NotFound`] when there is
    /// nothing at `path`; [`Code::InvalidArgument`] when it is no repository, a bare one, or in
    /// the middle of one; [`Code::Unsafe`] when git does not trust it.
    pub fn find(path: &Path) -> Result<Repository> {
        Git::check()?;
        let path = match path.canonicalize() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let message = format!("`{}` does not exist", path.display());
                return Err(Error::new(Code::NotFound, message));
            }
            found => found.at("find", path)?,
        };
        let said = path.display();
        if !path.is_dir() {
            let message = format!("`{said}` is not a directory");
            return Err(Error::new(Code::InvalidArgument, message)
                .hint("give the top directory of a git repository"));
        }
        let git = Git::new(&path);
        let question = ["rev-parse", "--is-bare-repository", "--is-inside-work-tree"];
        let mut answer = Vec::new();
        let ended = git.end(&question, crate::git::Input::Nothing, |mut stdout| {
            let read = std::io::Read::read_to_end(&mut stdout, &mut answer);
            read.map_err(|error| crate::git::broken(&error)).map(|_| ())
        })?;
        if !ended.status.success() {
            if ended.stderr.contains("not a git repository") {
                return Err(no_repository(&path));
            }
            return Err(git.failure(&question, &ended));
        }
        let answer = String::from_utf8_lossy(&answer);
        if !answer.ends_with("true\n") {
            let bare = answer.starts_with("true");
            let what = if bare {
                "a bare repository"
            } else {
                "inside a `.git` directory"
            };
            let message = format!("`{said}` is {what}: there are no files to copy");
            return Err(Error::new(Code::InvalidArgument, message)
                .hint("give the top directory of a clone or worktree of it"));
        }
        let top = PathBuf::from(OsStr::from_bytes(
            &git.line(&["rev-parse", "--show-toplevel"])?,
        ));
        if top.canonicalize().at("find", &top)? != path {
            let message = format!("`{said}` is inside the repository at `{}`", top.display());
            let hint = format!("give its top directory: {}", quoted(&top.to_string_lossy()));
            return Err(Error::new(Code::InvalidArgument, message).hint(hint));
        }
        let format = match git.word(&["rev-parse", "--show-object-format"])?.as_str() {
            "sha1" => ObjectFormat::Sha1,
            "sha256" => ObjectFormat::Sha256,
            other => {
                let message = format!("`{said}` has objects of an unknown format, `{other}`");
                return Err(Error::new(Code::InvalidArgument, message));
            }
        };
        Ok(Repository {
            top: path,
            format,
            git,
        })
    }

    /// The same, whose git is ended by `stop`.
    pub(crate) fn under(&self, stop: &Stop) -> Repository {
        Repository {
            git: self.git.under(stop),
            ..self.clone()
        }
    }

    /// The top directory, absolute, without links.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// How it names its objects.
    pub fn object_format(&self) -> ObjectFormat {
        self.format
    }

    /// Whether it has this commit.
    ///
    /// # Errors
    /// [`Code::Io`] when git fails.
    pub fn has_commit(&self, id: &str) -> Result<bool> {
        Ok(self.format.is_id(id)
            && self
                .git
                .asks(&["cat-file", "-e", &format!("{id}^{{commit}}")])?)
    }

    /// What is checked out.
    ///
    /// # Errors
    /// [`Code::Io`] when git fails.
    pub fn head(&self) -> Result<Head> {
        let verify = ["rev-parse", "--verify", "--quiet", "HEAD^{commit}"];
        let commit = match self.git.asks(&verify)? {
            true => Some(self.git.word(&verify)?),
            false => None,
        };
        let symbolic = ["symbolic-ref", "--quiet", "HEAD"];
        let branch = match self.git.asks(&symbolic)? {
            true => Some(self.git.word(&symbolic)?),
            false => None,
        };
        Ok(Head { commit, branch })
    }

    /// Where git keeps `name` for this working tree.
    pub(crate) fn git_path(&self, name: &str) -> Result<PathBuf> {
        let path = self.git.line(&["rev-parse", "--git-path", name])?;
        Ok(self.top.join(OsStr::from_bytes(&path)))
    }

    /// Everything staged, in order of path, and the listing it was read from.
    pub(crate) fn index(&self) -> Result<(Vec<Staged>, Vec<u8>)> {
        let listing = listing(&self.git)?;
        let mut staged = Vec::new();
        let (mut submodules, mut unmerged) = (Vec::new(), Vec::new());
        for line in listing
            .split(|byte| *byte == 0)
            .filter(|line| !line.is_empty())
        {
            let tab = line
                .iter()
                .position(|byte| *byte == b'\t')
                .ok_or_else(strange)?;
            let head = std::str::from_utf8(&line[..tab]).map_err(|_| strange())?;
            let path = &line[tab + 1..];
            let mut words = head.split(' ');
            let mut word = || words.next().ok_or_else(strange);
            let (tag, mode, id, stage) = (word()?, word()?, word()?, word()?);
            if mode == GITLINK {
                submodules.push(path);
            }
            if stage != "0" && unmerged.last() != Some(&path) {
                unmerged.push(path);
            }
            staged.push(Staged {
                skipped: tag.eq_ignore_ascii_case("s"),
                assumed: tag.starts_with(|tag: char| tag.is_ascii_lowercase()),
                id: id.into(),
                path: path.into(),
            });
        }
        if !submodules.is_empty() {
            return Err(has_submodules(&self.top.to_string_lossy(), &submodules));
        }
        if !unmerged.is_empty() {
            let message = format!(
                "`{}` has an unfinished merge: {}",
                self.top.display(),
                some(&unmerged)
            );
            return Err(Error::new(Code::Conflict, message)
                .hint("resolve the conflicts and `git add` the files, or `git merge --abort`"));
        }
        Ok((staged, listing))
    }
}

/// The index as text.
pub(crate) fn listing(git: &Git) -> Result<Vec<u8>> {
    git.run(&["ls-files", "-v", "--stage", "-z"])
}

pub(crate) fn has_submodules(what: &str, names: &[&[u8]]) -> Error {
    let message = format!(
        "`{what}` has submodules, which cannot be copied: {}",
        some(names)
    );
    Error::new(Code::Conflict, message).hint(
        "give the submodule's own directory as the repository, or copy the whole directory as \
         plain files with `banger vm cp`",
    )
}

/// The first few of many names.
pub(crate) fn some(names: &[&[u8]]) -> String {
    const FEW: usize = 3;
    let few: Vec<_> = names
        .iter()
        .take(FEW)
        .map(|name| format!("`{}`", shown(name)))
        .collect();
    match names.len().saturating_sub(FEW) {
        0 => few.join(", "),
        more => format!("{} and {more} more", few.join(", ")),
    }
}

pub(crate) fn strange() -> Error {
    Error::internal("git answered in a form that is not known")
}

fn no_repository(path: &Path) -> Error {
    let message = format!("`{}` is not a git repository", path.display());
    Error::new(Code::InvalidArgument, message).hint(
        "give the top directory of one, or make one there with `git init` and `git add`; plain \
         directories are copied with `banger vm cp`",
    )
}
