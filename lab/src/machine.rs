//! Running the outer machine: it never outlives this program.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use banger_model::{Code, Error, IoContext, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::carry::Disks;
use crate::outer::Outer;

/// One processor, and memory in MiB.
///
/// One, because QEMU 10.0 does not emulate AMD's virtualisation well on two: an interrupt between
/// processors, which is how KVM asks a processor to leave its guest, was delivered right after
/// `VMRUN`, where interrupts are off and the guest's `GS` is still loaded. Two outer machines
/// panicked there within their first scenarios; with one processor one died in about 280 boots.
const CPUS: &str = "1";
const MEMORY: &str = "4096";
/// The longest line that is read; a longer one is cut.
const LINE: u64 = 64 << 10;

/// What a machine is run with.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) outer: &'a Outer,
    pub(crate) disks: &'a Disks,
    /// Where its console goes.
    pub(crate) console: &'a Path,
    /// When it is ended.
    pub(crate) deadline: Instant,
    pub(crate) cancel: &'a CancellationToken,
}

/// Runs it to its end, with each line of its second serial port to `on_line`.
///
/// # Errors
/// `cancelled`, or `vmm_failed` when it lives beyond its deadline or QEMU fails, with what was
/// said last. The process is gone in every case.
pub(crate) async fn run(run: Run<'_>, on_line: &mut (dyn FnMut(&str) + Send)) -> Result<()> {
    let mut command = run.outer.emulator.command();
    command
        .args(arguments(run.outer, run.disks, run.console))
        // QEMU keeps what the outer machine changes on its disk in a file without a name.
        .env(
            "TMPDIR",
            run.disks.inside.parent().unwrap_or(Path::new("/tmp")),
        );
    follow(command, run.console, run.deadline, run.cancel, on_line).await
}

fn arguments(outer: &Outer, disks: &Disks, console: &Path) -> Vec<String> {
    let mut args: Vec<String> = [
        "-nodefaults",
        "-display",
        "none",
        "-machine",
        "q35",
        "-accel",
        "tcg,thread=multi",
        // What software emulation can do at most, AMD's virtualisation included.
        "-cpu",
        "max",
        "-smp",
        CPUS,
        "-m",
        MEMORY,
        "-nic",
        "none",
        "-no-reboot",
        "-append",
        // On a busy machine the timer does not tick when the kernel looks for it. Emulated
        // virtualisation has been seen to stop both processors: that ends the machine after two
        // minutes instead of at the limit.
        "console=ttyS0 root=/dev/vda rw panic=-1 quiet no_timer_check \
         watchdog_thresh=60 softlockup_panic=1",
    ]
    .map(str::to_owned)
    .into();
    let mut pair = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
    pair("-kernel", outer.kernel.display().to_string());
    pair("-initrd", outer.initrd.display().to_string());
    for (id, path, rest) in [
        ("outer", &outer.disk, "cache=unsafe,snapshot=on"),
        ("inside", &disks.inside, "cache=unsafe"),
        ("results", &disks.results, "cache=writeback"),
    ] {
        pair(
            "-drive",
            format!("file={},format=raw,if=none,{rest},id={id}", quoted(path)),
        );
        pair("-device", format!("virtio-blk-pci,drive={id},serial={id}"));
    }
    pair("-device", "virtio-rng-pci".to_owned());
    pair("-serial", format!("file:{}", quoted(console)));
    pair("-serial", "stdio".to_owned());
    args
}

