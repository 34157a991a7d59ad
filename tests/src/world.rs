//! Private ground for one scenario: its own programs, configuration, state and sockets.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;

use crate::process::{Finished, Running};
use crate::{oracle, pace, plain};

/// The world that the others start from.
pub(crate) const BASE: &str = "base";

/// How long a guest may take to boot on a common machine, in seconds.
const BOOT_S: u32 = 120;

/// Where a state directory has its images.
const IMAGES: &str = "images";

/// What worlds take over from the base: immutable content, and whether KVM boots it.
const SHARED: [&str; 5] = [
    IMAGES,
    "kernels",
    "templates",
    "kvm-probe.json",
    "kvm-probe.firecracker.json",
];

/// What all scenarios share, read-only: the programs, and an image and kernel pulled once.
#[derive(Clone, Debug)]
pub struct Base {
    /// Where worlds are made. On one file system with `artifacts`, so that links work.
    pub ground: PathBuf,
    /// The build directory: `debug/banger`, `debug/bangerd`, `lib/banger/*`.
    pub build: PathBuf,
    /// A state directory that holds the default image and kernel.
    pub artifacts: PathBuf,
    /// A state directory that holds the image without an init system.
    pub plain: PathBuf,
    /// The VMM of every VM, or the one banger takes by itself.
    pub vmm: Option<String>,
}

/// The directory of a scenario's world.
pub(crate) fn ground_of(base: &Base, name: &str) -> PathBuf {
    base.ground.join(name)
}

/// The runtime directory of a scenario that runs as process `pid`. Socket paths are limited to
/// 107 bytes, build directories are not.
pub(crate) fn runtime_of(pid: Pid, name: &str) -> PathBuf {
    PathBuf::from(format!("/tmp/banger-test-{}-{name}", pid.as_raw_nonzero()))
}

impl Base {
    /// The programs, and the place for worlds: `ground` is cargo's directory for the files of
    /// integration tests, inside the build directory.
    ///
    /// # Panics
    /// When `make all` was not run.
    pub fn locate(ground: PathBuf) -> Base {
        let build = ground.parent().expect("a build directory").to_owned();
        for program in [
            "debug/banger",
            "debug/bangerd",
            "lib/banger/banger-agent",
            "lib/banger/banger-vsock",
        ] {
            let path = build.join(program);
            assert!(
                path.exists(),
                "{} is missing: run `make all` first",
                path.display()
            );
        }
        let state_of = |world: &str| ground.join(world).join("state/banger");
        let (artifacts, plain) = (state_of(BASE), state_of(plain::WORLD));
        Base {
            ground,
            build,
            artifacts,
            plain,
            vmm: None,
        }
    }
}

/// One scenario's private machine room. Ends with a leak check.
pub struct World {
    name: String,
    root: PathBuf,
    runtime: PathBuf,
    base: Base,
    /// The image of VMs that ask for none, or the one banger takes by itself.
    image: Option<&'static str>,
}

impl World {
    /// A world without image or kernel, as on a fresh machine.
    pub fn empty(base: &Base, name: &str) -> World {
        let root = ground_of(base, name);
        if root.exists() {
            // Left by a run that was killed; its processes would be found by the oracle.
            fs::remove_dir_all(&root).expect("remove an earlier run's world");
        }
        World::furnish(base, name)
    }

    /// A world that an earlier run kept: its images and kernels, and nothing else of it.
    pub fn again(base: &Base, name: &str) -> World {
        let root = ground_of(base, name);
        let state = root.join("state/banger");
        for (dir, keep) in [(&root, &["state"][..]), (&state, &SHARED[..])] {
            for entry in fs::read_dir(dir).expect("list an earlier run's world") {
                let path = entry.expect("list an earlier run's world").path();
                if keep.iter().any(|name| path.ends_with(name)) {
                    continue;
                }
                let removed = if path.is_dir() {
                    fs::remove_dir_all(&path)
                } else {
                    fs::remove_file(&path)
                };
                removed.expect("remove what an earlier run left");
            }
        }
        World::furnish(base, name)
    }

