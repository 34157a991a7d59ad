//! VMs that are made, found, kept and deleted, with clients and daemons that vanish.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use banger_api::{CreateVm, DeleteOptions, OperationState};
use banger_model::{ByteSize, Code, Digest, DiskStrategy, VmId, VmSpec, VmState, VmmChoice};
use banger_store::{Intent, Store, VmRow};
use rustix::process::Signal;

use crate::ground::{Daemon, Ground, IMAGE, eventually, make};

async fn create(daemon: &Daemon, name: &str) {
    let created = daemon.client.create_vm(&make(name)).await.unwrap();
    daemon.client.wait(&created.id, |_| {}).await.unwrap();
}

async fn delete(daemon: &Daemon, reference: &str) {
    let deleted = daemon
        .client
        .delete_vm(reference, DeleteOptions::default())
        .await
        .unwrap();
    daemon.client.wait(&deleted.id, |_| {}).await.unwrap();
}

#[tokio::test]
async fn a_vm_is_made_found_kept_and_deleted_without_a_trace() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    let created = daemon.client.create_vm(&make("box-a")).await.unwrap();
    // It is there from the moment its name is taken.
    let early = daemon.client.vm("box-a").await.unwrap();
    assert_eq!(Some(&early.id), created.vm_id.as_ref());
    let mut stages = Vec::new();
    let done = daemon
        .client
        .wait(&created.id, |stage| stages.push(stage.name.clone()))
        .await
        .unwrap();
    assert_eq!(done.state, OperationState::Succeeded);
    create(&daemon, "box-b").await;
    let vm = daemon.client.vm("box-a").await.unwrap();
    assert_eq!(vm.state, VmState::Stopped);
    assert_eq!((vm.image.as_str(), vm.kernel.as_str()), (IMAGE, IMAGE));
    assert_eq!(vm.image_config.env["A"], "b");
    assert_eq!(vm.pid, None);
    let images = daemon.client.images().await.unwrap();
    assert_eq!((images.len(), images[0].used_by), (1, 2));
    assert_eq!(daemon.client.kernels().await.unwrap()[0].used_by, 2);

    // By name, by id, by unique prefix of either; not by an ambiguous one.
    assert_eq!(daemon.client.vm(&vm.id).await.unwrap().name, "box-a");
    assert_eq!(daemon.client.vm(&vm.id[..8]).await.unwrap().name, "box-a");
    let error = daemon.client.vm("box").await.unwrap_err();
    assert_eq!(error.code(), Code::Ambiguous);
    assert!(error.message().contains("box-a") && error.message().contains("box-b"));
    let error = daemon.client.create_vm(&make("box-a")).await.unwrap_err();
    assert_eq!(error.code(), Code::AlreadyExists);

    // Kept over a restart, whichever way the daemon went.
    daemon.kill();
    let daemon = ground.start();
    let again = daemon.client.vm("box-a").await.unwrap();
    assert_eq!(again.id, vm.id);
    assert_eq!(again.state, VmState::Stopped);
    assert_eq!(again.image_config.env["A"], "b");

    // Stopping what does not run is done already.
    let stopped = daemon.client.stop_vm("box-a").await.unwrap();
    daemon.client.wait(&stopped.id, |_| {}).await.unwrap();
    delete(&daemon, "box-a").await;
    delete(&daemon, "box-b").await;
    assert!(daemon.client.vms().await.unwrap().is_empty());
    assert!(ground.entries("vms").is_empty());
    assert_eq!(
        daemon
            .client
            .delete_vm("box-a", DeleteOptions::default())
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn without_a_name_one_is_found() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    let nameless = CreateVm {
        name: None,
        ..make("x")
    };
    for _ in 0..3 {
        let created = daemon.client.create_vm(&nameless).await.unwrap();
        daemon.client.wait(&created.id, |_| {}).await.unwrap();
        assert!(daemon.client.vm(&created.subject).await.is_ok());
    }
    assert_eq!(daemon.client.vms().await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_has_one_winner_and_losers_say_so() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    for round in 0..5 {
        let name = format!("race-{round}");
        let racers: Vec<_> = (0..8)
            .map(|_| {
                let (client, request) = (daemon.client.clone(), make(&name));
                tokio::spawn(async move { client.create_vm(&request).await })
            })
            .collect();
        let mut winners = 0;
        for racer in racers {
            match racer.await.unwrap() {
                Ok(created) => {
                    winners += 1;
                    daemon.client.wait(&created.id, |_| {}).await.unwrap();
                }
                Err(error) => assert_eq!(error.code(), Code::AlreadyExists),
            }
        }
        assert_eq!(winners, 1);
    }
    assert_eq!(daemon.client.vms().await.unwrap().len(), 5);
    assert_eq!(ground.entries("vms").len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_leaves_nothing_half_done() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    for number in 0..30 {
        let body = serde_json::to_string(&make(&format!("hang-{number}"))).unwrap();
        let request = format!(
            "POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = UnixStream::connect(ground.socket()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        if number % 2 == 0 {
            // The odd ones are gone before they are heard, or not: that is a race.
            eventually("it is heard", async || {
                ground.log().contains(&format!("hang-{number}"))
            })
            .await;
        }
        drop(stream);
    }
    // Whoever was heard is served to the end.
    eventually("what was begun has ended", async || {
        let vms = daemon.client.vms().await.unwrap();
        let log = ground.log();
        let count = |words: &str| log.lines().filter(|line| line.contains(words)).count();
        let begun = count("operation begins");
        begun >= 15
            && begun == count("operation succeeded")
            && vms.len() == begun
            && vms.iter().all(|vm| vm.state == VmState::Stopped)
            && ground.entries("vms").len() == begun
    })
    .await;
    eprintln!(
        "{} of 30 were heard",
        daemon.client.vms().await.unwrap().len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_at_any_moment_leaves_whole_vms_or_none() {
    let ground = Ground::with_image();
    for round in 0..12u64 {
        let daemon = ground.start();
        let client = daemon.client.clone();
        let asking = tokio::spawn(async move {
            for number in 0.. {
                let name = format!("kill-{round}-{number}");
                // The daemon vanishes under it at some point.
                if client.create_vm(&make(&name)).await.is_err() {
                    break;
                }
                if number % 3 == 0
                    && client
                        .delete_vm(&name, DeleteOptions::default())
                        .await
                        .is_err()
                {
                    break;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(3 + round * 7)).await;
        daemon.kill();
        asking.await.unwrap();
        let begun = Instant::now();
        let daemon = ground.start();
        assert!(begun.elapsed() < Duration::from_secs(5));
        let vms = daemon.client.vms().await.unwrap();
        let mut names: Vec<_> = vms.iter().map(|vm| vm.id.clone()).collect();
        for vm in &vms {
            assert_eq!(vm.state, VmState::Stopped, "{vm:?}");
            for file in ["work.ext4", "overlay.ext4", "ssh_host_ed25519_key"] {
                let path = ground.state().join("vms").join(&vm.id).join(file);
                assert!(path.exists() || file == "overlay.ext4", "{path:?}");
            }
        }
        let mut dirs = ground.entries("vms");
        names.sort();
        dirs.sort();
        assert_eq!(dirs, names, "every directory has its VM");
        for vm in vms {
            delete(&daemon, &vm.id).await;
        }
        daemon.kill();
    }
    assert!(ground.entries("vms").is_empty());
}

#[tokio::test]
async fn a_lease_keeps_an_ephemeral_vm_also_over_a_restart() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    let ephemeral = CreateVm {
        ephemeral: true,
        ..make("brief")
    };
    let created = daemon.client.create_vm(&ephemeral).await.unwrap();
    let id = created.vm_id.clone().unwrap();
    let mut lease = daemon.client.lease(&id).await.unwrap();
    daemon.client.wait(&created.id, |_| {}).await.unwrap();
    let second = daemon.client.lease(&id).await.unwrap();
    drop(second);
    assert!(daemon.client.vm(&id).await.is_ok(), "one lease is left");

    // The daemon's end is not the lease's: it does not wait for streams, and the VM stays.
    let (status, took) = daemon.end_by(Signal::TERM);
    assert!(status.success());
    assert!(took < Duration::from_secs(1), "{took:?}");
    // In good order or not: what matters is that it ends.
    lease.ended().await.ok();
    let daemon = ground.start();
    assert_eq!(daemon.client.vm(&id).await.unwrap().state, VmState::Stopped);
    let lease = daemon.client.lease(&id).await.unwrap();
    drop(lease);
    eventually("it is deleted", async || {
        daemon.client.vms().await.unwrap().is_empty()
    })
    .await;
    assert!(ground.entries("vms").is_empty());

    create(&daemon, "lasting").await;
    let error = daemon.client.lease("lasting").await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
}

#[tokio::test]
async fn a_failed_start_says_why_and_leaves_the_vm_stopped() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    create(&daemon, "box").await;
    // The test's kernel has no modules, so there is no initramfs to boot.
    let started = daemon.client.start_vm("box").await.unwrap();
    let error = daemon.client.wait(&started.id, |_| {}).await.unwrap_err();
    assert_eq!(error.op_id(), Some(started.id.as_str()));
    let vm = daemon.client.vm("box").await.unwrap();
    assert_eq!(vm.state, VmState::Stopped);
    assert!(vm.reason.is_some());
    // With a start at once, nothing is left of it.
    let request = CreateVm {
        start: true,
        ..make("never")
    };
    let created = daemon.client.create_vm(&request).await.unwrap();
    assert!(daemon.client.wait(&created.id, |_| {}).await.is_err());
    assert_eq!(daemon.client.vms().await.unwrap().len(), 1);
    assert_eq!(ground.entries("vms").len(), 1);
    assert_eq!(
        std::fs::read_dir(ground.runtime().join("vm"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn what_belongs_to_nobody_is_swept_and_strangers_are_left_alone() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    create(&daemon, "box").await;
    daemon.kill();
    let orphan = ground.state().join("vms/0123456789ab");
    let run = ground.runtime().join("vm/0123456789ab");
    let stranger = ground.state().join("vms/my-notes");
    for dir in [&orphan, &run, &stranger] {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("file"), "x").unwrap();
    }
    let daemon = ground.start();
    assert!(!orphan.exists() && !run.exists() && stranger.exists());
    // A VM whose directory is gone is shown so, and can be deleted.
    let vm = daemon.client.vm("box").await.unwrap();
    daemon.kill();
    std::fs::remove_dir_all(ground.state().join("vms").join(&vm.id)).unwrap();
    let daemon = ground.start();
    let vm = daemon.client.vm("box").await.unwrap();
    assert_eq!(vm.state, VmState::Broken);
    let started = daemon.client.start_vm("box").await.unwrap();
    let error = daemon.client.wait(&started.id, |_| {}).await.unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
    delete(&daemon, "box").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_vms_are_listed_at_once_and_the_daemon_stays_small() {
    let ground = Ground::with_image();
    drop(ground.start());
    let store = Store::open(&ground.state().join("banger.db")).unwrap();
    for number in 0..1000u32 {
        let bytes = number.to_be_bytes();
        let id = VmId::from_bytes([0, 0, bytes[0], bytes[1], bytes[2], bytes[3]]);
        std::fs::create_dir(ground.state().join("vms").join(id.as_str())).unwrap();
        let vm = VmRow {
            name: format!("vm-{number}").parse().unwrap(),
            id,
            spec: VmSpec {
                image: IMAGE.parse().unwrap(),
                kernel: IMAGE.parse().unwrap(),
                vcpus: 1,
                memory: ByteSize::mib(512),
                disk_size: ByteSize::gib(8),
                overlay_size: ByteSize::gib(8),
                nat: false,
                vmm: VmmChoice::Auto,
            },
            image_digest: Some(Digest::from_sha256(&[1; 32])),
            kernel_digest: Some(Digest::from_sha256(&[2; 32])),
            strategy: Some(DiskStrategy::Overlay),
            machine_id: "0".repeat(32),
            ephemeral: false,
            intent: Intent::Present,
            broken_reason: None,
            stop_reason: None,
            workspace: None,
            created_at: "2026-11-20T10:00:00Z".into(),
        };
        store.insert(&vm).unwrap();
    }
    drop(store);
    let daemon = ground.start();
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        assert_eq!(daemon.client.vms().await.unwrap().len(), 1000);
        best = best.min(begun.elapsed());
    }
    eprintln!("1000 VMs listed in {best:?}");
    assert!(best < Duration::from_millis(50), "{best:?}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let rss = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let rss: u64 = rss.split_whitespace().nth(1).unwrap().parse().unwrap();
    eprintln!("{rss} KiB resident");
    assert!(
        rss < 40 << 10,
        "with a thousand VMs; 20 MiB is the promise for an idle daemon"
    );
}
