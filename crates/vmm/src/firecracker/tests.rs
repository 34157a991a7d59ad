//! The driver against a program that goes wrong as it is told, and against Firecracker itself
//! where there is one.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::Instant;

use banger_model::{ByteSize, Code};

use super::*;
use crate::testing::{Scratch, machine};

/// `examples/fake-firecracker.rs`, built by cargo with the tests.
fn fake() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.parent().and_then(Path::parent).unwrap();
    target.join("examples/fake-firecracker")
}

/// A machine whose directories exist, and a driver for it.
struct Bench {
    scratch: Scratch,
    machine: Machine,
    driver: Firecracker,
    within: Duration,
}

impl Bench {
    fn new(firecracker: PathBuf, behaviour: &str) -> Bench {
        let scratch = Scratch::new();
        let mut machine = machine(scratch.path(), "00000000000a");
        std::fs::create_dir(&machine.runtime_dir).unwrap();
        std::fs::write(machine.runtime_dir.join("behaviour"), behaviour).unwrap();
        machine.console_log = scratch.path().join("console.log");
        machine.vmm_log = scratch.path().join("vmm.log");
        let programs = FirecrackerPrograms {
            firecracker,
            keeper: fake(),
            pasta: None,
        };
        Bench {
            scratch,
            machine,
            driver: Firecracker::new(programs),
            within: Duration::from_secs(20),
        }
    }

    fn fake(behaviour: &str) -> Bench {
        Bench::new(fake(), behaviour)
    }

    fn patience(&self) -> Patience {
        Patience::of(self.within)
    }

    /// A launch that fails, and leaves nothing.
    fn fail(&self) -> Error {
        self.fail_with(&self.patience())
    }

    fn fail_with(&self, patience: &Patience) -> Error {
        let error = self.driver.launch(&self.machine, patience).unwrap_err();
        let left = crate::find_all(self.scratch.path()).unwrap();
        assert!(left.is_empty(), "{left:?}");
        for socket in [agent_socket, api_socket] {
            assert!(!socket(&self.machine.runtime_dir).exists());
        }
        error
    }
}

#[test]
fn a_machine_is_configured_in_order_and_found_again() {
    let bench = Bench::fake("");
    for stale in [agent_socket, api_socket] {
        std::fs::write(stale(&bench.machine.runtime_dir), "stale").unwrap();
    }
    let instance = bench
        .driver
        .launch(&bench.machine, &bench.patience())
        .unwrap();
    assert!(instance.is_alive());
    assert_eq!(instance.kind(), Some(VmmKind::Firecracker));
    let said = std::fs::read_to_string(bench.machine.runtime_dir.join("requests")).unwrap();
    let expected: Vec<String> = config::requests(&bench.machine)
        .unwrap()
        .iter()
        .map(|request| format!("{} {}\n", request.path, request.body))
        .collect();
    assert_eq!(said, expected.concat());
    let socket = std::fs::metadata(api_socket(&bench.machine.runtime_dir)).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.mode() & 0o777, 0o600, "private from its birth");
    let found = crate::find_all(bench.scratch.path()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1.pids(), instance.pids());
    assert!(found[0].1.is_alive());
    instance.kill_blocking().unwrap();
    assert!(!api_socket(&bench.machine.runtime_dir).exists());
    // The guest's console and the VMM's log are apart, and whole.
    let console = std::fs::read_to_string(&bench.machine.console_log).unwrap();
    assert_eq!(console, "the guest says hello\n");
    assert_eq!(std::fs::read(&bench.machine.vmm_log).unwrap(), b"");
}