    /// Puts the programs into a world.
    fn furnish(base: &Base, name: &str) -> World {
        let root = ground_of(base, name);
        let runtime = runtime_of(rustix::process::getpid(), name);
        for dir in ["bin", "lib/banger", "config", "home", "state"] {
            fs::create_dir_all(root.join(dir)).expect("make a world");
        }
        fs::create_dir(&runtime).expect("make a runtime directory");
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).expect("chmod");
        let world = World {
            name: name.to_owned(),
            root,
            runtime,
            base: base.clone(),
            image: None,
        };
        for (from, to) in [
            ("debug/banger", "bin/banger"),
            ("debug/bangerd", "bin/bangerd"),
            ("lib/banger/banger-agent", "lib/banger/banger-agent"),
            ("lib/banger/banger-vsock", "lib/banger/banger-vsock"),
        ] {
            fs::hard_link(base.build.join(from), world.root.join(to)).expect("link a program");
        }
        world.configure("");
        world
    }

    /// A world in which the default image and kernel have been pulled already.
    pub fn new(base: &Base, name: &str) -> World {
        World::stocked(base, name, &base.artifacts)
    }

    /// A world whose only image, and default, is the one without an init system.
    pub fn plain(base: &Base, name: &str) -> World {
        let mut world = World::stocked(base, name, &base.plain);
        world.image = Some(plain::IMAGE);
        world.configure("");
        world
    }

    /// A world with what the base has, and the images of this state directory.
    fn stocked(base: &Base, name: &str, images: &Path) -> World {
        let world = World::empty(base, name);
        // Immutable content only: each world has its own database, lock and keys.
        let state = world.state();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&state)
            .expect("make a state directory");
        let shared = SHARED.map(|name| match name {
            IMAGES => images.join(name),
            _ => base.artifacts.join(name),
        });
        let status = Command::new("cp")
            .args(["--archive", "--link"])
            .args(shared.iter().filter(|path| path.exists()))
            .arg(&state)
            .status()
            .expect("run cp");
        assert!(status.success(), "cp failed: {status}");
        world
    }

    /// The scenario's name, a valid VM name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.root.join("state/banger")
    }

    /// The runtime directory, with the sockets.
    pub fn runtime(&self) -> PathBuf {
        self.runtime.join("banger")
    }

    /// The scenario's own directory: scratch files go here.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Everything shared.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The programs that every VM here has a process of, its VMM first.
    pub fn vm_programs(&self) -> [&'static str; 2] {
        let vmm = match self.base.vmm.as_deref() {
            Some("firecracker") => "firecracker",
            _ => "qemu-system-x86_64",
        };
        [vmm, "banger-vsock"]
    }

    /// Replaces the guest agent of this world.
    pub fn use_agent(&self, program: &Path) {
        let path = self.root.join("lib/banger/banger-agent");
        fs::remove_file(&path).expect("remove the agent");
        fs::copy(program, &path).expect("copy an agent");
    }

    /// A search path on which everything is found but this one program.
    pub fn path_without(&self, program: &str) -> PathBuf {
        let dir = self.root.join(format!("path-without-{program}"));
        fs::create_dir(&dir).expect("make a directory of links");
        for from in search_path().split(':') {
            let Ok(entries) = fs::read_dir(from) else {
                continue;
            };
            for entry in entries.flatten() {
                let link = dir.join(entry.file_name());
                if entry.file_name() != program && fs::symlink_metadata(&link).is_err() {
                    std::os::unix::fs::symlink(entry.path(), link).expect("link a program");
                }
            }
        }
        dir
    }

    /// Writes the configuration file, completed for this run of the suite.
    pub fn configure(&self, toml: &str) {
        let toml = completed(toml, self.base.vmm.as_deref(), self.image, pace::factor());
        let dir = self.root.join("config/banger");
        fs::create_dir_all(&dir).expect("make the configuration directory");
        fs::write(dir.join("config.toml"), toml).expect("write the configuration");
    }

    /// A command in this world's environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", self.root.join("home"))
            .env("XDG_CONFIG_HOME", self.root.join("config"))
            .env("XDG_STATE_HOME", self.root.join("state"))
            .env("XDG_CACHE_HOME", self.root.join("cache"))
            .env("XDG_RUNTIME_DIR", &self.runtime)
            .env("PATH", search_path())
            .env_remove("NO_COLOR")
            // rustup sets it for what cargo runs; the programs are found on PATH.
            .env_remove("CARGO_HOME")
            .env("LC_ALL", "C.UTF-8")
            .current_dir(&self.root);
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("BANGER_") {
                command.env_remove(key);
            }
        }
        // A shell without job control starts background work, which may be this suite, with
        // SIGINT ignored, and what is ignored at the start stays ignored.
        // SAFETY: signal(2) is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM] {
                    libc::signal(signal, libc::SIG_DFL);
                }
                Ok(())
            });
        }
        command
    }

    /// `banger` with these arguments.
    pub fn banger_command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command(self.root.join("bin/banger"));
        command.args(args);
        command
    }

    /// Starts `banger` with these arguments and nothing on its standard input.
    #[track_caller]
    pub fn start<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Running {
        Running::start(self.banger_command(args), None)
    }

    /// Runs `banger` with these arguments to its end.
    #[track_caller]
    pub fn banger<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Finished {
        self.start(args).finish()
    }

    /// Runs `banger` with bytes on its standard input.
    #[track_caller]
    pub fn banger_with_input<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        input: Vec<u8>,
    ) -> Finished {
        Running::start(self.banger_command(args), Some(input)).finish()
    }

    /// Runs `banger` to its end with a file system of its own, of this size, on `dir`: in a
    /// private mount namespace, in which a daemon it starts stays.
    #[track_caller]
    pub fn banger_on_small_disk(&self, dir: &Path, size: &str, args: &[&str]) -> Finished {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .expect("make a mount point");
        let script = "mount -t tmpfs -o size=$1,mode=0700 tmpfs \"$2\" && shift 2 && exec \"$@\"";
        let mut command = self.command("unshare");
        command
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                script,
                "sh",
                size,
            ])
            .arg(dir)
            .arg(self.root.join("bin/banger"))
            .args(args);
        Running::start(command, None).finish()
    }

    /// The names and states of all VMs.
    #[track_caller]
    pub fn vms(&self) -> Vec<(String, String)> {
        let list = self.banger(["vm", "list", "--output", "json"]).ok().json();
        list.as_array()
            .expect("a list")
            .iter()
            .map(|vm| {
                let text = |key: &str| vm[key].as_str().expect("text").to_owned();
                (text("name"), text("state"))
            })
            .collect()
    }

    /// One VM as JSON.
    #[track_caller]
    pub fn vm(&self, name: &str) -> serde_json::Value {
        self.banger(["vm", "show", name, "--output", "json"])
            .ok()
            .json()
    }

    /// The daemon's process id, starting the daemon when there is none.
    #[track_caller]
    pub fn daemon_pid(&self) -> Pid {
        self.banger(["vm", "list"]).ok();
        let status = self
            .banger(["daemon", "status", "--output", "json"])
            .ok()
            .json();
        let pid = status["pid"].as_i64().expect("a process id");
        Pid::from_raw(pid as i32).expect("a process id")
    }

    /// Ends the world: no VM may be left, the daemon stops, and nothing else may remain.
    #[track_caller]
    pub fn finish(self) {
        let left = self.vms();
        assert!(left.is_empty(), "VMs left by {}: {left:?}", self.name);
        self.finish_unasked();
    }

    /// Keeps the world's files, which are the base of the others, but not its sockets.
    pub fn keep(self) {
        fs::remove_dir_all(&self.runtime).expect("remove the runtime directory");
    }

    /// Ends a world in which `banger vm list` cannot be asked.
    #[track_caller]
    pub fn finish_unasked(self) {
        self.banger(["daemon", "stop"]).ok();
        let leaks = oracle::world_leaks(&self.root, &self.runtime);
        assert!(leaks.is_empty(), "left by {}: {leaks:#?}", self.name);
        fs::remove_dir_all(&self.root).expect("remove the world");
        fs::remove_dir_all(&self.runtime).expect("remove the runtime directory");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The scenario failed: leave the files for whoever looks, but no process.
            oracle::end_processes_of(&[&self.root, &self.runtime]);
        }
    }
}

