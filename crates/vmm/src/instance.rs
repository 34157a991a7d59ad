//! A VM that runs: its processes, watched and ended.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use banger_model::{Code, Error, Result, VmId, VmmKind};

use crate::firecracker::api_socket;
use crate::machine::{agent_socket, boot_socket};
use crate::process::Process;

/// How long a killed process may take to disappear: the kernel frees a big guest's memory in
/// that time even on a busy host.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a helper may take to end by itself after the VMM: it writes down what the
/// guest said last.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How much later than a helper, which ends because of it, a VMM may be seen to end.
const TAKEN_ALONG: Duration = Duration::from_millis(500);

/// One of the processes of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The VMM itself.
    Vmm,
    /// The program that carries vsock between the guest and unix sockets.
    Vsock,
    /// The program that keeps what the VMM and the guest's console write.
    Console,
    /// The program that carries the guest's network.
    Network,
}

/// What a VM consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Makeup {
    pub(crate) kind: VmmKind,
    /// The processes it needs, in the order in which they are ended.
    pub(crate) parts: &'static [Part],
}

impl Part {
    fn noun(self) -> &'static str {
        match self {
            Part::Vmm => "the VMM",
            Part::Vsock | Part::Console => "banger-vsock",
            Part::Network => "pasta",
        }
    }

    /// Where it stands when a VM is ended: the VMM first, since it is the one that is reported
    /// when several have ended, and those that write down its last words last.
    fn rank(self) -> u8 {
        match self {
            Part::Vmm => 0,
            Part::Network => 1,
            Part::Vsock | Part::Console => 2,
        }
    }

    /// Whether it ends by itself after the VMM, once it has written down its last words.
    fn has_last_words(self) -> bool {
        matches!(self, Part::Vsock | Part::Console)
    }
}

/// How an instance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The process that ended first.
    pub part: Part,
    /// Its status; absent when this process is not its parent.
    pub status: Option<ExitStatus>,
}

/// The processes of one running VM.
///
/// Dropping it ends nothing: VMs outlive whoever watches them. An instance that was launched by
/// this process should be kept until [`Instance::exited`] has resolved, so that its processes
/// are reaped.
#[derive(Debug)]
pub struct Instance {
    id: VmId,
    runtime_dir: PathBuf,
    /// Known once the VMM is.
    makeup: Option<Makeup>,
    processes: Vec<(Part, Process)>,
}

impl Instance {
    pub(crate) fn new(
        id: VmId,
        runtime_dir: PathBuf,
        makeup: Option<Makeup>,
        processes: Vec<(Part, Process)>,
    ) -> Instance {
        Instance {
            id,
            runtime_dir,
            makeup,
            processes,
        }
    }

    /// Adds what was found to belong to the same VM.
    pub(crate) fn add(&mut self, part: Part, process: Process, makeup: Option<Makeup>) {
        self.processes.push((part, process));
        self.processes.sort_by_key(|(part, _)| part.rank());
        self.makeup = self.makeup.or(makeup);
    }

    /// Whose instance it is.
    pub fn id(&self) -> &VmId {
        &self.id
    }

    /// The runtime directory it was launched with.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// Which VMM runs it; absent when only its helpers are left.
    pub fn kind(&self) -> Option<VmmKind> {
        self.makeup.map(|makeup| makeup.kind)
    }

    /// The VMM's process id, or that of a helper when only helpers are left.
    pub fn pid(&self) -> u32 {
        self.main().map_or(0, Process::pid)
    }

    /// Every process id that belongs to it.
    pub fn pids(&self) -> Vec<u32> {
        self.processes
            .iter()
            .map(|(_, process)| process.pid())
            .collect()
    }

    /// When it was started.
    pub fn started_at(&self) -> SystemTime {
        self.main()
            .map_or(SystemTime::UNIX_EPOCH, Process::started_at)
    }

    /// Whether every process it needs is alive.
    pub fn is_alive(&self) -> bool {
        self.missing().is_none()
            && !self
                .processes
                .iter()
                .any(|(_, process)| process.has_ended())
    }

    /// The VMM's process.
    pub(crate) fn vmm(&self) -> Option<&Process> {
        let vmm = self.processes.iter().find(|(part, _)| *part == Part::Vmm);
        vmm.map(|(_, process)| process)
    }

    fn main(&self) -> Option<&Process> {
        self.vmm()
            .or(self.processes.first().map(|(_, process)| process))
    }

    /// The part that was gone already when the instance was found.
    fn missing(&self) -> Option<Part> {
        let needed = self.makeup.map_or(&[Part::Vmm][..], |makeup| makeup.parts);
        needed
            .iter()
            .copied()
            .find(|part| !self.processes.iter().any(|(found, _)| found == part))
    }

