//! Repositories for tests, and a directory that plays the guest.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Ended, Stdio};

use banger_guest_api::archive::{Owner, Unpack, unpack};

use crate::{Base, Export, Options, Plan, Repository, Summary, export_script};

/// Host and guest side by side in one temporary directory.
pub(crate) struct Pair {
    place: tempfile::TempDir,
}

/// A tree as it must be, byte for byte: mode and content, or a link's target.
pub(crate) type Files = BTreeMap<Vec<u8>, (u32, Vec<u8>)>;

pub(crate) fn git_in(directory: &Path) -> Command {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"GIT_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("LC_ALL", "C")
        .args([
            "-c",
            "user.name=Tester",
            "-c",
            "user.email=tester@localhost",
        ]);
    command
}

/// Runs git with words; fails the test when git fails.
pub(crate) fn git(directory: &Path, arguments: &str) -> Vec<u8> {
    let words: Vec<_> = arguments.split(' ').collect();
    let ended = git_in(directory).args(&words).output().unwrap();
    assert!(
        ended.status.success(),
        "git {arguments}: {}{}",
        String::from_utf8_lossy(&ended.stdout),
        String::from_utf8_lossy(&ended.stderr)
    );
    ended.stdout
}

pub(crate) fn text(directory: &Path, arguments: &str) -> String {
    String::from_utf8(git(directory, arguments))
        .unwrap()
        .trim()
        .to_owned()
}

impl Pair {
    /// An empty repository.
    pub(crate) fn empty() -> Pair {
        Pair::with("init -q -b main")
    }

    pub(crate) fn with(init: &str) -> Pair {
        let place = tempfile::tempdir().unwrap();
        let pair = Pair { place };
        fs::create_dir(pair.host()).unwrap();
        fs::create_dir(pair.at("temporary")).unwrap();
        git(&pair.host(), init);
        pair
    }

    /// A repository with a little of everything, and two commits.
    pub(crate) fn filled() -> Pair {
        let pair = Pair::empty();
        pair.fill();
        pair
    }

    pub(crate) fn fill(&self) {
        self.write("README", b"first\n");
        git(&self.host(), "add -A");
        git(&self.host(), "commit -qm first");
        for (name, content) in [
            (b"README".as_slice(), b"second\n".as_slice()),
            (b"dir/a.txt", b"a\nb\nc\n"),
            (b"dir/sub/b.bin", b"\0\x01\xff\0binary"),
            (b"empty", b""),
            (b"crlf.txt", b"one\r\ntwo\r\n"),
            (b"-dash", b"dash\n"),
            (b"a \"quoted\"\nname", b"q\n"),
            (b"latin-\xe9", b"l\n"),
            (b"no-newline", b"end"),
        ] {
            self.write_bytes(name, content);
        }
        self.write("run.sh", b"#!/bin/sh\n");
        self.chmod("run.sh", 0o755);
        std::os::unix::fs::symlink("dir/a.txt", self.host().join("link")).unwrap();
        std::os::unix::fs::symlink("/nowhere", self.host().join("dangling")).unwrap();
        self.write(".gitignore", b"ignored\n*.o\n");
        self.write("ignored", b"never\n");
        git(&self.host(), "add -A");
        git(&self.host(), "commit -qm second");
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub(crate) fn host(&self) -> PathBuf {
        self.at("host")
    }

    pub(crate) fn guest(&self) -> PathBuf {
        self.at("guest")
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        self.write_bytes(name.as_bytes(), content);
    }

    pub(crate) fn write_bytes(&self, name: &[u8], content: &[u8]) {
        put(&self.host().join(OsStr::from_bytes(name)), content);
    }

    pub(crate) fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.host().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn repository(&self) -> Repository {
        Repository::open(&self.host()).unwrap()
    }

    pub(crate) fn plan(&self, options: &Options) -> Plan {
        self.repository().plan(options).unwrap()
    }

    /// Copies into the guest, and checks that the host did not change.
    pub(crate) fn prepare(&self, options: &Options) -> (Plan, Summary) {
        let before = everything(&self.host());
        let plan = self.plan(options);
        let mut archive = Vec::new();
        let summary = plan
            .write_archive(&self.at("temporary"), &mut archive)
            .unwrap();
        assert_same(
            &before,
            &everything(&self.host()),
            "the host's repository was written",
        );
        assert_eq!(fs::read_dir(self.at("temporary")).unwrap().count(), 0);
        if self.guest().exists() {
            fs::remove_dir_all(self.guest()).unwrap();
        }
        let parent = fs::File::open(self.place.path()).unwrap();
        let to = Unpack {
            parent: parent.as_fd(),
            name: OsStr::new("guest"),
            shown: &self.guest(),
            owner: Owner::Caller,
            only_directory: true,
        };
        assert_eq!(unpack(archive.as_slice(), &to).unwrap(), summary.copied);
        git(&self.guest(), "fsck --strict --no-dangling");
        (plan, summary)
    }

    /// What git says of both sides must be the same.
    pub(crate) fn same_picture(&self) {
        for question in [
            "status --porcelain=v2 -z",
            "diff --binary",
            "diff --cached --binary",
            "ls-files -v --stage -z",
        ] {
            let (host, guest) = (git(&self.host(), question), git(&self.guest(), question));
            let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(show(&host), show(&guest), "{question}");
        }
    }

    /// Runs the export in the guest, and checks that the guest did not change.
    pub(crate) fn try_export(&self, export: &Export) -> Ended {
        let before = everything_in_guest(&self.guest());
        let command = export_script(self.guest().as_os_str(), export).unwrap();
        let ended = run(&command);
        assert_same(
            &before,
            &everything_in_guest(&self.guest()),
            "the export changed the guest",
        );
        ended
    }

    /// The patch, which must not depend on how closely the files are looked at.
    pub(crate) fn export(&self, base: Base) -> Vec<u8> {
        let [quick, thorough] = [false, true].map(|thorough| {
            let ended = self.try_export(&Export {
                base: base.clone(),
                thorough,
                ..Export::default()
            });
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.success(), "{said}");
            ended.stdout
        });
        let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(show(&quick), show(&thorough));
        thorough
    }

