//! The record of a workspace and the turns at it, without a guest.

use std::time::Duration;

use banger_api::{Vm, Workspace, WorkspaceMode};
use banger_model::Code;
use rustix::process::Signal;

use crate::ground::{Ground, done, eventually, make};

pub(crate) fn workspace(complete: bool) -> Workspace {
    Workspace {
        repository: "/nowhere/repo".into(),
        guest_path: "/root/repo".into(),
        mode: WorkspaceMode::Overlay,
        include_untracked: false,
        branch: None,
        from: None,
        base: Some("0a".repeat(20)),
        fingerprint: "f0".into(),
        copied_at: "2026-01-01T00:00:00Z".into(),
        complete,
        exported: None,
    }
}

async fn shown(client: &banger_api::Client) -> Vm {
    client.vm("box").await.unwrap()
}

#[tokio::test]
async fn a_record_outlives_the_daemon() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    let client = &daemon.client;
    done(client, client.create_vm(&make("box")).await)
        .await
        .unwrap();
    assert_eq!(shown(client).await.workspace, None);
    for complete in [false, true] {
        let record = workspace(complete);
        let vm = client.set_workspace("box", &record).await.unwrap();
        assert_eq!(vm.workspace.as_ref(), Some(&record));
        assert_eq!(shown(client).await.workspace, Some(record));
    }
    daemon.kill();
    let daemon = ground.start();
    assert_eq!(shown(&daemon.client).await.workspace, Some(workspace(true)));
}

#[tokio::test]
async fn a_record_that_makes_no_sense_changes_nothing() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    let client = &daemon.client;
    done(client, client.create_vm(&make("box")).await)
        .await
        .unwrap();
    let good = workspace(true);
    for bad in [
        Workspace {
            repository: "repo".into(),
            ..good.clone()
        },
        Workspace {
            guest_path: "/root/../etc".into(),
            ..good.clone()
        },
        Workspace {
            guest_path: "/etc".into(),
            ..good.clone()
        },
        Workspace {
            base: Some("--upload-pack=x".into()),
            ..good.clone()
        },
        Workspace {
            fingerprint: "x".repeat(100_000),
            ..good.clone()
        },
        Workspace {
            exported: Some("e".into()),
            ..good.clone()
        },
    ] {
        let error = client.set_workspace("box", &bad).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{bad:?}");
    }
    assert_eq!(shown(client).await.workspace, None);
    for error in [
        client.set_workspace("nothing", &good).await.unwrap_err(),
        client.workspace_turn("nothing").await.unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::NotFound, "{error}");
    }
}

#[tokio::test]
async fn turns_are_fair_and_end_with_their_holder() {
    let ground = Ground::with_image();
    let daemon = ground.start_with(&[("BANGER_LOG", "debug")]);
    let client = &daemon.client;
    done(client, client.create_vm(&make("box")).await)
        .await
        .unwrap();
    let first = client.workspace_turn("box").await.unwrap();
    let (sender, mut came) = tokio::sync::mpsc::unbounded_channel();
    let mut waiting = Vec::new();
    for number in 0..4 {
        let (client, sender) = (client.clone(), sender.clone());
        waiting.push(tokio::spawn(async move {
            let turn = client.workspace_turn("box").await;
            sender.send(number).unwrap();
            turn
        }));
        // Each is in the row before the next one asks.
        let in_the_row = async || {
            let log = ground.log();
            log.matches("waits for its turn").count() == number + 1
        };
        eventually("it waits", in_the_row).await;
    }
    // One that hangs up while it waits is passed over.
    waiting.remove(1).abort();
    drop(first);
    for expected in [0, 2, 3] {
        assert_eq!(came.recv().await, Some(expected));
        assert!(came.try_recv().is_err(), "one at a time");
        let turn = waiting.remove(0).await.unwrap().unwrap();
        drop(turn);
    }
}

#[tokio::test]
async fn a_deletion_and_the_end_of_the_daemon_end_turns() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    let client = &daemon.client;
    done(client, client.create_vm(&make("box")).await)
        .await
        .unwrap();
    let mut held = client.workspace_turn("box").await.unwrap();
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.workspace_turn("box").await })
    };
    done(client, client.delete_vm("box", Default::default()).await)
        .await
        .unwrap();
    held.ended().await.unwrap();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(error.code(), Code::Conflict | Code::NotFound),
        "{error}"
    );

    done(client, client.create_vm(&make("box")).await)
        .await
        .unwrap();
    let mut held = client.workspace_turn("box").await.unwrap();
    let (status, took) = daemon.end_by(Signal::TERM);
    assert!(status.success());
    assert!(took < Duration::from_secs(1), "{took:?}");
    held.ended().await.ok();
}
