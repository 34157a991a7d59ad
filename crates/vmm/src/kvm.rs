//! Whether KVM works here.
//!
//! That `/dev/kvm` opens proves nothing: on cloud machines without nested virtualisation it
//! opens, makes virtual processors, and then a stock kernel hangs. So a processor that shows
//! neither vmx nor svm decides against KVM, and otherwise only a kernel that has booted
//! decides for it. The answer is kept for as long as nothing it depends on has changed.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_model::{IoContext, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify;
use serde::{Deserialize, Serialize};

use crate::process::{Process, poll_until};
use crate::{Facts, log_tail, qemu};

/// The version every Linux since 2.6.22 reports.
const API_VERSION: i32 = 12;
/// How long the probe's kernel may take to user space: many times what KVM needs.
const BOOT_TIMEOUT: Duration = Duration::from_secs(6);
/// What the agent says when it was booted by the probe.
const PROBE_OK: &str = "banger-probe-ok";

/// What opening `/dev/kvm` gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceAccess {
    /// There is no such device.
    Absent,
    /// It is there; only members of `group` may open it.
    Denied {
        /// The owning group's name or number.
        group: String,
    },
    /// It cannot be opened for another reason.
    Failed(String),
    /// It opens and speaks this API version.
    Opens {
        /// 12 on every Linux that counts.
        api_version: i32,
    },
}

/// What booting a kernel with KVM gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LiveBoot {
    /// Nobody tried.
    NotTried,
    /// The guest reached user space.
    Works,
    /// It did not.
    Failed(String),
}

/// What is known about KVM on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvmFacts {
    /// What opening the device gave.
    pub device: DeviceAccess,
    /// `vmx` or `svm`, when the processor says so.
    pub cpu_flag: Option<String>,
    /// What booting a kernel gave.
    pub live: LiveBoot,
}

/// What the facts come down to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A kernel has booted.
    Works(String),
    /// Nothing speaks against it, and nobody has tried.
    Unproven(String),
    /// It does not work.
    Broken {
        /// What was found.
        found: String,
        /// What to do about it.
        fix: String,
    },
}

impl KvmFacts {
    pub(crate) fn verdict(&self) -> Verdict {
        let broken = |found: String, fix: &str| Verdict::Broken {
            found,
            fix: fix.to_owned(),
        };
        match &self.device {
            DeviceAccess::Absent => {
                return broken(
                    "there is no `/dev/kvm`".to_owned(),
                    "switch on virtualisation in the firmware, or nested virtualisation for this \
                     machine, and load the module: `sudo modprobe kvm-intel` or `kvm-amd`",
                );
            }
            DeviceAccess::Denied { group } => {
                return broken(
                    format!("only members of the group `{group}` may open `/dev/kvm`"),
                    &format!("run `sudo usermod -aG {group} $USER` and log in again"),
                );
            }
            DeviceAccess::Failed(why) => {
                return broken(
                    format!("`/dev/kvm` cannot be opened: {why}"),
                    "see what the kernel says: `sudo dmesg | grep -i kvm`",
                );
            }
            DeviceAccess::Opens { api_version } if *api_version != API_VERSION => {
                return broken(
                    format!("`/dev/kvm` speaks version {api_version} instead of {API_VERSION}"),
                    "use a kernel with the KVM of mainline Linux",
                );
            }
            DeviceAccess::Opens { .. } => {}
        }
        let Some(flag) = &self.cpu_flag else {
            return broken(
                "`/dev/kvm` opens, but the processor shows neither vmx nor svm, and kernels hang \
                 under such a KVM"
                    .to_owned(),
                "switch on virtualisation in the firmware, or nested virtualisation for this \
                 machine",
            );
        };
        match &self.live {
            LiveBoot::Works => Verdict::Works(format!("KVM works: a kernel has booted ({flag})")),
            LiveBoot::NotTried => {
                Verdict::Unproven(format!("KVM has not been tried yet ({flag} is there)"))
            }
            LiveBoot::Failed(why) => broken(
                format!("a kernel did not boot with KVM: {why}"),
                "see what the kernel says: `sudo dmesg | grep -i kvm`",
            ),
        }
    }
}