/// A configuration with the VMM and the patience of this run of the suite, and the image of its
/// world, unless it has its own.
fn completed(toml: &str, vmm: Option<&str>, image: Option<&str>, slower: u32) -> String {
    const SECTION: &str = "[vm_defaults]\n";
    let toml = match image.filter(|_| !toml.contains("default_image = ")) {
        Some(image) => format!("default_image = \"{image}\"\n{toml}"),
        None => toml.to_owned(),
    };
    let mut lines = String::new();
    if let Some(vmm) = vmm.filter(|_| !toml.contains("vmm = ")) {
        lines += &format!("vmm = \"{vmm}\"\n");
    }
    if slower > 1 && !toml.contains("boot_timeout = ") {
        lines += &format!("boot_timeout = {}\n", BOOT_S * slower);
    }
    if lines.is_empty() {
        return toml;
    }
    match toml.split_once(SECTION) {
        Some((before, after)) => format!("{before}{SECTION}{lines}{after}"),
        None => format!("{toml}\n{SECTION}{lines}"),
    }
}

/// The search path with the places where system programs and cargo's programs live.
pub(crate) fn search_path() -> String {
    let home = std::env::var("HOME").unwrap_or_default();
    let cargo = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:{cargo}/bin:/usr/sbin:/sbin")
}

#[cfg(test)]
mod tests {
    use super::completed;

    #[test]
    fn a_configuration_gets_what_the_run_asks_for() {
        assert_eq!(completed("a = 1\n", None, None, 1), "a = 1\n");
        assert_eq!(
            completed("", Some("qemu-kvm"), Some("small"), 1),
            "default_image = \"small\"\n\n[vm_defaults]\nvmm = \"qemu-kvm\"\n"
        );
        assert_eq!(
            completed(
                "a = 1\n[vm_defaults]\nvcpu = 2\n[x]\n",
                Some("firecracker"),
                None,
                2
            ),
            "a = 1\n[vm_defaults]\nvmm = \"firecracker\"\nboot_timeout = 240\nvcpu = 2\n[x]\n"
        );
        let own = "default_image = \"own\"\n[vm_defaults]\nvmm = \"qemu-tcg\"\nboot_timeout = 9\n";
        assert_eq!(completed(own, Some("qemu-kvm"), Some("small"), 6), own);
    }
}
