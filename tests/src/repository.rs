//! A git repository on the host, for scenarios about workspaces.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::World;
use crate::process::{Finished, Running};

/// A repository in a world.
pub struct HostRepository<'a> {
    world: &'a World,
    path: PathBuf,
}

impl<'a> HostRepository<'a> {
    /// One without commits, in the directory `name` of the world.
    pub fn empty(world: &'a World, name: &str) -> Self {
        let path = world.root().join(name);
        fs::create_dir(&path).expect("make a repository's directory");
        let repository = HostRepository { world, path };
        repository.git("init -q -b main");
        repository
    }

    /// One with two commits and a few files.
    pub fn small(world: &'a World, name: &str) -> Self {
        let repository = HostRepository::empty(world, name);
        repository.write("a.txt", b"one\n");
        repository.commit("first");
        repository.write("a.txt", b"one\ntwo\n");
        repository.write("src/lib.rs", b"fn main() {}\n");
        repository.write(".gitignore", b"ignored\n");
        repository.commit("second");
        repository
    }

    /// One with everything that names and files can be.
    pub fn motley(world: &'a World, name: &str) -> Self {
        let repository = HostRepository::small(world, name);
        for (name, content) in [
            (b"empty".as_slice(), b"".as_slice()),
            (b"binary", b"\0\x01\xff\xfe\0binary\n\0"),
            (b"crlf.txt", b"one\r\ntwo\r\n"),
            (b"no-newline", b"end"),
            (b"-dash", b"dash\n"),
            (b"with space/and \"quotes\"", b"q\n"),
            (b"new\nline", b"n\n"),
            (b"latin-\xe9", b"l\n"),
            (b"to-be-deleted", b"d\n"),
            (b"to-be-moved", b"a file that\nis moved\nby the guest\n"),
            (b"staged-not-written", b"s\n"),
        ] {
            repository.write_bytes(name, content);
        }
        repository.write("run.sh", b"#!/bin/sh\necho run\n");
        let script = repository.path.join("run.sh");
        fs::set_permissions(script, fs::Permissions::from_mode(0o755)).expect("chmod");
        symlink("src/lib.rs", repository.path.join("link")).expect("make a link");
        symlink("/nowhere", repository.path.join("dangling")).expect("make a link");
        repository.commit("third");
        // What is not committed.
        repository.write("staged-not-written", b"staged\n");
        repository.git("add staged-not-written");
        fs::remove_file(repository.path.join("staged-not-written")).expect("remove");
        repository.write("a.txt", b"one\nedited\n");
        repository.write("intended", b"intended\n");
        repository.git("add -N intended");
        repository.write("untracked", b"untracked\n");
        repository.write("ignored", b"never\n");
        repository
    }

    /// Its top directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file, and the directories it is in.
    pub fn write(&self, name: &str, content: &[u8]) {
        self.write_bytes(name.as_bytes(), content);
    }

    /// The same, with a name of any bytes.
    pub fn write_bytes(&self, name: &[u8], content: &[u8]) {
        let path = self.path.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().expect("a parent")).expect("make directories");
        fs::write(path, content).expect("write a file");
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path.join(name)).expect("read a file")
    }

    /// Commits everything.
    pub fn commit(&self, message: &str) {
        self.git("add -A");
        self.git_words(&["commit", "-q", "-m", message]);
    }

    /// Runs git with words that are apart by spaces; returns what it prints, without its
    /// last line break.
    #[track_caller]
    pub fn git(&self, words: &str) -> String {
        self.git_words(&words.split(' ').collect::<Vec<_>>())
    }

    /// Runs git with these words.
    #[track_caller]
    pub fn git_words(&self, words: &[&str]) -> String {
        self.git_with(words, None).ok().out().trim_end().to_owned()
    }

    /// Runs git with bytes on its standard input.
    #[track_caller]
    pub fn git_with(&self, words: &[&str], input: Option<Vec<u8>>) -> Finished {
        let mut command = self.world.command("git");
        command.current_dir(&self.path);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        // Looking must not write.
        command.env("GIT_OPTIONAL_LOCKS", "0");
        command.args([
            "-c",
            "user.name=Tester",
            "-c",
            "user.email=tester@localhost",
        ]);
        command.args(words);
        Running::start(command, input).finish()
    }

    /// A clean checkout of `commit` beside it.
    pub fn checkout(&self, commit: &str, name: &str) -> HostRepository<'a> {
        let path = self.world.root().join(name);
        let text = path.to_str().expect("a path of ours");
        self.git_words(&["clone", "-q", "--no-hardlinks", ".", text]);
        let clone = HostRepository {
            world: self.world,
            path,
        };
        clone.git_words(&["checkout", "-q", "--detach", commit]);
        clone
    }

    /// A digest of every name, mode, time of modification and byte in it, `.git` included.
    pub fn fingerprint(&self) -> String {
        let mut hasher = Sha256::new();
        let mut left = vec![self.path.clone()];
        while let Some(path) = left.pop() {
            let stat = fs::symlink_metadata(&path).expect("look at a file");
            hasher.update(path.as_os_str().as_bytes());
            hasher.update(format!(
                "\0{:o} {} {} {}\0",
                stat.mode(),
                stat.len(),
                stat.mtime(),
                stat.mtime_nsec()
            ));
            if stat.is_dir() {
                let entries = fs::read_dir(&path).expect("list a directory");
                let mut names: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
                names.sort();
                left.extend(names);
            } else if stat.is_symlink() {
                let target = fs::read_link(&path).expect("read a link");
                hasher.update(target.as_os_str().as_bytes());
            } else {
                hasher.update(fs::read(&path).expect("read a file"));
            }
        }
        let digest = hasher.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The references below `refs/banger`, in order.
    #[track_caller]
    pub fn saved(&self) -> Vec<String> {
        let listed = self.git("for-each-ref --format=%(refname) refs/banger");
        listed.lines().map(str::to_owned).collect()
    }

    /// Every file but objects and our references, with its content.
    pub fn untouched(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.path.clone()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).expect("list").flatten() {
                let path = entry.path();
                let ours = [".git/objects", ".git/refs/banger"];
                if ours.iter().any(|ours| path.ends_with(ours)) {
                    continue;
                }
                if path.is_dir() {
                    open.push(path);
                } else {
                    let content = fs::read(&path).expect("read a file");
                    found.insert(path, content);
                }
            }
        }
        found
    }
}
