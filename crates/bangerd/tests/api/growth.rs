//! What must not grow: the daemon, however many VMs came and went.

use banger_api::DeleteOptions;
use std::fs;
use std::time::{Duration, Instant};

use crate::ground::{Daemon, Ground, done, eventually, running};

/// The least that anything is repeated, after as many rounds as it takes to have everything once.
const ROUNDS: u32 = 200;
const WARM_UP: u32 = 20;

/// What a daemon holds.
#[derive(Debug)]
struct Holds {
    descriptors: usize,
    threads: usize,
    resident_kib: u64,
}

impl Holds {
    fn of(daemon: &Daemon) -> Holds {
        let dir = format!("/proc/{}", daemon.pid());
        let count = |name: &str| fs::read_dir(format!("{dir}/{name}")).unwrap().count();
        let status = fs::read_to_string(format!("{dir}/status")).unwrap();
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap();
        Holds {
            descriptors: count("fd"),
            threads: count("task"),
            resident_kib: resident.split_whitespace().next().unwrap().parse().unwrap(),
        }
    }
}

async fn round(daemon: &Daemon, number: u32) {
    let name = format!("round-{number}");
    let client = &daemon.client;
    done(client, client.create_vm(&running(&name)).await)
        .await
        .unwrap();
    done(
        client,
        client.delete_vm(&name, DeleteOptions::default()).await,
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_vms_that_came_and_went_leave_nothing() {
    let ground = Ground::with_guests();
    let daemon = ground.start();
    for number in 0..WARM_UP {
        round(&daemon, number).await;
    }
    // Threads for blocking calls end when there was nothing to do for a while.
    let at_rest = async |most: usize| {
        eventually("its threads have ended", async || {
            Holds::of(&daemon).threads <= most
        })
        .await;
        Holds::of(&daemon)
    };
    let before = at_rest(3).await;
    let files = ground.files();
    let begun = Instant::now();
    for number in 0..ROUNDS {
        round(&daemon, WARM_UP + number).await;
    }
    let each = begun.elapsed() / ROUNDS;
    let after = at_rest(before.threads).await;
    eprintln!("{each:?} each; before {before:?}, after {after:?}");
    assert_eq!(after.threads, before.threads);
    assert!(
        after.descriptors <= before.descriptors + 5,
        "{before:?} {after:?}"
    );
    let grown = after.resident_kib.saturating_sub(before.resident_kib);
    assert!(grown < 8 << 10, "{before:?} {after:?}");
    assert_eq!(ground.files(), files);
    assert_eq!(ground.processes(), [0; 0]);
    let database = fs::metadata(ground.state().join("banger.db"))
        .unwrap()
        .len();
    let log = fs::metadata(ground.state().join("banger.db-wal"))
        .unwrap()
        .len();
    assert!(database < 1 << 20 && log < 8 << 20, "{database} {log}");
    let begun = Instant::now();
    daemon.client.vms().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
}
