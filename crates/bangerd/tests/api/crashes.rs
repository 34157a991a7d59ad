//! Every step of every operation, ended, failed or hung: afterwards each VM is absent or usable,
//! and nothing is left that belongs to nobody.
//!
//! No list of steps is kept: they are counted up, by the failpoints of the daemon, until the
//! operation ends untouched.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use banger_api::{Client, DeleteOptions, KillSignal, Operation, SetVm};
use banger_model::{ByteSize, Code, Result, VmState};

use crate::ground::{Daemon, Ground, done, eventually, make, running};

const NAME: &str = "box";
/// More steps than any operation has.
const STEPS_MAX: u32 = 100;

/// What is done to the VM, from which state, and how many steps that has at least: fewer mean
/// that failpoints got lost.
#[derive(Clone, Copy)]
struct Case {
    kind: &'static str,
    from: Option<VmState>,
    at_least: u32,
}

const fn case(kind: &'static str, from: Option<VmState>, at_least: u32) -> Case {
    Case {
        kind,
        from,
        at_least,
    }
}

const CASES: [Case; 9] = [
    case("create-vm", None, 20),
    case("start-vm", Some(VmState::Stopped), 6),
    case("stop-vm", Some(VmState::Running), 4),
    case("kill-vm", Some(VmState::Running), 5),
    case("restart-vm", Some(VmState::Running), 9),
    case("restart-vm", Some(VmState::Stopped), 6),
    case("set-vm", Some(VmState::Stopped), 4),
    case("delete-vm", Some(VmState::Stopped), 5),
    case("delete-vm", Some(VmState::Running), 6),
];

impl Case {
    /// Brings the VM to where the operation begins.
    async fn prepare(&self, client: &Client) {
        let made = match self.from {
            None => return,
            Some(VmState::Running) => client.create_vm(&running(NAME)).await,
            Some(_) => client.create_vm(&make(NAME)).await,
        };
        done(client, made).await.unwrap();
    }

    async fn begin(&self, client: &Client) -> Result<Operation> {
        match self.kind {
            "create-vm" => client.create_vm(&running(NAME)).await,
            "start-vm" => client.start_vm(NAME).await,
            "stop-vm" => client.stop_vm(NAME).await,
            "kill-vm" => client.kill_vm(NAME, KillSignal::Term).await,
            "restart-vm" => client.restart_vm(NAME).await,
            "set-vm" => {
                let change = SetVm {
                    disk_size: Some(ByteSize::mib(128)),
                    vcpus: Some(3),
                    ..SetVm::default()
                };
                client.set_vm(NAME, &change).await
            }
            "delete-vm" => client.delete_vm(NAME, DeleteOptions::default()).await,
            other => panic!("{other} is no operation"),
        }
    }
}

/// A ground on which everything that is made once and kept has been made.
async fn warm() -> (Ground, BTreeSet<PathBuf>) {
    let ground = Ground::with_guests();
    let daemon = ground.start();
    let client = &daemon.client;
    let made = client.create_vm(&running("warm")).await;
    done(client, made).await.unwrap();
    let deleted = client.delete_vm("warm", DeleteOptions::default()).await;
    done(client, deleted).await.unwrap();
    daemon.kill();
    let files = ground.files();
    (ground, files)
}

/// The VM is absent, or it starts, stops and can be deleted; afterwards everything is as before.
async fn assert_absent_or_usable(ground: &Ground, daemon: &Daemon, files: &BTreeSet<PathBuf>) {
    let client = &daemon.client;
    for vm in client.vms().await.unwrap() {
        assert_ne!(vm.state, VmState::Broken, "{vm:?}");
        done(client, client.start_vm(&vm.id).await).await.unwrap();
        let vm = client.vm(&vm.id).await.unwrap();
        assert_eq!(vm.state, VmState::Running);
        assert!(vm.ssh_host_key.is_some());
        let disk = ground.state().join("vms").join(&vm.id).join("work.ext4");
        let size = std::fs::metadata(disk).unwrap().len();
        assert_eq!(size, vm.disk_size.as_bytes());
        done(client, client.stop_vm(&vm.id).await).await.unwrap();
        done(
            client,
            client.delete_vm(&vm.id, DeleteOptions::default()).await,
        )
        .await
        .unwrap();
    }
    assert_as_before(ground, files);
}

