//! Private ground for one test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use banger_api::{Client, CreateVm, ErrorBody};
use banger_content::{ContentStore, Hasher};
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
            "rootfs.ext4",
            &[0; 4096],
            &image,
        );
        let kernel = json!({
            "format": 1, "name": IMAGE, "release": "6.1.0-test", "source": "a test",
            "created_at": "2026-01-01T00:00:00Z",
        });
        publish(&ground.state().join("kernels"), "vmlinux", b"ELF", &kernel);
        ground
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_bangerd"));
        let root = self.root.path();
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("BANGER_") {
                command.env_remove(key);
            }
        }
        command
            .env("HOME", root.join("home"))
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
        let mut child = self.command().spawn().unwrap();
        let line = first_line(&mut child);
        assert_eq!(line, "ready\n", "{}", self.log());
        Daemon {
            child,
            client: Client::new(self.socket()),
        }
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

    /// What the daemon logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.state().join("bangerd.log")).unwrap_or_default()
    }

    /// The names in a directory below the state directory.
    pub(crate) fn entries(&self, dir: &str) -> Vec<String> {
        fs::read_dir(self.state().join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
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

fn publish(dir: &Path, file: &str, bytes: &[u8], manifest: &serde_json::Value) {
    let store = ContentStore::open(dir).unwrap();
    let stage = store.stage().unwrap();
    fs::write(stage.path().join(file), bytes).unwrap();
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    store
        .publish(stage, &hasher.finish(), IMAGE, manifest)
        .unwrap();
}