/// Looks at the device and the processor; starts nothing.
pub(crate) fn look() -> KvmFacts {
    KvmFacts {
        device: open_device(Path::new("/dev/kvm")),
        cpu_flag: std::fs::read_to_string("/proc/cpuinfo")
            .ok()
            .and_then(|text| virtualisation_flag(&text)),
        live: LiveBoot::NotTried,
    }
}

fn open_device(path: &Path) -> DeviceAccess {
    match File::options().read(true).write(true).open(path) {
        Ok(device) => api_version(&device),
        Err(error) => match error.kind() {
            std::io::ErrorKind::NotFound => DeviceAccess::Absent,
            std::io::ErrorKind::PermissionDenied => DeviceAccess::Denied {
                group: group_of(path),
            },
            _ => DeviceAccess::Failed(error.to_string()),
        },
    }
}

fn api_version(device: &File) -> DeviceAccess {
    use std::os::fd::AsRawFd;
    const KVM_GET_API_VERSION: libc::Ioctl = 0xAE00;
    // SAFETY: this request takes no argument and touches no memory of ours; on a descriptor
    // that is not KVM it fails.
    let version = unsafe { libc::ioctl(device.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    if version < 0 {
        return DeviceAccess::Failed(std::io::Error::last_os_error().to_string());
    }
    DeviceAccess::Opens {
        api_version: version,
    }
}

/// The name of the group that owns the file, or its number.
fn group_of(path: &Path) -> String {
    let Ok(metadata) = std::fs::metadata(path) else {
        return "kvm".to_owned();
    };
    let gid = metadata.gid();
    std::fs::read_to_string("/etc/group")
        .ok()
        .and_then(|groups| group_name(&groups, gid))
        .unwrap_or_else(|| gid.to_string())
}

fn group_name(groups: &str, gid: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        (number == gid).then(|| name.to_owned())
    })
}

fn virtualisation_flag(cpuinfo: &str) -> Option<String> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    let flag = flags
        .split_ascii_whitespace()
        .find(|word| matches!(*word, "vmx" | "svm"))?;
    Some(flag.to_owned())
}

/// What the live probe boots, and where it works.
#[derive(Clone, Copy, Debug)]
pub struct ProbeInputs<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// The initial RAM file system; its init answers the word `banger.probe`.
    pub initramfs: &'a Path,
    /// An existing private directory for the probe's files.
    pub scratch_dir: &'a Path,
    /// Where the answer is kept.
    pub cache_file: &'a Path,
}

/// Fills in `facts.kvm.live`: not at all when the facts decide without it, from the cache when
/// nothing has changed since, else by booting a kernel. Blocks for at most a few seconds.
pub fn prove_kvm(facts: &mut Facts, inputs: ProbeInputs<'_>) {
    if !matches!(facts.kvm.verdict(), Verdict::Unproven(_)) {
        return;
    }
    let Ok(program) = facts.qemu.path() else {
        return;
    };
    let key = match Key::new(program, inputs) {
        Ok(key) => key,
        Err(error) => {
            facts.kvm.live = LiveBoot::Failed(error.chain());
            return;
        }
    };
    if let Some(known) = read_cache(inputs.cache_file, &key) {
        facts.kvm.live = known;
        return;
    }
    let live = match boot(program, inputs) {
        Ok(live) => live,
        // Trouble on our side says nothing about KVM, so it is not remembered.
        Err(error) => {
            facts.kvm.live = LiveBoot::Failed(error.chain());
            return;
        }
    };
    if let Err(error) = write_cache(
        inputs.cache_file,
        &Cached {
            key,
            live: live.clone(),
        },
    ) {
        tracing::warn!(%error, "the result of the KVM probe is not kept");
    }
    facts.kvm.live = live;
}

/// Everything the answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    boot_id: String,
    files: Vec<Stamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    size: u64,
    modified_ns: i128,
}