/// Both ways: nothing more, nothing less.
fn assert_as_before(ground: &Ground, files: &BTreeSet<PathBuf>) {
    assert_eq!(ground.processes(), [0; 0], "no process is left");
    let now = ground.files();
    let more: Vec<_> = now.difference(files).collect();
    let less: Vec<_> = files.difference(&now).collect();
    assert!(
        more.is_empty() && less.is_empty(),
        "more {more:?}, less {less:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_ends_at_any_step_leaves_whole_vms_or_none() {
    let (ground, files) = warm().await;
    for case in CASES {
        let mut step = 0;
        loop {
            step += 1;
            assert!(step < STEPS_MAX, "{} has no end", case.kind);
            let daemon = ground.start();
            case.prepare(&daemon.client).await;
            daemon.kill();
            let armed = format!("{}:{step}", case.kind);
            let daemon = ground.start_with(&[("BANGER_TEST_ABORT", &armed)]);
            let ended = done(&daemon.client, case.begin(&daemon.client).await).await;
            let untouched = daemon.client.daemon().await.is_ok();
            daemon.kill();
            let begun = Instant::now();
            let daemon = ground.start();
            assert!(begun.elapsed() < Duration::from_secs(5), "{armed}");
            assert_absent_or_usable(&ground, &daemon, &files).await;
            daemon.kill();
            if untouched {
                ended.unwrap();
                break;
            }
            assert_eq!(
                ended.unwrap_err().code(),
                Code::DaemonUnavailable,
                "{armed}"
            );
        }
        let steps = step - 1;
        eprintln!("{} from {:?}: {steps} steps", case.kind, case.from);
        assert!(steps >= case.at_least, "{}: {steps} steps", case.kind);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_fails_is_undone_or_shown() {
    let (ground, files) = warm().await;
    for case in CASES {
        for step in 1..STEPS_MAX {
            let daemon = ground.start();
            case.prepare(&daemon.client).await;
            daemon.kill();
            let armed = format!("{}:{step}", case.kind);
            let daemon =
                ground.start_with(&[("BANGER_TEST_FAIL", &armed), ("BANGER_LOG", "debug")]);
            let client = &daemon.client;
            let ended = done(client, case.begin(client).await).await;
            let was_hit = ground.log().contains("a test wanted it to fail");
            let vms = client.vms().await.unwrap();
            let broken = vms.iter().any(|vm| vm.state == VmState::Broken);
            if let Err(error) = &ended {
                assert!(error.op_id().is_some(), "{armed}: {error:?}");
            }
            for vm in &vms {
                let busy = matches!(vm.state, VmState::Creating | VmState::Deleting);
                assert!(!busy, "{armed}: {vm:?}");
                assert!(!broken || vm.reason.is_some(), "{armed}: {vm:?}");
            }
            // Whoever deletes it gets rid of it, without a restart where the failure is not one
            // of deleting.
            if broken && case.kind != "delete-vm" {
                done(
                    client,
                    client.delete_vm(NAME, DeleteOptions::default()).await,
                )
                .await
                .unwrap();
            }
            daemon.kill();
            let daemon = ground.start();
            assert_absent_or_usable(&ground, &daemon, &files).await;
            daemon.kill();
            std::fs::remove_file(ground.state().join("bangerd.log")).unwrap();
            if !was_hit {
                ended.unwrap();
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_that_fails_leaves_a_broken_vm_that_can_be_deleted() {
    let (ground, files) = warm().await;
    let mut broken = 0;
    // Each step of the making, and after it each one of the undoing.
    for step in 1..20 {
        for undo in step + 1..step + 6 {
            let armed = format!("create-vm:{step},create-vm:{undo}");
            let daemon = ground.start_with(&[("BANGER_TEST_FAIL", &armed)]);
            let client = &daemon.client;
            done(client, client.create_vm(&running(NAME)).await)
                .await
                .unwrap_err();
            for vm in client.vms().await.unwrap() {
                assert_eq!(vm.state, VmState::Broken, "{armed}");
                assert!(vm.reason.is_some(), "{armed}");
                broken += 1;
                let error = done(client, client.start_vm(NAME).await).await.unwrap_err();
                assert_eq!(error.code(), Code::Conflict, "{armed}");
                done(
                    client,
                    client.delete_vm(NAME, DeleteOptions::default()).await,
                )
                .await
                .unwrap();
            }
            assert_as_before(&ground, &files);
            daemon.kill();
        }
    }
    assert!(broken > 10, "{broken} rollbacks failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_fails_is_shown_by_the_next_daemon_too() {
    let (ground, files) = warm().await;
    let daemon = ground.start();
    done(
        &daemon.client,
        daemon.client.create_vm(&running(NAME)).await,
    )
    .await
    .unwrap();
    daemon.kill();
    // Its directory cannot be removed, by whoever tries.
    let failing = [("BANGER_TEST_FAIL", "delete-vm:3,reconcile:3")];
    for _ in 0..2 {
        let daemon = ground.start_with(&failing);
        let client = &daemon.client;
        for _ in 0..2 {
            if client.vm(NAME).await.unwrap().state != VmState::Broken {
                let error = done(
                    client,
                    client.delete_vm(NAME, DeleteOptions::default()).await,
                )
                .await
                .unwrap_err();
                assert_eq!(error.code(), Code::Io);
                assert!(error.hint_text().is_some());
            }
            let vm = client.vm(NAME).await.unwrap();
            assert_eq!(vm.state, VmState::Broken);
            assert!(vm.reason.unwrap().contains("a test wanted it to fail"));
        }
        daemon.kill();
    }
    let daemon = ground.start();
    assert_absent_or_usable(&ground, &daemon, &files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_hangs_blocks_nobody_else_and_a_kill_ends_it() {
    let (ground, files) = warm().await;
    for (case, steps) in [
        (CASES[0], [1, 8, 17]),
        (CASES[1], [1, 3, 5]),
        (CASES[8], [1, 3, 5]),
    ] {
        for step in steps {
            let daemon = ground.start();
            case.prepare(&daemon.client).await;
            daemon.kill();
            let armed = format!("{}:{step}", case.kind);
            let daemon =
                ground.start_with(&[("BANGER_TEST_HANG", &armed), ("BANGER_LOG", "debug")]);
            let client = daemon.client.clone();
            let asking = tokio::spawn(async move { case.begin(&client).await.map(drop) });
            let hit = format!("kind=\"{}\" number={step} ", case.kind);
            eventually(&armed, async || ground.log().contains(&hit)).await;
            let begun = Instant::now();
            daemon.client.vms().await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(2), "{armed}");
            daemon.kill();
            // The first step of a creation comes before the answer.
            if asking.await.unwrap().is_err() {
                assert_eq!((case.kind, step), ("create-vm", 1));
            }
            let begun = Instant::now();
            let daemon = ground.start();
            daemon.client.vms().await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(2), "{armed}");
            assert_absent_or_usable(&ground, &daemon, &files).await;
            assert!(begun.elapsed() < Duration::from_secs(10), "{armed}");
            daemon.kill();
            std::fs::remove_file(ground.state().join("bangerd.log")).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_ends_while_it_starts_is_followed_by_one_that_does_not() {
    let (ground, files) = warm().await;
    let mut step = 0;
    loop {
        step += 1;
        assert!(step < STEPS_MAX);
        let daemon = ground.start();
        let client = &daemon.client;
        // One to remove, with a VMM that runs; one that is half made; one that ended meanwhile.
        for name in ["goes", "ended"] {
            done(client, client.create_vm(&running(name)).await)
                .await
                .unwrap();
        }
        let ended = client.vm("ended").await.unwrap();
        daemon.kill();
        let daemon = ground.start_with(&[
            ("BANGER_TEST_HANG", "create-vm:15"),
            ("BANGER_TEST_ABORT", "delete-vm:2"),
            ("BANGER_LOG", "debug"),
        ]);
        daemon.client.create_vm(&running("half")).await.unwrap();
        eventually("it is half made", async || {
            ground.log().contains("number=15 ")
        })
        .await;
        done(
            &daemon.client,
            daemon
                .client
                .delete_vm("goes", DeleteOptions::default())
                .await,
        )
        .await
        .unwrap_err();
        daemon.kill();
        std::fs::remove_file(ground.state().join("bangerd.log")).unwrap();
        let pid = rustix::process::Pid::from_raw(ended.pid.unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();

        let armed = format!("reconcile:{step}");
        let aborted = ground.try_start_with(&[("BANGER_TEST_ABORT", &armed)]);
        let untouched = aborted.is_some();
        drop(aborted);
        let daemon = ground.start();
        let names: Vec<_> = daemon
            .client
            .vms()
            .await
            .unwrap()
            .into_iter()
            .map(|vm| vm.name)
            .collect();
        assert_eq!(names, ["ended"], "{armed}");
        assert_absent_or_usable(&ground, &daemon, &files).await;
        daemon.kill();
        if untouched {
            break;
        }
    }
    eprintln!("reconcile: {} steps", step - 1);
    assert!(step > 10, "{step} steps");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_in_any_call_leaves_nothing_half_done() {
    let (ground, files) = warm().await;
    let daemon = ground.start();
    let client = &daemon.client;
    for case in CASES {
        let (method, path, body) = match case.kind {
            "create-vm" => ("POST", "", serde_json::to_string(&running(NAME)).unwrap()),
            "set-vm" => (
                "PATCH",
                "/box",
                r#"{"vcpus": 3, "disk_size": 134217728}"#.to_owned(),
            ),
            "kill-vm" => ("POST", "/box/kill", "{}".to_owned()),
            "delete-vm" => ("DELETE", "/box", String::new()),
            kind => {
                let verb = kind.trim_end_matches("-vm");
                let path = ["/start", "/stop", "/restart"]
                    .into_iter()
                    .find(|path| &path[1..] == verb)
                    .unwrap();
                ("POST", path, String::new())
            }
        };
        let path = match path.strip_prefix("/box") {
            Some(_) => path.to_owned(),
            None if path.is_empty() => String::new(),
            None => format!("/{NAME}{path}"),
        };
        let request = format!(
            "{method} /v1/vms{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let begun = || ground.log().matches("operation begins").count();
        // In the middle of the request, before the answer is read, and in the middle of it.
        for (sent, heard, looks) in [
            (request.len() / 2, false, false),
            (request.len(), true, false),
            (request.len(), true, true),
        ] {
            case.prepare(client).await;
            let before = begun();
            let mut stream = UnixStream::connect(ground.socket()).unwrap();
            stream.write_all(&request.as_bytes()[..sent]).unwrap();
            if heard {
                eventually("it is heard", async || begun() > before).await;
            }
            if looks {
                stream.read_exact(&mut [0; 8]).unwrap();
            }
            drop(stream);
            eventually("what was begun has ended", async || {
                begun() == ground.log().matches("operation succeeded").count()
            })
            .await;
            assert_eq!(begun() - before, usize::from(heard), "{}", case.kind);
            let there = client.vm(NAME).await.is_ok();
            let gone = match case.kind {
                "create-vm" => !heard,
                kind => kind == "delete-vm" && heard,
            };
            assert_eq!(there, !gone, "{}", case.kind);
            assert_absent_or_usable(&ground, &daemon, &files).await;
        }
    }
}
