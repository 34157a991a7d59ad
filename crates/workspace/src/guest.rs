//! The `.git` of a guest, made in a temporary directory on the host.
//!
//! Nothing is written into the host's repository: objects go from its packs into a new one, the
//! index is copied as it is, so that what is staged, intended, skipped and assumed stays so.
//!
//! Two references of ours say later what has changed in the guest: `refs/banger/base` is the
//! commit its files stand on, `refs/banger/prepared` a commit of the files as they were copied,
//! uncommitted edits included.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, IoContext, Result};
use sha2::{Digest, Sha256};

use crate::config::{self, Settings};
use crate::export::ALTERNATES;
use crate::filters;
use crate::git::{Git, Input, broken, c_quoted};
use crate::plan::{Mode, Plan};
use crate::repository::{Repository, listing};
use crate::stop::Stop;

/// The commit that a guest's files stand on.
pub(crate) const BASE_REF: &str = "refs/banger/base";
/// The files as they were copied.
pub(crate) const PREPARED_REF: &str = "refs/banger/prepared";
/// References that belong to this working tree, to banger, or to a stack that would be cut.
const KEPT_BACK: [&str; 6] = [
    "refs/banger/",
    "refs/stash",
    "refs/bisect/",
    "refs/worktree/",
    "refs/rewritten/",
    "refs/prefetch/",
];
/// Git's view of files on this machine, whatever the guest's configuration says.
pub(crate) const STRICT: [&str; 7] = [
    "core.checkStat=default",
    "core.trustctime=true",
    "core.sparseCheckout=false",
    "core.splitIndex=false",
    "core.compression=0",
    "core.bigFileThreshold=16m",
    // What is made here is temporary.
    "core.fsync=none",
];

/// A guest's `.git` under construction.
pub(crate) struct Guest<'a> {
    plan: &'a Plan,
    /// The host's, as the plan has it, but that git ends when this is given up.
    repository: Repository,
    stop: Stop,
    directory: PathBuf,
    settings: Settings,
}

/// The files as they were copied, as git has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// A commit of them on top of the base.
    pub commit: String,
    /// Its tree.
    pub tree: String,
}