/// A path among QEMU's options, where a comma is doubled.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Follows a machine to its end, and ends it when it must.
async fn follow(
    mut command: Command,
    console: &Path,
    deadline: Instant,
    cancel: &CancellationToken,
    on_line: &mut (dyn FnMut(&str) + Send),
) -> Result<()> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        // Ctrl-C is for this program, which ends the machine in its own way.
        .process_group(0);
    let parent = rustix::process::getpid();
    // SAFETY: prctl and getppid are async-signal-safe and allocate nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // It may have died before it was asked for.
            if rustix::process::getppid() != Some(parent) {
                return Err(std::io::Error::other("the lab is gone"));
            }
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(|error| {
        Error::new(Code::MissingProgram, "cannot run the outer machine")
            .because(error)
            .hint("run `make deps`")
    })?;
    let errors = child.stderr.take();
    let outcome = tokio::select! {
        outcome = listen(&mut child, on_line) => outcome,
        () = tokio::time::sleep_until(deadline.into()) => Err(Error::new(
            Code::VmmFailed,
            "the outer machine was ended: the time is up",
        )
        .hint("LAB_MINUTES gives the lab longer")),
        () = cancel.cancelled() => Err(Error::new(Code::Cancelled, "given up")),
    };
    // It has ended already unless it must.
    child.kill().await.map_err(|error| {
        Error::new(Code::VmmFailed, "the outer machine did not end").because(error)
    })?;
    let mut said = String::new();
    if let Some(errors) = errors {
        // What it said is for an error message only.
        if let Err(error) = errors.take(LINE).read_to_string(&mut said).await {
            said = error.to_string();
        }
    }
    outcome.map_err(|error| error.because(Words(said + &tail(console))))
}

/// Reads lines until the machine is off.
async fn listen(child: &mut Child, on_line: &mut (dyn FnMut(&str) + Send)) -> Result<()> {
    let broken =
        |error| Error::new(Code::VmmFailed, "the outer machine cannot be read").because(error);
    if let Some(output) = child.stdout.take() {
        let mut lines = BufReader::new(output);
        let mut line = Vec::new();
        while (&mut lines)
            .take(LINE)
            .read_until(b'\n', &mut line)
            .await
            .map_err(broken)?
            > 0
        {
            on_line(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    }
    let status = child.wait().await.map_err(broken)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(
        Code::VmmFailed,
        format!("QEMU ended with {status}"),
    ))
}

/// The end of the console, for an error.
fn tail(console: &Path) -> String {
    let text = fs::read(console)
        .at("read", console)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    match text {
        Ok(text) => {
            let lines: Vec<&str> = text.lines().collect();
            let end = lines[lines.len().saturating_sub(10)..].join("\n");
            format!(
                "\nthe end of {}:\n{}",
                console.display(),
                end.escape_debug().to_string().replace("\\n", "\n")
            )
        }
        Err(error) => format!("\n{}", error.message()),
    }
}

/// What a program said, as a cause.
#[derive(Debug)]
struct Words(String);

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.trim())
    }
}

impl std::error::Error for Words {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    async fn followed(script: &str, limit: Duration) -> (Result<()>, Vec<String>) {
        let mut lines = Vec::new();
        let outcome = follow(
            shell(script),
            Path::new("/nonexistent/console"),
            Instant::now() + limit,
            &CancellationToken::new(),
            &mut |line| lines.push(line.to_owned()),
        )
        .await;
        (outcome, lines)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn lines_arrive_and_the_end_is_noticed() {
        let (outcome, lines) = followed("echo one; printf 'two\\r\\n'; printf three", LONG).await;
        outcome.unwrap();
        assert_eq!(lines, ["one", "two", "three"]);
        let (outcome, _) = followed("echo no such disk >&2; exit 3", LONG).await;
        let error = outcome.unwrap_err();
        assert!(crate::words(&error).contains("no such disk"), "{error:?}");
    }

    #[tokio::test]
    async fn a_machine_that_hangs_is_ended() {
        let begun = Instant::now();
        let (outcome, lines) =
            followed("echo $$; exec sleep 600", Duration::from_millis(300)).await;
        assert_eq!(outcome.unwrap_err().code(), Code::VmmFailed);
        assert!(begun.elapsed() < LONG);
        let proc = Path::new("/proc").join(&lines[0]);
        assert!(!proc.exists(), "{} is still there", proc.display());
    }

    #[tokio::test]
    async fn giving_up_ends_it_too() {
        let cancel = CancellationToken::new();
        let mut pid = String::new();
        let outcome = follow(
            shell("echo $$; exec sleep 600"),
            Path::new("/nonexistent/console"),
            Instant::now() + LONG,
            &cancel,
            &mut |line| {
                pid = line.to_owned();
                cancel.cancel();
            },
        )
        .await;
        assert_eq!(outcome.unwrap_err().code(), Code::Cancelled);
        assert!(!Path::new("/proc").join(&pid).exists());
    }
}
