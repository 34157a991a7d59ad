//! What was changed in a guest, as a patch.
//!
//! A guest with git makes the patch itself, with [`export_script`]; for one without, the host
//! makes it of the files that were copied out, with [`export_from_tree`]. What is configured has no
//! say in it, and no program but git runs; attributes of the files decide only which of them are
//! text, as for `git diff`.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use banger_model::{Code, Error, IoContext, Result};

use crate::brought;
use crate::config::{self, Settings};
use crate::filters;
use crate::git::{Git, Input, broken, c_quoted, shown};
use crate::guest::{self, Guest};
use crate::plan::{Mode, Plan};
use crate::stop::Stop;
use crate::tree::Tree;

/// What a guest's files are compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// The commit that the files stood on when they were copied; without a record of it, the
    /// guest's `HEAD`. The patch holds everything that commit does not have, uncommitted edits
    /// that were copied in included, and applies to a clean checkout of it.
    #[default]
    Recorded,
    /// The files as they were copied: the patch holds only what was done in the guest, and
    /// applies to the host's working tree as long as that has not changed.
    Prepared,
    /// The guest's `HEAD`: what is not committed there.
    Head,
    /// A commit, by its full id.
    Commit(String),
    /// Nothing: the patch holds every file.
    Empty,
}

/// What to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// A patch for `git apply`.
    #[default]
    Patch,
    /// As `git diff --name-status -z --no-renames`: a letter and a name, each ended by NUL.
    Names,
}

/// An export, as it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// What the files are compared with.
    pub base: Base,
    /// What is printed.
    pub output: Output,
    /// Read every file, even where size and time of modification say that it has not changed:
    /// for a last look before something is deleted.
    pub thorough: bool,
}

/// Object directories that git reads beside its own.
pub(crate) const ALTERNATES: &str = "GIT_ALTERNATE_OBJECT_DIRECTORIES";
const SCRIPT: &str = include_str!("export.sh");

/// The command that makes the export in a guest which has git and the usual tools: run it as the
/// owner of the workspace at `guest_path`. Its standard output is the export, byte for byte; on
/// standard error it names what it leaves out. It changes nothing in the guest.
/// [`export_failure`] explains any exit status but 0.
///
/// # Errors
/// [`Code::InvalidArgument`] when the base is not the full id of a commit.
pub fn export_script(guest_path: &OsStr, export: &Export) -> Result<Vec<OsString>> {
    let base = match &export.base {
        Base::Recorded => "recorded".to_owned(),
        Base::Prepared => "prepared".to_owned(),
        Base::Head => "head".to_owned(),
        Base::Empty => "empty".to_owned(),
        Base::Commit(id) => {
            let digits = id.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !digits || !(4..=64).contains(&id.len()) {
                let message = format!("`{}` is not the id of a commit", shown(id.as_bytes()));
                return Err(Error::new(Code::InvalidArgument, message)
                    .hint("`git rev-parse NAME` prints it"));
            }
            format!("commit:{id}")
        }
    };
    let output = match export.output {
        Output::Patch => "patch",
        Output::Names => "names",
    };
    let look = if export.thorough { "thorough" } else { "quick" };
    let mut command: Vec<OsString> = ["sh", "-c", SCRIPT, "banger-export"]
        .map(OsString::from)
        .into();
    command.push(guest_path.to_owned());
    command.extend([base.as_str(), output, look].map(OsString::from));
    Ok(command)
}

/// Why an export in a guest ended with this exit status, and not 0.
pub fn export_failure(status: i32, stderr: &[u8]) -> Error {
    let said = shown(stderr.trim_ascii_end());
    match status {
        65 | 127 | 129 => Error::new(
            Code::CommandNotFound,
            "the guest has no git that can make a patch",
        ),
        66 => Error::new(Code::NotFound, "there is no workspace in the guest")
            .hint("copy a repository into it with `banger vm workspace prepare`"),
        68 => Error::new(
            Code::Conflict,
            "the workspace in the guest is no git repository any more",
        )
        .hint("copy its files out with `banger vm cp`"),
        67 => Error::new(Code::InvalidArgument, said)
            .hint("a base must be a commit that was copied into the guest or made there"),
        _ if said.contains("No space left") => {
            Error::new(Code::NoSpace, "a disk of the guest is full").hint(
                "delete something in the guest, or enlarge the VM's disk with `banger vm set`",
            )
        }
        _ => Error::new(Code::Io, "the patch cannot be made in the guest")
            .because(format!("exit status {status}: {said}")),
    }
}

