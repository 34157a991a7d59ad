//! VMs that run, by guests that do exactly as the test wants: `examples/fake-vmm.rs`.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use banger_api::{Client, CreateVm, DeleteOptions, KillSignal, SetVm};
use banger_model::{ByteSize, Code, Error, VmState};

use crate::ground::{Ground, done, eventually, make, running};

const ONLY_STOPPED: DeleteOptions = DeleteOptions {
    only_stopped: true,
    discard: false,
};

async fn create(client: &Client, request: &CreateVm) {
    done(client, client.create_vm(request).await).await.unwrap();
}

async fn delete(client: &Client, name: &str) {
    done(
        client,
        client.delete_vm(name, DeleteOptions::default()).await,
    )
    .await
    .unwrap();
}

async fn state(client: &Client, name: &str) -> (VmState, Option<String>) {
    let vm = client.vm(name).await.unwrap();
    (vm.state, vm.reason)
}

/// Waits until the VM is in this state.
async fn until(client: &Client, name: &str, wanted: VmState) {
    eventually(&format!("{name} is {wanted}"), async || {
        client.vm(name).await.unwrap().state == wanted
    })
    .await;
}

fn assert_nothing_runs(ground: &Ground) {
    assert_eq!(ground.processes(), [0; 0]);
    assert_eq!(ground.running(), [""; 0]);
}

#[tokio::test]
async fn a_restart_is_another_boot_and_a_kill_ends_stopped() {
    let ground = Ground::with_guests();
    let daemon = ground.start();
    let client = &daemon.client;
    create(client, &running("box")).await;
    let first = client.vm("box").await.unwrap();
    assert_eq!(first.state, VmState::Running);
    assert!(
        first
            .ssh_host_key
            .as_ref()
            .unwrap()
            .starts_with("ssh-ed25519 AAAA")
    );
    assert_eq!(first.ssh_host_key.as_ref().unwrap().split(' ').count(), 2);
    let identity = ground.state().join("ssh/id_ed25519");
    assert_eq!(first.ssh_identity, identity.display().to_string());

    done(client, client.restart_vm("box").await).await.unwrap();
    let second = client.vm("box").await.unwrap();
    assert_eq!(second.state, VmState::Running);
    assert_ne!(second.boot_id, first.boot_id);
    assert_ne!(second.pid, first.pid);
    assert_eq!(second.ssh_host_key, first.ssh_host_key);

    for (signal, reason) in [
        (KillSignal::Kill, "killed"),
        (KillSignal::Term, "killed with SIGTERM"),
    ] {
        done(client, client.kill_vm("box", signal).await)
            .await
            .unwrap();
        let shown = state(client, "box").await;
        assert_eq!(shown, (VmState::Stopped, Some(reason.to_owned())));
        assert_nothing_runs(&ground);
        // Once more is a success, and changes nothing.
        done(client, client.kill_vm("box", signal).await)
            .await
            .unwrap();
        assert_eq!(state(client, "box").await, shown);
        // One that does not run is only started.
        done(client, client.restart_vm("box").await).await.unwrap();
        assert_eq!(state(client, "box").await, (VmState::Running, None));
    }
    delete(client, "box").await;
    assert_nothing_runs(&ground);
}

#[tokio::test]
async fn a_kill_cuts_a_start_a_stop_and_a_gentler_kill_short() {
    let ground = Ground::with_guests();
    let daemon = ground.start();
    let client = &daemon.client;
    create(client, &make("box")).await;

    // A guest that never comes up.
    ground.behave("silent");
    let started = client.start_vm("box").await.unwrap();
    eventually("its VMM runs", async || {
        client.vm("box").await.unwrap().pid.is_some()
    })
    .await;
    done(client, client.kill_vm("box", KillSignal::Kill).await)
        .await
        .unwrap();
    let error = client.wait(&started.id, |_| {}).await.unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
    let killed = (VmState::Stopped, Some("killed".to_owned()));
    assert_eq!(state(client, "box").await, killed);
    assert_nothing_runs(&ground);

    // One that does not go down.
    ground.behave("deaf");
    done(client, client.start_vm("box").await).await.unwrap();
    let stopped = client.stop_vm("box").await.unwrap();
    until(client, "box", VmState::Stopping).await;
    let begun = Instant::now();
    done(client, client.kill_vm("box", KillSignal::Kill).await)
        .await
        .unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    // Whoever asked for the stop has what they wanted.
    client.wait(&stopped.id, |_| {}).await.unwrap();
    assert_eq!(state(client, "box").await, killed);
    assert_nothing_runs(&ground);

    // One whose VMM does not listen to signals.
    ground.behave("stubborn");
    done(client, client.start_vm("box").await).await.unwrap();
    let gentle = client.kill_vm("box", KillSignal::Term).await.unwrap();
    until(client, "box", VmState::Stopping).await;
    let begun = Instant::now();
    done(client, client.kill_vm("box", KillSignal::Kill).await)
        .await
        .unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    client.wait(&gentle.id, |_| {}).await.unwrap();
    assert_eq!(state(client, "box").await, killed);
    assert_nothing_runs(&ground);
}

