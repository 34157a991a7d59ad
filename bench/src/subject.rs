//! The banger under measurement: release programs on private ground.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

/// Where it runs, and how it is called.
pub(crate) struct Subject {
    program: PathBuf,
    ground: PathBuf,
    runtime: PathBuf,
}

impl Subject {
    /// Starts the daemon and pulls the default image and kernel, unless an earlier run did.
    pub(crate) fn prepare() -> Subject {
        let me = std::env::current_exe().expect("the path of this program");
        let programs = me.parent().expect("a directory").to_owned();
        let ground = programs.parent().expect("a build directory").join("bench");
        let runtime = PathBuf::from(format!("/tmp/banger-bench-{}", std::process::id()));
        fs::create_dir_all(&ground).expect("make the benchmark's directory");
        fs::create_dir(&runtime).expect("make the runtime directory");
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).expect("chmod");
        let config = ground.join("config/banger");
        fs::create_dir_all(&config).expect("make the configuration's directory");
        let vmm = std::env::var("BANGER_BENCH_VMM").unwrap_or_else(|_| "auto".into());
        fs::write(
            config.join("config.toml"),
            format!("[vm_defaults]\nvmm = \"{vmm}\"\n"),
        )
        .expect("write the configuration");
        let subject = Subject {
            program: programs.join("banger"),
            ground,
            runtime,
        };
        eprintln!("warming up");
        subject.banger(&["vm", "run", "--rm", "--", "true"]);
        subject
    }

    /// banger with these arguments, on this ground.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env("XDG_STATE_HOME", self.ground.join("state"))
            .env("XDG_CONFIG_HOME", self.ground.join("config"))
            .env("XDG_RUNTIME_DIR", &self.runtime);
        command
    }

    /// Runs banger; it must succeed.
    pub(crate) fn banger(&self, args: &[&str]) -> Vec<u8> {
        let done = self
            .command(args)
            .stdin(Stdio::null())
            .output()
            .expect("run banger");
        assert!(
            done.status.success(),
            "banger {args:?}: {}\n{}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        done.stdout
    }

    /// Seconds for `total` bytes of `block`, over and over, through banger's input and output.
    pub(crate) fn pipe(&self, args: &[&str], block: &[u8], total: usize) -> f64 {
        let begun = Instant::now();
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run banger");
        let (mut input, mut output) = (
            child.stdin.take().expect("piped"),
            child.stdout.take().expect("piped"),
        );
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut left = total;
                while left > 0 {
                    let piece = left.min(block.len());
                    input.write_all(&block[..piece]).expect("write to banger");
                    left -= piece;
                }
            });
            let mut buffer = vec![0; 256 << 10];
            let mut got = 0;
            loop {
                let n = output.read(&mut buffer).expect("read from banger");
                if n == 0 {
                    break;
                }
                got += n;
            }
            assert_eq!(got, total, "every byte came back");
        });
        assert!(child.wait().expect("wait").success());
        begun.elapsed().as_secs_f64()
    }

    /// A block of bytes to send: not all zeros.
    pub(crate) fn noise(&self) -> Vec<u8> {
        (0..(1u32 << 18))
            .flat_map(|i| i.wrapping_mul(2654435761).to_le_bytes())
            .collect()
    }

    /// Starts a VM with this name and waits until its init system is through, which would take
    /// turns with what is measured; returns its agent's socket.
    pub(crate) fn start(&self, name: &str) -> PathBuf {
        self.banger(&["vm", "run", "-d", "--name", name, "--wait-for", "boot"]);
        self.vm(name)["agent_socket"]
            .as_str()
            .expect("a socket")
            .into()
    }

    /// One VM as JSON.
    pub(crate) fn vm(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&self.banger(&["vm", "show", name, "--output", "json"]))
            .expect("JSON")
    }

    /// The daemon's resident memory, in MiB.
    pub(crate) fn daemon_rss_mib(&self) -> f64 {
        self.daemon_memory_mib("VmRSS:")
    }

    /// The most memory the daemon ever had, in MiB.
    pub(crate) fn daemon_peak_mib(&self) -> f64 {
        self.daemon_memory_mib("VmHWM:")
    }

    fn daemon_memory_mib(&self, what: &str) -> f64 {
        let status: serde_json::Value =
            serde_json::from_slice(&self.banger(&["daemon", "status", "--output", "json"]))
                .expect("JSON");
        let file = format!("/proc/{}/status", status["pid"]);
        let text = fs::read_to_string(file).expect("the daemon's status");
        let line = text
            .lines()
            .find(|line| line.starts_with(what))
            .expect("a line about it");
        let kib: f64 = line
            .split_whitespace()
            .nth(1)
            .expect("a number")
            .parse()
            .expect("a number");
        kib / 1024.0
    }

    /// Where scratch files go.
    pub(crate) fn ground(&self) -> &Path {
        &self.ground
    }

    /// Where sockets go.
    pub(crate) fn runtime(&self) -> &Path {
        &self.runtime
    }
}

impl Drop for Subject {
    /// Stops the daemon and removes the runtime directory, also after a failure; images stay
    /// for the next run.
    fn drop(&mut self) {
        for args in [&["vm", "list", "-q"][..], &["daemon", "stop"]] {
            let done = self.command(args).stdin(Stdio::null()).output();
            let Ok(done) = done else { continue };
            for name in String::from_utf8_lossy(&done.stdout).lines() {
                if args[0] == "vm" {
                    self.command(&["vm", "delete", name]).output().ok();
                }
            }
        }
        fs::remove_dir_all(&self.runtime).ok();
    }
}