/// What files that were copied out of a guest are compared with, on the host.
#[derive(Clone, Copy, Debug)]
pub enum TreeBase<'a> {
    /// A commit of the host's repository, by its full id.
    Commit(&'a str),
    /// The host's working tree as it was when this was planned, and still is.
    WorkingTree,
    /// Nothing.
    Empty,
}

/// Makes the patch on the host, of a workspace's files that were copied out to `tree`; its own
/// `.git`, if it came along, does not count. Writes into `temporary` only, and returns what was
/// left out: repositories inside the workspace. `plan` is a fresh one of the host's repository,
/// made with the options of the copy.
///
/// # Errors
/// [`Code::NotFound`] when the host does not have the commit; [`Code::Conflict`] when the working
/// tree changed since it was planned; [`Code::Io`] when git, a file or `writer` fails.
pub fn export_from_tree(
    plan: &Plan,
    base: TreeBase<'_>,
    tree: &Path,
    temporary: &Path,
    mut writer: impl Write,
) -> Result<Vec<Vec<u8>>> {
    let repository = plan.repository();
    let temporary = tempfile::Builder::new()
        .prefix("banger-export-")
        .tempdir_in(temporary)
        .at("create a directory in", temporary)?;
    let directory = temporary.path().join("git");
    let base = match base {
        TreeBase::Commit(id) => {
            if !repository.has_commit(id)? {
                let message = format!("the repository has no commit `{}`", shown(id.as_bytes()));
                return Err(Error::new(Code::NotFound, message));
            }
            repository
                .git
                .word(&["rev-parse", &format!("{id}^{{tree}}")])?
        }
        TreeBase::Empty => repository.object_format().empty_tree().to_owned(),
        TreeBase::WorkingTree => {
            let guest = Guest::new(plan, temporary.path().join("snapshot"), &Stop::default())?;
            let dirty = guest.copy_index()?;
            let prepared = guest.fill(&dirty)?;
            std::fs::rename(
                guest.directory().join("objects"),
                temporary.path().join("objects"),
            )
            .at("move", guest.directory())?;
            prepared.tree
        }
    };
    let sides = comparing(plan, &directory, temporary.path(), tree)?;
    let left_out = stage(plan, &sides, &base, tree)?;
    let after = sides.writer.word(&["write-tree", "--missing-ok"])?;
    let bare = Git::new(&directory)
        .with("GIT_DIR", &directory)
        .with(ALTERNATES, &sides.objects)
        .setting(&[
            "core.bare=true",
            "core.compression=1",
            "core.attributesFile=/dev/null",
            "diff.suppressBlankEmpty=false",
        ]);
    let diff = [
        "diff-tree",
        "-r",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
        "--no-relative",
        "--submodule=short",
        "--ignore-submodules=none",
        "-p",
        "--binary",
        "--full-index",
        "-M",
        "-l500",
        "--src-prefix=a/",
        "--dst-prefix=b/",
        "-U3",
        "--inter-hunk-context=0",
        &base,
        &after,
    ];
    bare.stream(&diff, Input::Nothing, |mut patch| {
        io::copy(&mut patch, &mut writer).map_err(|error| broken(&error))?;
        Ok(())
    })?;
    writer.flush().map_err(|error| broken(&error))?;
    Ok(left_out)
}

/// Git in a repository of ours with the files that were copied out.
struct Sides {
    /// Knows the host's objects, and so must write none.
    reader: Git,
    /// Knows only ours.
    writer: Git,
    /// Where the reader finds objects.
    objects: OsString,
    directory: PathBuf,
}