    /// Applies a patch to a clean checkout of a commit of the host's; gives back its files.
    pub(crate) fn applied(&self, commit: Option<&str>, patch: &[u8]) -> Files {
        let clone = tempfile::tempdir_in(self.place.path()).unwrap();
        let host = self.host();
        let format = text(&host, "rev-parse --show-object-format");
        git(clone.path(), &format!("init -q --object-format={format}"));
        for name in ["core.autocrlf", "core.eol"] {
            let value = git_in(&host)
                .args(["config", "--get", name])
                .output()
                .unwrap();
            if value.status.success() {
                let value = String::from_utf8(value.stdout).unwrap();
                git(clone.path(), &format!("config {name} {}", value.trim()));
            }
        }
        if let Some(commit) = commit {
            let commit = text(&host, &format!("rev-parse {commit}"));
            git(
                clone.path(),
                &format!("fetch -q {} {commit}", host.display()),
            );
            git(clone.path(), &format!("checkout -q {commit}"));
        }
        if !patch.is_empty() {
            let mut child = git_in(clone.path())
                .args(["apply", "--index", "--whitespace=nowarn", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(patch).unwrap();
            let ended = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(
                ended.status.success(),
                "{said}\n{}",
                String::from_utf8_lossy(patch)
            );
        }
        files(clone.path())
    }

    pub(crate) fn patch_file(&self, patch: &[u8]) -> PathBuf {
        let path = self.at("work.patch");
        fs::write(&path, patch).unwrap();
        path
    }
}

pub(crate) fn run(command: &[OsString]) -> Ended {
    let mut process = Command::new(&command[0]);
    // As little as a guest has.
    process
        .args(&command[1..])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .env("GIT_DIR", "/nonsense")
        .env("GIT_EXTERNAL_DIFF", "false")
        .env("GIT_CONFIG_PARAMETERS", "'core.bare= = x'")
        .current_dir("/");
    process.output().unwrap()
}

pub(crate) fn put(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// The files of a tree, without `.git` and what is ignored in these tests.
pub(crate) fn files(top: &Path) -> Files {
    let mut files = walk(top);
    files.retain(|name, _| {
        let git = name == b".git" || name.starts_with(b".git/");
        !git && name != b"ignored" && !name.ends_with(b".o")
    });
    files
        .into_iter()
        .filter(|(_, (mode, _))| mode & 0o170_000 != 0o040_000)
        .map(|(name, (mode, content))| {
            // Git knows only these.
            let mode = if mode & 0o170_000 == 0o120_000 {
                0o120_000
            } else {
                mode & 0o100_100
            };
            (name, (mode, content))
        })
        .collect()
}

pub(crate) type Everything = BTreeMap<Vec<u8>, (u32, i64, Vec<u8>)>;

/// Names what differs.
pub(crate) fn assert_same(before: &Everything, after: &Everything, what: &str) {
    let names = before.keys().chain(after.keys());
    let different: std::collections::BTreeSet<_> = names
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| String::from_utf8_lossy(name))
        .collect();
    assert!(different.is_empty(), "{what}: {different:?}");
}

/// All there is, `.git` included, with modes and times.
pub(crate) fn everything(top: &Path) -> Everything {
    // Git itself renews the time of a shared index whenever it reads it, and of the trees that a
    // sparse index stands for: `git diff` would as well.
    let configured = fs::read_to_string(top.join(".git/config.worktree")).unwrap_or_default();
    let is_sparse = configured.contains("[index]\n\tsparse = true");
    timed(top, |name, _| {
        let object = is_sparse && name.starts_with(b".git/objects/");
        !object && !name.starts_with(b".git/sharedindex.")
    })
}

/// All there is in a guest, where git may renew the times of objects, and an export makes and
/// removes files.
fn everything_in_guest(top: &Path) -> Everything {
    timed(top, |name, is_dir| {
        !is_dir && !name.starts_with(b".git/objects/") && !name.starts_with(b".git/sharedindex.")
    })
}

fn timed(top: &Path, is_timed: impl Fn(&[u8], bool) -> bool) -> Everything {
    use std::os::unix::fs::MetadataExt;
    let walked = walk(top).into_iter();
    walked
        .map(|(name, (mode, content))| {
            let stat = fs::symlink_metadata(top.join(OsStr::from_bytes(&name))).unwrap();
            let time = match is_timed(&name, stat.is_dir()) {
                true => stat.mtime_nsec() ^ stat.mtime(),
                false => 0,
            };
            (name, (mode, time, content))
        })
        .collect()
}

fn walk(top: &Path) -> BTreeMap<Vec<u8>, (u32, Vec<u8>)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![top.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let name = path
                .strip_prefix(top)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec();
            let content = if stat.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_vec()
            } else if stat.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            if stat.is_dir() {
                open.push(path);
            }
            found.insert(name, (stat.permissions().mode(), content));
        }
    }
    found
}
