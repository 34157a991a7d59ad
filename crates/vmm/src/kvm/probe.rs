//! The live probe: boots a kernel with KVM and keeps the answer.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use banger_model::{IoContext, Result, VmmChoice};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify;
use serde::{Deserialize, Serialize};

use super::{LiveBoot, Verdict};
use crate::process::{Process, poll_until};
use crate::{Demand, Facts, firecracker, log_tail, qemu};

/// How long the probe's kernel may take to user space. KVM needs a second; inside a machine that
/// is itself emulated it has taken 15, and more when that is busy. Only a KVM that hangs costs
/// that long, once per boot of the host.
pub(super) const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
/// What the agent says when it was booted by the probe.
const PROBE_OK: &str = "banger-probe-ok";

/// What the live probe boots, and where it works.
#[derive(Clone, Copy, Debug)]
pub struct ProbeInputs<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// The initial RAM file system; its init answers the word `banger.probe`.
    pub initramfs: &'a Path,
    /// An existing private directory for the probe's files.
    pub scratch_dir: &'a Path,
    /// Where QEMU's answer is kept; Firecracker's is beside it.
    pub cache_file: &'a Path,
}

/// Which VMM boots the kernel.
#[derive(Clone, Copy)]
enum Prover {
    Firecracker,
    Qemu,
}

impl Prover {
    fn name(self) -> &'static str {
        match self {
            Prover::Firecracker => "Firecracker",
            Prover::Qemu => "QEMU",
        }
    }

    fn cache_file(self, qemus: &Path) -> PathBuf {
        match self {
            Prover::Firecracker => qemus.with_extension("firecracker.json"),
            Prover::Qemu => qemus.to_owned(),
        }
    }
}

/// Fills in what is not known yet and matters for `choice`: whether Firecracker boots a kernel
/// with KVM and, where it does not or is not there, whether QEMU does. Asks nothing when the
/// facts decide without it, or the kept answer when nothing has changed since; else boots a
/// kernel. Blocks for at most two minutes.
pub fn prove(choice: VmmChoice, demand: Demand, facts: &mut Facts, inputs: ProbeInputs<'_>) {
    if matches!(choice, VmmChoice::Auto | VmmChoice::Firecracker)
        && let Ok((_, Verdict::Unproven(_))) = firecracker::usable(facts, demand)
        && let Ok(program) = facts.firecracker.program.path()
    {
        let (live, hung) = ask(Prover::Firecracker, program, inputs);
        if hung {
            // Under QEMU it would hang as well.
            facts.kvm.live = live.clone();
        }
        facts.firecracker.live = live;
    }
    let settled = facts.firecracker.live == LiveBoot::Works
        && matches!(choice, VmmChoice::Auto | VmmChoice::Firecracker);
    if settled
        || matches!(choice, VmmChoice::Firecracker | VmmChoice::QemuTcg)
        || !matches!(facts.kvm.verdict(), Verdict::Unproven(_))
    {
        return;
    }
    if let Ok(program) = facts.qemu.path() {
        facts.kvm.live = ask(Prover::Qemu, program, inputs).0;
    }
}

/// Fills in the kept answers that still hold; starts nothing.
pub fn recall(facts: &mut Facts, cache_file: &Path) {
    let kept = |prover: Prover, program: Result<&Path>| {
        let cached = Cached::read(&prover.cache_file(cache_file))?;
        cached.still_holds(program.ok()?).then_some(cached.live)
    };
    if let Some(live) = kept(Prover::Firecracker, facts.firecracker.program.path()) {
        facts.firecracker.live = live;
    }
    if let Some(live) = kept(Prover::Qemu, facts.qemu.path()) {
        facts.kvm.live = live;
    }
}

/// The kept answer, or that of a boot, and whether that hung.
fn ask(prover: Prover, program: &Path, inputs: ProbeInputs<'_>) -> (LiveBoot, bool) {
    let ours = |error: banger_model::Error| (LiveBoot::Failed(error.chain()), false);
    let files = [program, inputs.kernel, inputs.initramfs];
    let key = match Key::new(&files) {
        Ok(key) => key,
        Err(error) => return ours(error),
    };
    let file = prover.cache_file(inputs.cache_file);
    if let Some(cached) = Cached::read(&file).filter(|cached| cached.key == key) {
        return (cached.live, cached.hung);
    }
    let (live, hung) = match boot(prover, program, inputs) {
        Ok(answer) => answer,
        // Trouble on our side says nothing about KVM, so it is not remembered.
        Err(error) => return ours(error),
    };
    let cached = Cached {
        key,
        files: files.map(Path::to_owned).into(),
        live,
        hung,
    };
    if let Err(error) = cached.write(&file) {
        tracing::warn!(%error, "the result of the KVM probe is not kept");
    }
    (cached.live, hung)
}