impl<'a> Guest<'a> {
    /// Makes the directory with everything but objects, references and the index.
    /// `stop` ends whatever is done.
    pub(crate) fn new(plan: &'a Plan, directory: PathBuf, stop: &Stop) -> Result<Guest<'a>> {
        let metadata_only = plan.options.mode == Mode::MetadataOnly;
        let repository = plan.repository.under(stop);
        let mut settings = Settings::read(&repository)?;
        if metadata_only {
            settings = settings.sparse();
        } else if plan.from.is_some() {
            settings = settings.without_sparse();
        }
        skeleton(&directory, &settings.text(repository.object_format()))?;
        config::write_info(&repository, &directory, metadata_only)?;
        Ok(Guest {
            plan,
            repository,
            stop: stop.clone(),
            directory,
            settings,
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Git in the guest's repository, with this working tree.
    fn git(&self, tree: &Path) -> Git {
        within(&self.directory, tree).under(&self.stop)
    }

    /// Copies the index and finds the files that git would have to read to know whether they
    /// have changed.
    pub(crate) fn copy_index(&self) -> Result<HashSet<Vec<u8>>> {
        let repository = &self.repository;
        copy_file(
            &repository.git_path("index")?,
            &self.directory.join("index"),
        )?;
        let shared = repository.git.line(&["rev-parse", "--shared-index-path"])?;
        if !shared.is_empty() {
            let shared = repository.top().join(OsStr::from_bytes(&shared));
            if let Some(name) = shared.file_name() {
                copy_file(&shared, &self.directory.join(name))?;
            }
        }
        let git = self.git(repository.top());
        let copied: [u8; 32] = Sha256::digest(listing(&git)?).into();
        if copied != self.plan.listing {
            return Err(moved("the index"));
        }
        let dirty = git.run(&["diff-files", "--name-only", "-z"])?;
        let names = dirty
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    /// Objects, references and the record of what was copied, for a copy of the working tree.
    pub(crate) fn fill(&self, dirty: &HashSet<Vec<u8>>) -> Result<Prepared> {
        self.references()?;
        self.objects()?;
        filters::write(
            self.plan,
            &self.repository,
            &self.settings,
            dirty,
            &self.directory,
        )?;
        let tree = self.snapshot(dirty)?;
        if self.plan.options.mode == Mode::MetadataOnly {
            self.skip_all()?;
        }
        self.record(tree)
    }

    /// Objects, references, the index and the files of a commit, which are written to `tree`.
    pub(crate) fn check_out(&self, commit: &str, tree: &Path) -> Result<Prepared> {
        self.references()?;
        self.objects()?;
        fs::create_dir(tree).at("create", tree)?;
        let git = self.git(tree);
        git.run(&["read-tree", commit])?;
        if self.plan.options.mode == Mode::MetadataOnly {
            self.skip_all()?;
        } else {
            git.run(&["checkout-index", "--all", "--index", "--quiet"])?;
        }
        self.record(git.word(&["rev-parse", &format!("{commit}^{{tree}}")])?)
    }

    /// `HEAD`, `shallow` and all references but ours.
    fn references(&self) -> Result<()> {
        let plan = self.plan;
        let branch = plan.branch();
        let head = match (&branch, plan.base()) {
            (Some(branch), _) => format!("ref: {branch}\n"),
            (None, Some(commit)) => format!("{commit}\n"),
            (None, None) => return Err(Error::internal("there is neither a commit nor a branch")),
        };
        self.write("HEAD", head.as_bytes())?;
        let mut packed = String::from("# pack-refs with: \n");
        if plan.options.mode == Mode::Overlay {
            if let Some(commit) = plan.base() {
                // As it was committed: a shallow clone hides the parents.
                let written = self.repository.git.run(&["cat-file", "commit", commit])?;
                let mut head = written
                    .split(|byte| *byte == b'\n')
                    .take_while(|line| !line.is_empty());
                if head.any(|line| line.starts_with(b"parent ")) {
                    self.write("shallow", format!("{commit}\n").as_bytes())?;
                }
            }
        } else {
            for (name, target) in references(&self.repository)? {
                match target {
                    Target::Object(id) => line(&mut packed, format_args!("{id} {name}\n")),
                    Target::Reference(target) => {
                        self.write(&name, format!("ref: {target}\n").as_bytes())?;
                    }
                }
            }
            let shallow = config::read(&self.repository.git_path("shallow")?)?;
            if !shallow.is_empty() {
                self.write("shallow", &shallow)?;
            }
        }
        if let (Some(branch), Some(commit)) = (&branch, plan.base())
            && (plan.options.mode == Mode::Overlay || plan.options.branch.is_some())
        {
            line(&mut packed, format_args!("{commit} {branch}\n"));
        }
        self.write("packed-refs", packed.as_bytes())
    }

    /// All objects that the guest's references and its index need, as one pack.
    fn objects(&self) -> Result<()> {
        let plan = self.plan;
        let git = &self.repository.git;
        let (mut list, mut tips) = (vec!["rev-list", "--objects", "--stdin"], String::new());
        if plan.options.mode == Mode::Overlay {
            list.push("--no-walk");
        } else {
            for (_, target) in references(&self.repository)? {
                if let Target::Object(id) = target {
                    line(&mut tips, format_args!("{id}\n"));
                }
            }
        }
        if let Some(commit) = plan.base() {
            line(&mut tips, format_args!("{commit}\n"));
        }
        let staged = self.staged_objects()?;
        let select = move |stdin: &mut std::process::ChildStdin| {
            if !tips.is_empty() {
                git.stream(&list, Input::Bytes(tips.as_bytes()), |mut objects| {
                    io::copy(&mut objects, stdin).map_err(|error| broken(&error))?;
                    Ok(())
                })?;
            }
            stdin
                .write_all(staged.as_bytes())
                .map_err(|error| broken(&error))
        };
        // In the guest's repository, so that what it writes goes there.
        let hosts = repository_objects(&self.repository)?;
        let guest = self
            .git(self.repository.top())
            .with(ALTERNATES, OsStr::from_bytes(&hosts))
            .setting(&["pack.compression=0"]);
        let pack = self.directory.join("objects/pack/pack");
        let options = ["pack-objects", "-q", "--delta-base-offset", "--window=0"];
        let arguments: Vec<&OsStr> = options
            .iter()
            .map(OsStr::new)
            .chain([pack.as_os_str()])
            .collect();
        let packed = guest.feed(&arguments, Input::Written(Box::new(select)));
        packed.map(|_| ()).map_err(|error| match is_partial(git) {
            Ok(true) if error.code() == Code::Io => error.hint(
                "the repository is a partial clone that may lack objects; `git fetch --refetch \
                 --no-filter` brings them",
            ),
            _ => error,
        })
    }

    /// Objects of the index, which need not be in any commit.
    fn staged_objects(&self) -> Result<String> {
        let plan = self.plan;
        if plan.from.is_some() {
            return Ok(String::new());
        }
        let empty = self.repository.object_format().empty_blob();
        let mut ids: HashSet<&str> = plan.index.iter().map(|staged| &*staged.id).collect();
        // Stands for a file that is only intended to be added, and need not exist.
        if ids.remove(empty) {
            let tree = self.git(self.repository.top());
            tree.word_of(&["hash-object", "-w", "--stdin"], Input::Bytes(b""))?;
        }
        let mut ids: Vec<_> = ids.into_iter().collect();
        ids.sort_unstable();
        Ok(ids.into_iter().map(|id| format!("{id}\n")).collect())
    }

    /// The tree of the files as they are copied, written into the guest's objects.
    fn snapshot(&self, dirty: &HashSet<Vec<u8>>) -> Result<String> {
        let plan = self.plan;
        let index = self.directory.join("banger-index");
        if self.directory.join("index").exists() {
            copy_file(&self.directory.join("index"), &index)?;
        }
        let git = self
            .git(self.repository.top())
            .with("GIT_INDEX_FILE", &index);
        if plan.options.mode != Mode::MetadataOnly {
            let present = plan.present();
            let listed = |keep: &dyn Fn(&crate::repository::Staged) -> bool| -> Vec<u8> {
                let kept = plan.index.iter().filter(|staged| keep(staged));
                kept.flat_map(|staged| [&*staged.path, b"\0"].concat())
                    .collect()
            };
            let update = |option: &str, paths: &[u8]| match paths.is_empty() {
                true => Ok(()),
                false => {
                    let arguments = ["update-index", option, "-z", "--stdin"];
                    git.feed(&arguments, Input::Bytes(paths)).map(|_| ())
                }
            };
            update(
                "--no-skip-worktree",
                &listed(&|staged| staged.skipped && present.contains(&*staged.path)),
            )?;
            update("--no-assume-unchanged", &listed(&|staged| staged.assumed))?;
            update(
                "--force-remove",
                &listed(&|staged| !staged.skipped && !present.contains(&*staged.path)),
            )?;
            let known = plan
                .index
                .iter()
                .filter(|staged| !staged.skipped && !staged.assumed);
            let known: HashSet<_> = known.map(|staged| &*staged.path).collect();
            let changed = plan.entries().iter().filter(|entry| {
                dirty.contains(&entry.path) || !known.contains(entry.path.as_slice())
            });
            let changed: Vec<u8> = changed
                .flat_map(|entry| [&*entry.path, b"\0"].concat())
                .collect();
            if !changed.is_empty() {
                let add = [
                    "update-index",
                    "--add",
                    "--remove",
                    "--replace",
                    "-z",
                    "--stdin",
                ];
                git.feed(&add, Input::Bytes(&changed))?;
            }
        }
        let tree = git.word(&["write-tree"])?;
        if index.exists() {
            fs::remove_file(&index).at("remove", &index)?;
        }
        Ok(tree)
    }

    /// Marks every file as one the working tree does without.
    fn skip_all(&self) -> Result<()> {
        let git = self.git(self.repository.top());
        let names = git.run(&["ls-files", "-z"])?;
        let skip = ["update-index", "--skip-worktree", "-z", "--stdin"];
        git.feed(&skip, Input::Bytes(&names)).map(|_| ())
    }

    fn record(&self, tree: String) -> Result<Prepared> {
        let git = identified(&self.git(self.repository.top()));
        let mut arguments = vec!["commit-tree", &tree, "-m", "the files as they were copied"];
        if let Some(base) = self.plan.base() {
            arguments.extend(["-p", base]);
            git.run(&["update-ref", BASE_REF, base])?;
        }
        let commit = git.word(&arguments)?;
        git.run(&["update-ref", PREPARED_REF, &commit])?;
        Ok(Prepared { commit, tree })
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        fs::write(&path, content).at("write", &path)
    }
}

/// A repository without objects and references.
pub(crate) fn skeleton(directory: &Path, config: &str) -> Result<()> {
    for name in [
        "objects/pack",
        "objects/info",
        "refs/heads",
        "refs/tags",
        "info",
        "banger",
    ] {
        let path = directory.join(name);
        fs::create_dir_all(&path).at("create", &path)?;
    }
    for (name, content) in [("config", config), ("HEAD", "ref: refs/heads/main\n")] {
        let path = directory.join(name);
        fs::write(&path, content).at("write", &path)?;
    }
    Ok(())
}

/// Git in the repository `directory` with the files of `tree`.
pub(crate) fn within(directory: &Path, tree: &Path) -> Git {
    Git::new(tree)
        .with("GIT_DIR", directory)
        .with("GIT_WORK_TREE", tree)
        .setting(&STRICT)
}

/// The same git, with an author for commits.
pub(crate) fn identified(git: &Git) -> Git {
    git.with("GIT_AUTHOR_NAME", "banger")
        .with("GIT_AUTHOR_EMAIL", "banger@localhost")
        .with("GIT_COMMITTER_NAME", "banger")
        .with("GIT_COMMITTER_EMAIL", "banger@localhost")
}

/// The host's objects, as git reads them from its environment.
pub(crate) fn repository_objects(repository: &Repository) -> Result<Vec<u8>> {
    let path = repository.git_path("objects")?;
    let path = path.canonicalize().at("find", &path)?;
    Ok(c_quoted(path.as_os_str().as_bytes()).into_bytes())
}

fn is_partial(git: &Git) -> Result<bool> {
    git.asks(&["config", "--get-regexp", "^remote\\..*\\.promisor$"])
}

enum Target {
    Object(String),
    Reference(String),
}

/// The references that a whole copy has.
fn references(repository: &Repository) -> Result<Vec<(String, Target)>> {
    let format = "--format=%(objectname) %(refname) %(symref)";
    let listed = repository.git.run(&["for-each-ref", format])?;
    let mut references = Vec::new();
    for reference in String::from_utf8_lossy(&listed).lines() {
        let mut words = reference.split(' ');
        let (Some(id), Some(name), symbolic) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if KEPT_BACK.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let target = match symbolic {
            Some(target) if !target.is_empty() => Target::Reference(target.to_owned()),
            _ => Target::Object(id.to_owned()),
        };
        references.push((name.to_owned(), target));
    }
    Ok(references)
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    let written = text.write_fmt(line);
    debug_assert!(written.is_ok(), "a string takes everything");
}

/// Copies a file with its time; nothing when it is not there.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let mut source = match File::open(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        source => source.at("open", from)?,
    };
    let modified = source
        .metadata()
        .and_then(|stat| stat.modified())
        .at("look at", from)?;
    let mut copy = File::create(to).at("create", to)?;
    io::copy(&mut source, &mut copy).at("copy", from)?;
    copy.set_modified(modified).at("finish", to)
}

/// The repository changed between being looked at and being copied.
pub(crate) fn moved(what: &str) -> Error {
    Error::new(
        Code::Conflict,
        format!("{what} changed while it was copied"),
    )
    .hint("try again when nothing else works in the repository")
}