    /// Waits until one of the processes has ended; at once when one is missing. The others may
    /// still run then: call [`Instance::kill`]. May be called any number of times.
    ///
    /// A VMM that ends takes its helpers along, which may be seen first; the VMM is named
    /// all the same.
    ///
    /// # Errors
    /// `io` when the process cannot be watched.
    pub async fn exited(&self) -> Result<Ended> {
        if let Some(part) = self.missing() {
            return Ok(Ended { part, status: None });
        }
        let mut waits: Vec<_> = self
            .processes
            .iter()
            .map(|(part, process)| Box::pin(async move { (*part, process.ended().await) }))
            .collect();
        let (part, status) = poll_fn(|context| {
            waits
                .iter_mut()
                .find_map(|wait| match wait.as_mut().poll(context) {
                    Poll::Ready(ended) => Some(Poll::Ready(ended)),
                    Poll::Pending => None,
                })
                .unwrap_or(Poll::Pending)
        })
        .await;
        let status = status.map_err(|source| {
            Error::new(Code::Io, format!("cannot watch {}", part.noun())).because(source)
        })?;
        let by_itself = part != Part::Vmm && status.is_none_or(|status| status.code().is_some());
        if by_itself
            && let Some(vmm) = self.vmm()
            && let Ok(Ok(status)) = tokio::time::timeout(TAKEN_ALONG, vmm.ended()).await
        {
            return Ok(Ended {
                part: Part::Vmm,
                status,
            });
        }
        Ok(Ended { part, status })
    }

    /// Sends a signal to the VMM alone; one that has ended is fine. What the VMM makes of it is
    /// its own business: [`Instance::exited`] tells when it has ended, and [`Instance::kill`]
    /// ends the rest.
    ///
    /// # Errors
    /// `vmm_failed` when the signal cannot be sent.
    pub fn send_signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let Some(vmm) = self.main() else {
            return Ok(());
        };
        vmm.send(signal).map_err(|source| {
            let message = format!("cannot send a signal to the VMM of VM {}", self.id);
            Error::new(Code::VmmFailed, message).because(source)
        })
    }

    /// Ends every process, waits for them and removes their sockets. Doing it again is fine.
    ///
    /// # Errors
    /// `vmm_failed` naming every step that failed; the other steps were still taken.
    pub async fn kill(&self) -> Result<()> {
        let mut failures = Vec::new();
        for (part, process) in &self.processes {
            if part.has_last_words() && self.makeup.is_some() {
                let last_words = tokio::time::timeout(LAST_WORDS, process.ended());
                if matches!(last_words.await, Ok(Ok(_))) {
                    continue;
                }
            }
            failures.extend(send_kill(*part, process));
            match tokio::time::timeout(KILL_TIMEOUT, process.ended()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    failures.push(format!("{} cannot be watched: {error}", part.noun()))
                }
                Err(_) => failures.push(still_runs(*part, process)),
            }
        }
        self.finish(failures)
    }

    /// [`Instance::kill`] for callers outside an async runtime.
    pub(crate) fn kill_blocking(&self) -> Result<()> {
        let mut failures = Vec::new();
        for (part, process) in &self.processes {
            if part.has_last_words()
                && self.makeup.is_some()
                && matches!(process.wait_until(Instant::now() + LAST_WORDS), Ok(true))
            {
                process.reap();
                continue;
            }
            failures.extend(send_kill(*part, process));
            match process.wait_until(Instant::now() + KILL_TIMEOUT) {
                Ok(true) => drop(process.reap()),
                Ok(false) => failures.push(still_runs(*part, process)),
                Err(error) => failures.push(format!("{} cannot be watched: {error}", part.noun())),
            }
        }
        self.finish(failures)
    }

    /// Removes the sockets once nothing makes them again, and reports everything that failed.
    fn finish(&self, mut failures: Vec<String>) -> Result<()> {
        let dir = &self.runtime_dir;
        for socket in [agent_socket(dir), boot_socket(dir), api_socket(dir)] {
            match std::fs::remove_file(&socket) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    failures.push(format!("cannot remove `{}`: {error}", socket.display()));
                }
                _ => {}
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            Code::VmmFailed,
            format!(
                "the VMM of VM {} was not ended cleanly: {}",
                self.id,
                failures.join("; ")
            ),
        ))
    }
}

fn send_kill(part: Part, process: &Process) -> Option<String> {
    let error = process.send_kill().err()?;
    Some(format!("{} cannot be killed: {error}", part.noun()))
}

