//! Files for guests: what a start says of them, and what becomes of it when that goes wrong.

use std::fs;

use banger_api::Operation;
use banger_model::{Code, VmState};

use crate::ground::{Daemon, Ground, done, eventually, make};

const NAME: &str = "box";
/// What the daemon's log calls the step.
const STEP: &str = "copy files into the guest";

/// A stopped VM that is to get one file that is there and one that is not. Its guest takes
/// none: that is the scenario suite's.
async fn ground() -> Ground {
    let ground = Ground::with_guests();
    fs::create_dir_all(ground.root().join("home")).unwrap();
    fs::write(ground.root().join("home/here"), "here").unwrap();
    let daemon = ground.start();
    let made = daemon.client.create_vm(&make(NAME)).await;
    done(&daemon.client, made).await.unwrap();
    daemon.kill();
    ground.configure(
        "[[file_sync]]\nhost = \"~/absent\"\n[[file_sync]]\nhost = \"~/here\"\n\
         [vm_defaults]\nvmm = \"qemu-tcg\"\n",
    );
    ground
}

async fn start(daemon: &Daemon) -> banger_model::Result<Operation> {
    done(&daemon.client, daemon.client.start_vm(NAME).await).await
}

async fn state(daemon: &Daemon) -> VmState {
    daemon.client.vm(NAME).await.unwrap().state
}

/// The number of the step in a start, from the log.
fn step(log: &str) -> String {
    let line = log.lines().find(|line| line.contains(STEP)).unwrap();
    let number = line.split("number=").nth(1).unwrap();
    format!("start-vm:{}", number.split(' ').next().unwrap())
}

#[tokio::test]
async fn a_sync_that_fails_in_any_way_is_a_warning_and_the_vm_runs() {
    let ground = ground().await;
    let daemon = ground.start_with(&[("BANGER_LOG", "debug")]);
    let warnings = start(&daemon).await.unwrap().warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("`~/absent` is not copied: "));
    assert!(warnings[0].ends_with("/home/absent` does not exist"));
    assert!(
        warnings[1].contains("a fake guest does nothing"),
        "{warnings:?}"
    );
    assert_eq!(state(&daemon).await, VmState::Running);
    let armed = step(&ground.log());

    // A configuration that cannot be read is one warning, and so is none.
    ground.configure("nonsense = 1\n");
    let restarted = daemon.client.restart_vm(NAME).await;
    let warnings = done(&daemon.client, restarted).await.unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("`nonsense`"), "{warnings:?}");
    ground.configure("");
    let restarted = daemon.client.restart_vm(NAME).await;
    let restarted = done(&daemon.client, restarted).await.unwrap();
    assert_eq!(restarted.warnings, [""; 0]);
    assert!(
        !serde_json::to_string(&restarted)
            .unwrap()
            .contains("warnings")
    );
    done(&daemon.client, daemon.client.stop_vm(NAME).await)
        .await
        .unwrap();
    daemon.kill();

    ground.configure("[[file_sync]]\nhost = \"~/here\"\n");
    let daemon = ground.start_with(&[("BANGER_TEST_FAIL", &armed)]);
    let warnings = start(&daemon).await.unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("a test wanted it to fail"));
    assert_eq!(state(&daemon).await, VmState::Running);
    daemon.kill();
}

#[tokio::test]
async fn a_sync_that_ends_or_hangs_leaves_a_vm_that_is_usable() {
    let ground = ground().await;
    let daemon = ground.start_with(&[("BANGER_LOG", "debug")]);
    start(&daemon).await.unwrap();
    done(&daemon.client, daemon.client.stop_vm(NAME).await)
        .await
        .unwrap();
    daemon.kill();
    let armed = step(&ground.log());

    let daemon = ground.start_with(&[("BANGER_TEST_ABORT", &armed)]);
    let error = start(&daemon).await.unwrap_err();
    assert_eq!(error.code(), Code::DaemonUnavailable);
    daemon.kill();
    let daemon = ground.start();
    eventually("the VM is found again", async || {
        state(&daemon).await == VmState::Running
    })
    .await;
    done(&daemon.client, daemon.client.stop_vm(NAME).await)
        .await
        .unwrap();
    daemon.kill();

    // Whoever waits may give up, and nobody else waits.
    let daemon = ground.start_with(&[("BANGER_TEST_HANG", &armed)]);
    let begun = daemon.client.start_vm(NAME).await.unwrap();
    eventually("files are copied", async || {
        let operation = daemon.client.operation(&begun.id).await.unwrap();
        operation
            .stage
            .is_some_and(|stage| stage.name == "sync-files")
    })
    .await;
    assert_eq!(state(&daemon).await, VmState::Starting);
    daemon.client.cancel(&begun.id).await.unwrap();
    let error = daemon.client.wait(&begun.id, |_| {}).await.unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
    assert_eq!(state(&daemon).await, VmState::Stopped);
    assert_eq!(ground.processes(), [0; 0]);
    daemon.kill();
}
