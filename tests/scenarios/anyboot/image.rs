//! Trees that become images.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_tests::World;

/// A directory that becomes the root file system of an image.
pub(super) struct Tree<'a> {
    world: &'a World,
    root: PathBuf,
}

impl<'a> Tree<'a> {
    pub(super) fn new(world: &'a World) -> Tree<'a> {
        let root = world.root().join("tree");
        fs::create_dir(&root).expect("make a tree");
        Tree { world, root }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn mode(&self, name: &str, mode: u32) {
        let path = self.path(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    pub(super) fn file(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make directories");
        fs::write(path, content).expect("write");
        self.mode(name, 0o644);
    }

    pub(super) fn program(&self, name: &str, content: &str) {
        self.program_bytes(name, content.as_bytes());
    }

    pub(super) fn program_bytes(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make directories");
        fs::write(path, content).expect("write");
        self.mode(name, 0o755);
    }

    /// BusyBox under the names of all its programs but init.
    pub(super) fn busybox(&self) {
        let program = find("busybox", "busybox-static");
        let content = fs::read(program).expect("read BusyBox");
        self.program_bytes("bin/busybox", &content);
        fs::create_dir_all(self.path("sbin")).expect("make a directory");
        let list = run(Command::new(self.path("bin/busybox")).arg("--list"));
        for name in list
            .lines()
            .filter(|name| !matches!(*name, "init" | "busybox"))
        {
            symlink("busybox", self.path("bin").join(name)).expect("link");
        }
    }

    /// The test's own program, needing nothing.
    pub(super) fn probe(&self, name: &str) {
        self.compile(name, &["-static"]);
    }

    /// The same, needing musl's loader and library, which come along.
    pub(super) fn dynamic_musl_probe(&self, name: &str) {
        self.compile(name, &[]);
        let loader = fs::canonicalize("/lib/ld-musl-x86_64.so.1").expect("find musl");
        self.program_bytes(
            "lib/ld-musl-x86_64.so.1",
            &fs::read(loader).expect("read musl"),
        );
    }

    fn compile(&self, name: &str, options: &[&str]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("make directories");
        // Where the scenarios run there may be no source tree.
        let source = self.world.root().join("probe.c");
        fs::write(&source, include_str!("probe.c")).expect("write the program's source");
        let mut compiler = Command::new(find("musl-gcc", "musl-tools"));
        run(compiler
            .args(options)
            .arg("-O1")
            .arg("-o")
            .arg(path)
            .arg(source));
    }

    /// Makes an image of the tree, owned by root, with this config.
    pub(super) fn register(&self, name: &str, config: serde_json::Value) {
        let disk = self.world.root().join(format!("{name}.ext4"));
        let document = self.world.root().join(format!("{name}.json"));
        let config = serde_json::json!({ "config": config });
        fs::write(&document, config.to_string()).expect("write the config");
        // The caller's files are root's in there.
        let mut make = self.world.command("unshare");
        make.args([
            "--user",
            "--map-root-user",
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-O",
            "^has_journal",
        ]);
        run(make.arg("-d").arg(&self.root).arg(&disk).arg("96M"));
        let [disk, document] = [&disk, &document].map(|path| path.to_str().expect("text"));
        let register = ["image", "register", name, "--kernel", "debian-bookworm"];
        let files = ["--rootfs", disk, "--config", document];
        self.world.banger([&register[..], &files].concat()).ok();
    }
}

/// Where a program of the host is.
fn find(program: &str, package: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(["/bin", "/usr/bin", "/usr/sbin"]);
    places
        .map(|place| Path::new(place).join(program))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{program} ({package}) is missing: run scripts/install-deps"))
}

#[track_caller]
pub(super) fn run(command: &mut Command) -> String {
    let output = command.output().expect("run a program");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {err}");
    String::from_utf8(output.stdout).expect("text")
}