/// A repository that has the files of `tree`.
fn comparing(plan: &Plan, directory: &Path, temporary: &Path, tree: &Path) -> Result<Sides> {
    let repository = plan.repository();
    let settings = Settings::read(repository)?.without_sparse();
    guest::skeleton(directory, &settings.text(repository.object_format()))?;
    config::write_info(repository, directory, false)?;
    if plan.from.is_none() && plan.options.mode != Mode::MetadataOnly {
        let dirty = repository.git.run(&["diff-files", "--name-only", "-z"])?;
        let dirty: HashSet<_> = dirty.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        filters::write(plan, repository, &settings, &dirty, directory)?;
    }
    let ours = c_quoted(temporary.join("objects").as_os_str().as_bytes());
    let mut objects = guest::repository_objects(repository)?;
    objects.push(b':');
    objects.extend(ours.as_bytes());
    let objects = OsString::from_vec(objects);
    let git = guest::within(directory, tree);
    Ok(Sides {
        reader: git.with(ALTERNATES, &objects),
        writer: git.with(ALTERNATES, ours),
        objects,
        directory: directory.to_owned(),
    })
}

impl Sides {
    /// Brings the writer what it reads when it stages `changed`, names that each end with NUL:
    /// what they were, since that decides about ends of lines; attributes of files that are not
    /// there; what files that have a filter are in git.
    fn bring(&self, changed: &[u8]) -> Result<()> {
        if changed.is_empty() {
            return Ok(());
        }
        let changed: HashSet<&[u8]> = names(changed).collect();
        let wanted = |name: &[u8]| {
            let base = name.rsplit(|byte| *byte == b'/').next();
            base == Some(b".gitattributes") || changed.contains(name)
        };
        let mut ids = brought::staged(&self.reader, wanted)?;
        ids.extend(filters::known(&self.directory)?);
        brought::bring(&self.reader, &ids, &self.directory.join("objects"))
    }
}

/// Brings the index from `base` to the files of `tree`.
fn stage(plan: &Plan, sides: &Sides, base: &str, top: &Path) -> Result<Vec<Vec<u8>>> {
    let git = &sides.reader;
    git.run(&["read-tree", base])?;
    let mut tree = Tree::open(top)?;
    let known = git.run(&["ls-files", "-z"])?;
    let known: HashSet<&[u8]> = names(&known).collect();
    let mut skipped = Vec::new();
    let all = plan.options.mode == Mode::MetadataOnly;
    let host = plan
        .index
        .iter()
        .filter(|staged| staged.skipped)
        .map(|staged| &*staged.path);
    let host: HashSet<&[u8]> = host.collect();
    for name in &known {
        if (all || host.contains(name)) && tree.look(name)?.is_none() {
            skipped.extend_from_slice(name);
            skipped.push(0);
        }
    }
    let update = |options: &[&str], paths: &[u8]| match paths.is_empty() {
        true => Ok(()),
        false => {
            let arguments = [&["update-index"], options, &["-z", "--stdin"]].concat();
            let fed = sides.writer.feed(&arguments, Input::Bytes(paths));
            fed.map(|_| ())
        }
    };
    update(&["--skip-worktree"], &skipped)?;
    update(
        &["--force-remove"],
        &git.run(&["diff-files", "--name-only", "--diff-filter=D", "-z"])?,
    )?;
    let mut changed = git.run(&["diff-files", "--name-only", "--diff-filter=d", "-z"])?;
    let others = git.run(&["ls-files", "--others", "--exclude-standard", "-z"])?;
    let mut left_out = Vec::new();
    for name in names(&others) {
        if name.ends_with(b"/") {
            left_out.push(name.to_vec());
        } else {
            changed.extend_from_slice(name);
            changed.push(0);
        }
    }
    sides.bring(&changed)?;
    update(&["--add", "--remove", "--replace"], &changed)?;
    Ok(left_out)
}

fn names(listed: &[u8]) -> impl Iterator<Item = &[u8]> {
    listed
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
}
