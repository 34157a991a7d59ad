//! Private ground for one test.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use banger_api::{Client, CreateVm, ErrorBody, Operation};
use banger_content::{ContentStore, Hasher};
use banger_model::Result;
use serde_json::json;
use tempfile::TempDir;

/// The name of the image and kernel that [`Ground::with_image`] makes.
pub(crate) const IMAGE: &str = "test-image";

/// Directories of one daemon.
pub(crate) struct Ground {
    root: TempDir,
}

/// A daemon that answers, ended when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) client: Client,
}

impl Ground {
    /// Empty directories.
    pub(crate) fn new() -> Ground {
        // Below /tmp, for socket paths are limited to 107 bytes.
        let root = TempDir::with_prefix_in("bd", "/tmp").unwrap();
        for dir in ["state", "config", "run", "home"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        Ground { root }
    }

    /// With an image and a kernel, so that VMs can be made though not started.
    pub(crate) fn with_image() -> Ground {
        let ground = Ground::new();
        let private = |path: &Path| banger_config::ensure_private_dir(path).unwrap();
        private(&ground.state());
        let image = json!({
            "format": 1, "name": IMAGE, "source": "a test", "packages": 0, "kernel": IMAGE,
            "config": {"env": {"A": "b"}}, "created_at": "2026-01-01T00:00:00Z", "size": 4096,
        });
        publish(
            &ground.state().join("images"),
            &[("rootfs.ext4", &[0; 4096])],
            &image,
        );
        let kernel = json!({
            "format": 1, "name": IMAGE, "release": "6.1.0-test", "source": "a test",
            "created_at": "2026-01-01T00:00:00Z",
        });
        let builtin = "virtio_mmio.ko\nvirtio_blk.ko\nvmw_vsock_virtio_transport.ko\noverlay.ko\n\
                       ext4.ko\nvirtio_net.ko\n";
        let modules = |name: &str| format!("lib/modules/6.1.0-test/{name}");
        publish(
            &ground.state().join("kernels"),
            &[
                ("vmlinux", b"ELF"),
                (&modules("modules.dep"), b""),
                (&modules("modules.softdep.dep"), b""),
                (&modules("modules.builtin"), builtin.as_bytes()),
            ],
            &kernel,
        );
        ground
    }

    /// As [`Ground::with_image`], with guests that come up at once: `examples/fake-vmm.rs`.
    pub(crate) fn with_guests() -> Ground {
        let ground = Ground::with_image();
        let root = ground.root.path();
        for dir in ["bin", "lib/banger", "path", "config/banger"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        let daemon = Path::new(env!("CARGO_BIN_EXE_bangerd"));
        let fake = daemon.parent().unwrap().join("examples/fake-vmm");
        assert!(
            fake.exists(),
            "`cargo test -p bangerd` builds {}; so does `cargo build -p bangerd --examples`",
            fake.display()
        );
        // A program finds its prefix by its own file, so links to it will not do.
        let install = |from: &Path, to: &str| {
            let to = root.join(to);
            if fs::hard_link(from, &to).is_err() {
                fs::copy(from, &to).unwrap();
            }
        };
        install(daemon, "bin/bangerd");
        install(&fake, "lib/banger/banger-vsock");
        install(&fake, "path/qemu-system-x86_64");
        fs::write(root.join("lib/banger/banger-agent"), static_program()).unwrap();
        let config = "[vm_defaults]\nvmm = \"qemu-tcg\"\ndisk_size = \"64M\"\n\
                      system_overlay_size = \"64M\"\n";
        fs::write(root.join("config/banger/config.toml"), config).unwrap();
        ground
    }

    /// What the guests of VMs started from now on do; see `examples/fake-vmm.rs`.
    pub(crate) fn behave(&self, word: &str) {
        fs::write(self.runtime().join("behaviour"), word).unwrap();
    }

    /// Replaces the configuration file.
    pub(crate) fn configure(&self, toml: &str) {
        fs::write(self.root().join("config/banger/config.toml"), toml).unwrap();
    }

    /// The directory that everything is in.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.path().join("state/banger")
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.root.path().join("run/banger")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime().join("bangerd.sock")
    }

    /// The daemon's command in this ground's environment.
    pub(crate) fn command(&self) -> Command {
        let root = self.root.path();
        let own = root.join("bin/bangerd");
        let mut command = Command::new(match own.exists() {
            true => own,
            false => env!("CARGO_BIN_EXE_bangerd").into(),
        });
        let mut path = vec![root.join("path")];
        path.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("BANGER_") {
                command.env_remove(key);
            }
        }
        command
            .env("HOME", root.join("home"))
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("XDG_CONFIG_HOME", root.join("config"))
            .env("XDG_STATE_HOME", root.join("state"))
            .env("XDG_RUNTIME_DIR", root.join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    /// Starts a daemon and waits until it answers.
    pub(crate) fn start(&self) -> Daemon {
        self.start_with(&[])
    }

    /// Starts a daemon with these variables and waits until it answers.
    pub(crate) fn start_with(&self, variables: &[(&str, &str)]) -> Daemon {
        self.try_start_with(variables)
            .unwrap_or_else(|| panic!("it does not start: {}", self.log()))
    }

    /// As [`Ground::start_with`]; none when it ends without a word.
    pub(crate) fn try_start_with(&self, variables: &[(&str, &str)]) -> Option<Daemon> {
        let mut command = self.command();
        command.envs(variables.iter().copied());
        let mut child = command.spawn().unwrap();
        let line = first_line(&mut child);
        if line.is_empty() {
            child.wait().unwrap();
            return None;
        }
        assert_eq!(line, "ready\n", "{}", self.log());
        Some(Daemon {
            child,
            client: Client::new(self.socket()),
        })
    }

    /// Every file of the ground that is there for a reason of its own, by path: not the
    /// database, the log or the daemon's socket.
    pub(crate) fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut look = vec![self.state(), self.runtime()];
        while let Some(dir) = look.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                if path.symlink_metadata().unwrap().is_dir() {
                    look.push(path.clone());
                }
                if !name.starts_with("banger.db") && !name.starts_with("bangerd.") {
                    found.insert(path);
                }
            }
        }
        found
    }

    /// Starts a daemon that must refuse; what it said, and how it ended.
    pub(crate) fn start_refused(&self) -> (ErrorBody, ExitStatus) {
        let mut child = self.command().spawn().unwrap();
        let line = first_line(&mut child);
        let status = child.wait().unwrap();
        let json = line.strip_prefix("error ").unwrap_or_else(|| {
            panic!("not refused: {line:?}");
        });
        (serde_json::from_str(json).unwrap(), status)
    }

    /// The processes of VMs of this ground that run now.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let found = banger_vmm::find_all(&self.runtime().join("vm")).unwrap();
        let pids = found.iter().flat_map(|(_, instance)| instance.pids());
        pids.collect()
    }

    /// The processes of one of them, its VMM first.
    pub(crate) fn processes_of(&self, id: &str) -> Vec<u32> {
        let found = banger_vmm::find_all(&self.runtime().join("vm")).unwrap();
        let own = found.iter().filter(|(owner, _)| owner.as_str() == id);
        own.flat_map(|(_, instance)| instance.pids()).collect()
    }

    /// The names in the directory of runtime directories.
    pub(crate) fn running(&self) -> Vec<String> {
        names(&self.runtime().join("vm"))
    }

    /// What the daemon logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.state().join("bangerd.log")).unwrap_or_default()
    }

    /// The names in a directory below the state directory.
    pub(crate) fn entries(&self, dir: &str) -> Vec<String> {
        names(&self.state().join(dir))
    }

    /// Sends bytes and returns the whole answer, status line and all.
    pub(crate) fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end_by(mut self, signal: rustix::process::Signal) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
        (self.child.wait().unwrap(), begun.elapsed())
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Ground {
    /// VMs outlive their daemon, and tests that fail do not delete theirs.
    fn drop(&mut self) {
        for pid in self.processes() {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already in tests that end it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A request for a VM that is made and not started.
pub(crate) fn make(name: &str) -> CreateVm {
    CreateVm {
        name: Some(name.into()),
        image: Some(IMAGE.into()),
        start: false,
        ..CreateVm::default()
    }
}

/// A request for a VM that is made and started.
pub(crate) fn running(name: &str) -> CreateVm {
    CreateVm {
        start: true,
        ..make(name)
    }
}

/// Waits for the end of an operation, if it began.
pub(crate) async fn done(client: &Client, begun: Result<Operation>) -> Result<Operation> {
    client.wait(&begun?.id, |_| {}).await
}

/// Asks until it is true.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check().await {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    line
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// The head of a program that is linked statically and has nothing else to it.
fn static_program() -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    // A program, for x86-64; no segments, of 56 bytes each.
    elf[16] = 2;
    elf[18] = 62;
    elf[54] = 56;
    elf
}

fn publish(dir: &Path, files: &[(&str, &[u8])], manifest: &serde_json::Value) {
    let store = ContentStore::open(dir).unwrap();
    let stage = store.stage().unwrap();
    let mut hasher = Hasher::new();
    for (name, bytes) in files {
        let path = stage.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        hasher.update(bytes);
    }
    store
        .publish(stage, &hasher.finish(), IMAGE, manifest)
        .unwrap();
}