#[tokio::test]
async fn a_restart_gives_way_to_a_stop_and_to_a_delete() {
    let ground = Ground::with_guests();
    let daemon = ground.start();
    let client = &daemon.client;
    create(client, &running("box")).await;
    ground.behave("silent");
    let restarted = client.restart_vm("box").await.unwrap();
    until(client, "box", VmState::Starting).await;
    done(client, client.stop_vm("box").await).await.unwrap();
    let error = client.wait(&restarted.id, |_| {}).await.unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
    assert_eq!(state(client, "box").await.0, VmState::Stopped);
    let restarted = client.restart_vm("box").await.unwrap();
    until(client, "box", VmState::Starting).await;
    delete(client, "box").await;
    assert!(client.wait(&restarted.id, |_| {}).await.is_err());
    assert_nothing_runs(&ground);
    assert!(ground.entries("vms").is_empty());
}

#[tokio::test]
async fn set_changes_stopped_vms_for_good_and_running_ones_not_at_all() {
    let ground = Ground::with_guests();
    let daemon = ground.start();
    let client = &daemon.client;
    create(client, &make("box")).await;
    let id = client.vm("box").await.unwrap().id;
    let disk = ground.state().join("vms").join(&id).join("work.ext4");
    let change = SetVm {
        vcpus: Some(3),
        memory: Some(ByteSize::mib(256)),
        disk_size: Some(ByteSize::mib(256)),
        nat: Some(true),
    };
    done(client, client.set_vm("box", &change).await)
        .await
        .unwrap();
    let blocks = std::fs::metadata(&disk).unwrap().blocks();
    // As one that was applied already.
    done(client, client.set_vm("box", &change).await)
        .await
        .unwrap();
    let meta = std::fs::metadata(&disk).unwrap();
    assert_eq!(
        (meta.len(), meta.blocks()),
        (256 << 20, blocks),
        "still sparse"
    );

    let nothing = SetVm::default();
    let with = |set: fn(&mut SetVm)| {
        let mut change = nothing.clone();
        set(&mut change);
        change
    };
    let refused = |error: Error, code: Code, words: &[&str]| {
        assert_eq!(error.code(), code, "{error:?}");
        assert!(error.hint_text().is_some(), "{error:?}");
        assert!(error.op_id().is_some(), "{error:?}");
        for word in words {
            assert!(error.message().contains(word), "{word}: {error:?}");
        }
    };
    let shrink = with(|change| change.disk_size = Some(ByteSize::mib(128)));
    let error = client.set_vm("box", &shrink).await.unwrap_err();
    refused(error, Code::InvalidArgument, &["128M", "256M"]);
    let many = with(|change| change.vcpus = Some(0));
    let error = client.set_vm("box", &many).await.unwrap_err();
    refused(error, Code::InvalidArgument, &["--vcpu"]);

    // Kept by the database, whichever way the daemon went.
    daemon.kill();
    let daemon = ground.start();
    let client = &daemon.client;
    let vm = client.vm("box").await.unwrap();
    assert_eq!(
        (vm.vcpus, vm.memory, vm.disk_size, vm.nat),
        (3, ByteSize::mib(256), ByteSize::mib(256), true)
    );

    done(client, client.start_vm("box").await).await.unwrap();
    done(client, client.set_vm("box", &change).await)
        .await
        .unwrap();
    let more = with(|change| change.memory = Some(ByteSize::mib(512)));
    let error = done(client, client.set_vm("box", &more).await)
        .await
        .unwrap_err();
    refused(error, Code::Conflict, &["runs"]);
    let nat = with(|change| change.nat = Some(false));
    let error = done(client, client.set_vm("box", &nat).await)
        .await
        .unwrap_err();
    refused(error, Code::Conflict, &["network"]);
    delete(client, "box").await;
}

#[tokio::test]
async fn a_disk_that_was_not_enlarged_in_time_is_by_the_next_start() {
    let ground = Ground::with_guests();
    let daemon = ground.start();
    create(&daemon.client, &make("box")).await;
    let id = daemon.client.vm("box").await.unwrap().id;
    daemon.kill();
    let daemon = ground.start_with(&[("BANGER_TEST_ABORT", "set-vm:2")]);
    let change = SetVm {
        disk_size: Some(ByteSize::mib(128)),
        ..SetVm::default()
    };
    // The row is written, the disk is not touched.
    let torn = done(&daemon.client, daemon.client.set_vm("box", &change).await).await;
    assert_eq!(torn.unwrap_err().code(), Code::DaemonUnavailable);
    let disk = ground.state().join("vms").join(&id).join("work.ext4");
    assert_eq!(std::fs::metadata(&disk).unwrap().len(), 64 << 20);
    let daemon = ground.start();
    let client = &daemon.client;
    assert_eq!(
        client.vm("box").await.unwrap().disk_size,
        ByteSize::mib(128)
    );
    done(client, client.start_vm("box").await).await.unwrap();
    assert_eq!(std::fs::metadata(&disk).unwrap().len(), 128 << 20);
}