/// Everything the answer depends on. Files are known by what they are, wherever they are: a
/// state directory may be moved, or share its kernels with another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    boot_id: String,
    files: Vec<Identity>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
}

impl Key {
    fn new(files: &[impl AsRef<Path>]) -> Result<Key> {
        let boot_id_file = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = std::fs::read_to_string(boot_id_file).at("read", boot_id_file)?;
        Ok(Key {
            boot_id: boot_id.trim().to_owned(),
            files: files
                .iter()
                .map(|path| Identity::of(path.as_ref()))
                .collect::<Result<_>>()?,
        })
    }
}

impl Identity {
    fn of(path: &Path) -> Result<Identity> {
        let found = std::fs::metadata(path).at("read", path)?;
        Ok(Identity {
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            modified_ns: i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Cached {
    key: Key,
    /// Where the files of the key were: the program, the kernel, the initramfs.
    files: Vec<PathBuf>,
    live: LiveBoot,
    #[serde(default)]
    hung: bool,
}

impl Cached {
    /// The kept answer. Anything unreadable counts as none.
    fn read(path: &Path) -> Option<Cached> {
        let text = std::fs::read_to_string(path).ok()?;
        let cached: Cached = serde_json::from_str(&text).ok()?;
        (cached.live != LiveBoot::NotTried).then_some(cached)
    }

    /// Whether it is about this program, and nothing has changed since.
    fn still_holds(&self, program: &Path) -> bool {
        self.files.first().is_some_and(|file| file == program)
            && Key::new(&self.files).is_ok_and(|now| now == self.key)
    }

    fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(self)
            .map_err(|error| banger_model::Error::internal("cannot write JSON").because(error))?;
        let partial = path.with_extension("partial");
        std::fs::write(&partial, text).at("write", &partial)?;
        std::fs::rename(&partial, path).at("write", path)
    }
}

/// Boots the kernel and watches its console. Says also whether it hung.
fn boot(prover: Prover, program: &Path, inputs: ProbeInputs<'_>) -> Result<(LiveBoot, bool)> {
    let console = inputs.scratch_dir.join("kvm-probe.console");
    let log = inputs.scratch_dir.join("kvm-probe.log");
    File::create(&console).at("create", &console)?;
    let watch = watch(&console)
        .map_err(std::io::Error::from)
        .at("watch", &console)?;
    let spawn = match prover {
        Prover::Firecracker => firecracker::spawn_probe,
        Prover::Qemu => qemu::spawn_probe,
    };
    let process = spawn(program, inputs.kernel, inputs.initramfs, &console, &log)?;
    let outcome = follow(prover, &process, &watch, &console, &log);
    let killed = process.send_kill().and_then(|()| {
        process.wait_until(Instant::now() + BOOT_TIMEOUT)?;
        Ok(process.reap())
    });
    if let Err(error) = killed {
        tracing::warn!(%error, pid = process.pid(), "the KVM probe was not ended");
    }
    for file in [&console, &log, &console.with_extension("json")] {
        if let Err(error) = std::fs::remove_file(file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
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
    prover: Prover,
    process: &Process,
    watch: &std::os::fd::OwnedFd,
    console: &Path,
    log: &Path,
) -> Result<(LiveBoot, bool)> {
    let deadline = Instant::now() + BOOT_TIMEOUT;
    loop {
        let mut fds = [process.poll_fd(), PollFd::new(watch, PollFlags::IN)];
        poll_until(&mut fds, deadline).at("watch", console)?;
        let ended = !fds[0].revents().is_empty();
        drain(watch);
        // Read after the wait, so that what was written before its end counts.
        let said = log_tail(console, 20)?;
        if said.contains(PROBE_OK) {
            return Ok((LiveBoot::Works, false));
        }
        let words = |text: String| match text.lines().last() {
            Some(line) => format!("; its last words: {line}"),
            None => String::new(),
        };
        if ended {
            let last = match log_tail(log, 1)? {
                last if last.is_empty() => said,
                last => last,
            };
            let why = format!(
                "{} ended before the guest reached user space{}",
                prover.name(),
                words(last)
            );
            return Ok((LiveBoot::Failed(why), false));
        }
        if Instant::now() >= deadline {
            let why = format!(
                "the guest hung for {} s under {}{}",
                BOOT_TIMEOUT.as_secs(),
                prover.name(),
                words(said)
            );
            return Ok((LiveBoot::Failed(why), true));
        }
    }
}

/// Takes the pending events off; what they say does not matter.
fn drain(watch: &std::os::fd::OwnedFd) {
    let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    while reader.next().is_ok() {}
}