#[test]
fn every_way_to_fail_is_told_apart_and_leaves_nothing() {
    for (behaviour, words, hint) in [
        ("dies", "this host is no good", None),
        (
            "refuses /drives/disk1",
            "refused `PUT /drives/disk1`: it is not \\u{1b}[31mgood: Cannot",
            Some("--memory"),
        ),
        (
            "refuses /actions",
            "refused `PUT /actions`",
            Some("--memory"),
        ),
        ("killed", "signal: 9", Some("oom")),
        ("nonsense", "broke off", None),
        ("endless", "broke off", None),
    ] {
        let error = Bench::fake(behaviour).fail();
        assert_eq!(error.code(), Code::VmmFailed, "{behaviour}");
        assert!(
            error.chain().contains(words),
            "{behaviour}: {}",
            error.chain()
        );
        let said = error.hint_text().unwrap_or_default();
        assert_eq!(!said.is_empty(), hint.is_some(), "{behaviour}: {said}");
        assert!(
            said.contains(hint.unwrap_or_default()),
            "{behaviour}: {said}"
        );
    }
}

#[test]
fn one_that_does_not_answer_is_ended() {
    for behaviour in ["hangs", "silent"] {
        let mut bench = Bench::fake(behaviour);
        bench.within = Duration::from_millis(300);
        let before = Instant::now();
        let error = bench.fail();
        assert!(before.elapsed() < Duration::from_secs(10), "{behaviour}");
        assert!(
            error.message().contains("did not answer"),
            "{behaviour}: {error}"
        );
    }
}

#[test]
fn one_that_nobody_wants_is_ended_at_once() {
    for behaviour in ["hangs", "silent"] {
        let bench = Bench::fake(behaviour);
        let (patience, wanted) = Patience::while_wanted(bench.within).unwrap();
        std::thread::scope(|scope| {
            let launch = scope.spawn(|| bench.fail_with(&patience));
            drop(wanted);
            assert_eq!(
                launch.join().unwrap().code(),
                Code::Cancelled,
                "{behaviour}"
            );
        });
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let mut bench = Bench::fake("");
    bench.machine.nat = true;
    let error = bench.fail();
    assert_eq!(error.code(), Code::MissingProgram);
    assert!(error.message().contains("pasta"), "{error}");
    bench.machine.nat = false;
    bench.machine.vcpus = 33;
    assert_eq!(bench.fail().code(), Code::InvalidArgument);
    assert!(!bench.machine.vmm_log.exists());
    bench.machine.vcpus = 1;
    bench.driver.programs.firecracker = "/nonexistent/firecracker".into();
    let error = bench.fail();
    assert_eq!(error.code(), Code::MissingProgram);
    assert!(
        error.message().contains("/nonexistent/firecracker"),
        "{error}"
    );
}

/// Firecracker itself, when the environment or `PATH` names one. It is in no package registry,
/// so a machine may well have none.
fn real() -> Option<PathBuf> {
    let search = crate::Search {
        firecracker_env: std::env::var_os("BANGER_FIRECRACKER").map(Into::into),
        path: std::env::var_os("PATH"),
        ..crate::Search::default()
    };
    match search.firecracker() {
        Ok(path) => Some(path),
        Err(error) => {
            eprintln!("not tried with Firecracker itself: {}", error.chain());
            None
        }
    }
}

#[test]
fn firecracker_itself_understands_what_it_is_told() {
    let Some(firecracker) = real() else {
        return;
    };
    let said = crate::versions::ask_version(&firecracker).unwrap();
    assert!(Version::find(&said).is_some(), "{said}");
    let mut bench = Bench::new(firecracker, "");
    let missing = bench.fail();
    assert!(
        missing.message().contains("`PUT /boot-source`"),
        "{missing}"
    );
    assert!(missing.message().contains("No such file"), "{missing}");

    // Everything it checks before it starts: the kernel is none.
    for file in ["vmlinux", "initramfs", "disk"] {
        std::fs::write(bench.scratch.path().join(file), [0; 4096]).unwrap();
    }
    bench.machine.kernel = bench.scratch.path().join("vmlinux");
    bench.machine.initramfs = bench.scratch.path().join("initramfs");
    for disk in &mut bench.machine.disks {
        disk.path = bench.scratch.path().join("disk");
    }
    let refused = bench.fail();
    assert!(refused.message().contains("`PUT /actions`"), "{refused}");
    bench.machine.memory = ByteSize::gib(1024);
    let refused = bench.fail();
    assert!(refused.message().contains("`PUT /"), "{refused}");
}