impl Key {
    fn new(program: &Path, inputs: ProbeInputs<'_>) -> Result<Key> {
        let boot_id_file = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = std::fs::read_to_string(boot_id_file).at("read", boot_id_file)?;
        let stamp = |path: &Path| {
            let found = std::fs::metadata(path).at("read", path)?;
            Ok(Stamp {
                path: path.to_owned(),
                size: found.len(),
                modified_ns: i128::from(found.mtime()) * 1_000_000_000
                    + i128::from(found.mtime_nsec()),
            })
        };
        Ok(Key {
            boot_id: boot_id.trim().to_owned(),
            files: [program, inputs.kernel, inputs.initramfs]
                .into_iter()
                .map(stamp)
                .collect::<Result<_>>()?,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Cached {
    key: Key,
    live: LiveBoot,
}

/// The kept answer, when it is for this key. Anything unreadable counts as none.
fn read_cache(path: &Path, key: &Key) -> Option<LiveBoot> {
    let text = std::fs::read_to_string(path).ok()?;
    let cached: Cached = serde_json::from_str(&text).ok()?;
    (cached.key == *key && cached.live != LiveBoot::NotTried).then_some(cached.live)
}

fn write_cache(path: &Path, cached: &Cached) -> Result<()> {
    let text = serde_json::to_string(cached)
        .map_err(|error| banger_model::Error::internal("cannot write JSON").because(error))?;
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text).at("write", &partial)?;
    std::fs::rename(&partial, path).at("write", path)
}

/// Boots the kernel and watches its console.
fn boot(program: &Path, inputs: ProbeInputs<'_>) -> Result<LiveBoot> {
    let console = inputs.scratch_dir.join("kvm-probe.console");
    let log = inputs.scratch_dir.join("kvm-probe.log");
    File::create(&console).at("create", &console)?;
    let watch = watch(&console)
        .map_err(std::io::Error::from)
        .at("watch", &console)?;
    let process = qemu::spawn_probe(program, inputs.kernel, inputs.initramfs, &console, &log)?;
    let outcome = follow(&process, &watch, &console, &log);
    let killed = process.send_kill().and_then(|()| {
        process.wait_until(Instant::now() + BOOT_TIMEOUT)?;
        Ok(process.reap())
    });
    if let Err(error) = killed {
        tracing::warn!(%error, pid = process.pid(), "the KVM probe was not ended");
    }
    for file in [&console, &log] {
        if let Err(error) = std::fs::remove_file(file) {
            tracing::debug!(%error, file = %file.display(), "left behind");
        }
    }
    outcome
}

fn watch(console: &Path) -> rustix::io::Result<std::os::fd::OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, console, inotify::WatchFlags::MODIFY)?;
    Ok(watch)
}

fn follow(
    process: &Process,
    watch: &std::os::fd::OwnedFd,
    console: &Path,
    log: &Path,
) -> Result<LiveBoot> {
    let deadline = Instant::now() + BOOT_TIMEOUT;
    loop {
        let mut fds = [process.poll_fd(), PollFd::new(watch, PollFlags::IN)];
        poll_until(&mut fds, deadline).at("watch", console)?;
        let ended = !fds[0].revents().is_empty();
        drain(watch);
        // Read after the wait, so that what was written before its end counts.
        let said = log_tail(console, 20)?;
        if said.contains(PROBE_OK) {
            return Ok(LiveBoot::Works);
        }
        let words = |text: String| match text.lines().last() {
            Some(line) => format!("; its last words: {line}"),
            None => String::new(),
        };
        if ended {
            return Ok(LiveBoot::Failed(format!(
                "QEMU ended before the guest reached user space{}",
                words(log_tail(log, 1)?)
            )));
        }
        if Instant::now() >= deadline {
            return Ok(LiveBoot::Failed(format!(
                "the guest hung for {} s{}",
                BOOT_TIMEOUT.as_secs(),
                words(said)
            )));
        }
    }
}

/// Takes the pending events off; what they say does not matter.
fn drain(watch: &std::os::fd::OwnedFd) {
    let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    while reader.next().is_ok() {}
}

#[cfg(test)]
mod tests;