#[tokio::test]
async fn a_delete_for_stopped_vms_leaves_the_others() {
    let ground = Ground::with_guests();
    let daemon = ground.start();
    let client = &daemon.client;
    create(client, &running("runs")).await;
    create(client, &make("stands")).await;
    let refused = done(client, client.delete_vm("runs", ONLY_STOPPED).await).await;
    let error = refused.unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
    assert!(error.hint_text().unwrap().contains("banger vm stop runs"));
    let gone = client.delete_vm("stands", ONLY_STOPPED).await;
    done(client, gone).await.unwrap();
    let left: Vec<_> = client
        .vms()
        .await
        .unwrap()
        .into_iter()
        .map(|vm| vm.name)
        .collect();
    assert_eq!(left, ["runs"]);
    // One that comes up is left alone at once.
    ground.behave("silent");
    create(client, &make("rises")).await;
    let started = client.start_vm("rises").await.unwrap();
    let refused = done(client, client.delete_vm("rises", ONLY_STOPPED).await).await;
    assert_eq!(refused.unwrap_err().code(), Code::Conflict);
    delete(client, "rises").await;
    assert!(client.wait(&started.id, |_| {}).await.is_err());
    let answer = ground
        .raw(b"DELETE /v1/vms/runs?only=running HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    delete(client, "runs").await;
}

#[tokio::test]
async fn stats_are_there_for_what_runs_and_what_does_not() {
    let ground = Ground::with_guests();
    let daemon = ground.start();
    let client = &daemon.client;
    create(client, &make("stands")).await;
    create(client, &running("runs")).await;
    let stats = client.stats().await.unwrap();
    let names: Vec<_> = stats.iter().map(|stats| stats.name.as_str()).collect();
    assert_eq!(names, ["stands", "runs"], "in order of creation");
    assert_eq!((stats[0].cpu_seconds, stats[0].memory_used), (None, None));
    assert!(stats[1].cpu_seconds.unwrap() >= 0.0);
    // Two small processes.
    let memory = stats[1].memory_used.unwrap();
    assert!((50 << 10..100 << 20).contains(&memory), "{memory}");
    for stats in &stats {
        assert!((1..10 << 20).contains(&stats.disk_used), "{stats:?}");
    }
    delete(client, "runs").await;
}

#[tokio::test]
async fn why_a_vm_stopped_is_known_to_the_next_daemon() {
    let ground = Ground::with_guests();
    let daemon = ground.start();
    let client = &daemon.client;
    create(client, &running("box")).await;
    done(client, client.kill_vm("box", KillSignal::Kill).await)
        .await
        .unwrap();
    daemon.kill();
    let daemon = ground.start();
    let client = &daemon.client;
    let killed = (VmState::Stopped, Some("killed".to_owned()));
    assert_eq!(state(client, "box").await, killed);
    // A start that works leaves nothing of it, also for the daemon after that.
    done(client, client.start_vm("box").await).await.unwrap();
    done(client, client.stop_vm("box").await).await.unwrap();
    assert_eq!(state(client, "box").await, (VmState::Stopped, None));
    daemon.kill();
    let daemon = ground.start();
    assert_eq!(state(&daemon.client, "box").await, (VmState::Stopped, None));
}

#[tokio::test]
async fn a_vm_outlives_its_daemon_and_is_stopped_by_the_next() {
    let ground = Ground::with_guests();
    let daemon = ground.start();
    create(&daemon.client, &running("box")).await;
    let before = daemon.client.vm("box").await.unwrap();
    daemon.kill();
    let daemon = ground.start();
    let client = &daemon.client;
    let after = client.vm("box").await.unwrap();
    assert_eq!(after.state, VmState::Running);
    assert_eq!(
        (after.boot_id, after.pid, after.ssh_host_key),
        (before.boot_id, before.pid, before.ssh_host_key)
    );
    done(client, client.stop_vm("box").await).await.unwrap();
    assert_nothing_runs(&ground);
}

#[tokio::test]
async fn an_end_by_itself_has_its_reason_and_disturbs_nobody() {
    let ground = Ground::with_guests();
    let daemon = ground.start();
    let client = &daemon.client;
    create(client, &running("other")).await;
    create(client, &make("box")).await;
    let other = client.vm("other").await.unwrap();
    // The VMM, and the program beside it.
    for (part, word) in [(0, "VMM"), (1, "vsock")] {
        done(client, client.start_vm("box").await).await.unwrap();
        let vm = client.vm("box").await.unwrap();
        let pids = ground.processes_of(&vm.id);
        assert_eq!((pids.len(), Some(pids[0])), (2, vm.pid));
        let begun = Instant::now();
        kill(pids[part]);
        until(client, "box", VmState::Stopped).await;
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        let reason = state(client, "box").await.1.unwrap();
        assert!(
            reason.contains("signal 9") && reason.contains(word),
            "{reason}"
        );
        assert_eq!(ground.processes_of(&vm.id), [0; 0]);
        let still = client.vm("other").await.unwrap();
        assert_eq!(still.state, VmState::Running);
        assert_eq!(still.boot_id, other.boot_id);
        assert_eq!(ground.running(), std::slice::from_ref(&other.id));
    }
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