fn still_runs(part: Part, process: &Process) -> String {
    format!(
        "{} (process {}) still runs {} s after SIGKILL",
        part.noun(),
        process.pid(),
        KILL_TIMEOUT.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Detached;
    use crate::testing::Scratch;
    use std::os::unix::process::ExitStatusExt;

    fn sleeper() -> Process {
        Detached {
            program: Path::new("/bin/sleep"),
            arg0: "sleep",
            args: vec!["1000".into()],
            stdin: std::process::Stdio::null(),
            stdout: None,
            log: &std::fs::File::create("/dev/null").unwrap(),
            tied: true,
            namespace: None,
        }
        .spawn()
        .unwrap()
    }

    const QEMU: Makeup = Makeup {
        kind: VmmKind::QemuTcg,
        parts: &[Part::Vmm, Part::Vsock],
    };

    fn instance(scratch: &Scratch) -> Instance {
        Instance::new(
            "00000000000a".parse().unwrap(),
            scratch.path().to_owned(),
            Some(QEMU),
            vec![(Part::Vmm, sleeper()), (Part::Vsock, sleeper())],
        )
    }

    #[tokio::test]
    async fn the_end_of_either_process_is_told_apart() {
        for (index, part) in [(0, Part::Vmm), (1, Part::Vsock)] {
            let scratch = Scratch::new();
            let instance = instance(&scratch);
            assert!(instance.is_alive());
            let (ended, ()) = tokio::join!(instance.exited(), async {
                instance.processes[index].1.send_kill().unwrap();
            });
            let ended = ended.unwrap();
            assert_eq!(ended.part, part);
            assert_eq!(ended.status.unwrap().signal(), Some(9));
            assert!(!instance.is_alive());
            assert!(
                !instance.processes[1 - index].1.has_ended(),
                "the other one is left"
            );
            instance.kill().await.unwrap();
            assert!(instance.processes[1 - index].1.has_ended());
        }
    }

    #[tokio::test]
    async fn a_vsock_program_that_the_vmm_took_along_is_not_blamed() {
        let scratch = Scratch::new();
        let mut instance = instance(&scratch);
        let (_, vsock) = instance.processes.remove(1);
        vsock.send_kill().unwrap();
        vsock.ended().await.unwrap();
        let ended = Detached {
            program: Path::new("/bin/true"),
            arg0: "true",
            args: Vec::new(),
            stdin: std::process::Stdio::null(),
            stdout: None,
            log: &std::fs::File::create("/dev/null").unwrap(),
            tied: true,
            namespace: None,
        }
        .spawn()
        .unwrap();
        ended.ended().await.unwrap();
        instance.processes.push((Part::Vsock, ended));
        // Seen first, for it has ended and the VMM has not.
        let (ended, ()) = tokio::join!(instance.exited(), async {
            instance.processes[0].1.send_kill().unwrap();
        });
        let ended = ended.unwrap();
        assert_eq!(ended.part, Part::Vmm);
        assert_eq!(ended.status.unwrap().signal(), Some(9));
    }

    #[tokio::test]
    async fn killing_removes_the_sockets_and_may_be_repeated() {
        let scratch = Scratch::new();
        let instance = instance(&scratch);
        let sockets = [agent_socket(scratch.path()), boot_socket(scratch.path())];
        for socket in &sockets {
            drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
        }
        let (first, second) = tokio::join!(instance.kill(), instance.kill());
        first.unwrap();
        second.unwrap();
        instance.kill().await.unwrap();
        assert!(sockets.iter().all(|socket| !socket.exists()));
        for pid in instance.pids() {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "no zombie");
        }
    }

    #[tokio::test]
    async fn one_failure_does_not_stop_the_rest() {
        let scratch = Scratch::new();
        let instance = instance(&scratch);
        // Something that `unlink` refuses.
        std::fs::create_dir(agent_socket(scratch.path())).unwrap();
        std::fs::write(boot_socket(scratch.path()), "").unwrap();
        let error = instance.kill().await.unwrap_err();
        assert_eq!(error.code(), Code::VmmFailed);
        assert!(error.message().contains("agent.sock"), "{error}");
        assert!(!boot_socket(scratch.path()).exists());
        assert!(
            instance
                .processes
                .iter()
                .all(|(_, process)| process.has_ended())
        );
    }

    #[tokio::test]
    async fn half_an_instance_has_ended_and_dropping_one_ends_nothing() {
        let scratch = Scratch::new();
        let mut instance = instance(&scratch);
        let (_, vmm) = instance.processes.remove(0);
        let ended = instance.exited().await.unwrap();
        assert_eq!((ended.part, ended.status), (Part::Vmm, None));
        instance.kill().await.unwrap();
        let pid = rustix::process::Pid::from_raw(vmm.pid().cast_signed()).unwrap();
        let again = Process::adopt(pid).unwrap();
        drop(vmm);
        assert!(!again.has_ended());
        again.send_kill().unwrap();
        again.ended().await.unwrap();
    }
}
