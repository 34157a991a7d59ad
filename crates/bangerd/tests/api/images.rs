//! Images of one's own, and what becomes of those that are used.

use std::path::PathBuf;
use std::process::Command;

use banger_api::{
    Client, CreateVm, DeleteOptions, LoadImage, PruneImages, PullImage, RegisterImage,
};
use banger_model::{Code, Result};
use serde_json::json;

use crate::ground::{Ground, IMAGE, done, eventually, make};

/// An ext4 file in the ground's directory.
fn ext4(ground: &Ground) -> PathBuf {
    let path = ground.state().join("own.ext4");
    let made = Command::new("mke2fs")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["-q", "-t", "ext4"])
        .arg(&path)
        .arg("8M")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    path
}

fn own(ground: &Ground, name: &str) -> RegisterImage {
    RegisterImage {
        name: name.into(),
        rootfs: ground.state().join("own.ext4").to_str().unwrap().into(),
        kernel: Some(IMAGE.into()),
        config: Some(json!({"config": {"Env": ["A=own"], "Cmd": ["x"]}})),
        replace: false,
    }
}

async fn names(client: &Client) -> Vec<String> {
    let images = client.images().await.unwrap();
    images.into_iter().map(|image| image.name).collect()
}

fn from(image: &str, name: &str) -> CreateVm {
    CreateVm {
        image: Some(image.into()),
        ..make(name)
    }
}

fn code<T: std::fmt::Debug>(result: Result<T>) -> Code {
    result.unwrap_err().code()
}

#[tokio::test]
async fn an_image_that_is_used_stays_until_its_last_vm_is_gone() {
    let ground = Ground::with_image();
    ext4(&ground);
    let daemon = ground.start();
    let client = &daemon.client;
    let objects = || ground.entries("images/objects").len();
    done(
        client,
        client.register_image(&own(&ground, "team/own:1")).await,
    )
    .await
    .unwrap();
    assert_eq!(names(client).await, ["team/own:1", IMAGE]);
    assert_eq!(objects(), 2);
    done(client, client.create_vm(&from("team/own:1", "box")).await)
        .await
        .unwrap();
    let vm = client.vm("box").await.unwrap();
    assert_eq!(vm.image, "team/own:1");
    assert_eq!(vm.image_config.env["A"], "own");
    let shown = client.image("team/own:1").await.unwrap();
    assert_eq!(shown.vms, ["box"]);
    assert_eq!(shown.image.used_by, 1);
    assert_eq!(shown.config.cmd, ["x"]);

    let refused = done(client, client.delete_image("team/own:1", false).await)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Conflict);
    assert!(refused.message().contains("`box`"), "{refused}");
    assert!(refused.op_id().is_some());
    done(client, client.delete_image("team/own:1", true).await)
        .await
        .unwrap();
    assert_eq!(names(client).await, [IMAGE]);
    assert_eq!(objects(), 2, "the VM keeps it");
    assert_eq!(code(client.image("team/own:1").await), Code::NotFound);

    // Neither a restart nor a prune takes it away.
    daemon.kill();
    let daemon = ground.start();
    let client = &daemon.client;
    let pruned = client.prune_images(&PruneImages::default()).await.unwrap();
    assert!(pruned.images.is_empty(), "{pruned:?}");
    assert_eq!(objects(), 2);
    assert_eq!(client.vm("box").await.unwrap().image_config.env["A"], "own");
    done(
        client,
        client.delete_vm("box", DeleteOptions::default()).await,
    )
    .await
    .unwrap();
    eventually("it goes with its last VM", async || objects() == 1).await;
}

#[tokio::test]
async fn names_are_taken_once_and_replaced_only_when_asked() {
    let ground = Ground::with_image();
    ext4(&ground);
    let daemon = ground.start();
    let client = &daemon.client;
    let register = own(&ground, "own");
    done(client, client.register_image(&register).await)
        .await
        .unwrap();
    let again = done(client, client.register_image(&register).await).await;
    assert_eq!(code(again), Code::AlreadyExists);
    let other = RegisterImage {
        config: None,
        replace: true,
        ..register.clone()
    };
    done(client, client.register_image(&other).await)
        .await
        .unwrap();
    assert!(client.image("own").await.unwrap().config.cmd.is_empty());
    eventually("what lost its name goes", async || {
        ground.entries("images/objects").len() == 2
    })
    .await;
    let gone = done(client, client.delete_image("none", true).await).await;
    assert_eq!(code(gone), Code::NotFound);

    // What cannot be is refused before there is an operation.
    for (bad, expected) in [
        (
            RegisterImage {
                name: "../x".into(),
                ..register.clone()
            },
            Code::InvalidArgument,
        ),
        (
            RegisterImage {
                rootfs: "own.ext4".into(),
                ..register.clone()
            },
            Code::InvalidArgument,
        ),
        (
            RegisterImage {
                rootfs: "/no/such".into(),
                ..register.clone()
            },
            Code::NotFound,
        ),
        (
            RegisterImage {
                rootfs: "/dev/null".into(),
                ..register.clone()
            },
            Code::InvalidArgument,
        ),
        (
            RegisterImage {
                kernel: Some("no-such".into()),
                ..register.clone()
            },
            Code::NotFound,
        ),
        (
            RegisterImage {
                config: Some(json!(["x"])),
                ..register.clone()
            },
            Code::InvalidArgument,
        ),
    ] {
        assert_eq!(code(client.register_image(&bad).await), expected, "{bad:?}");
    }
    for (name, platform, expected) in [
        ("a b", None, Code::InvalidArgument),
        ("x", Some("linux/arm64"), Code::InvalidArgument),
        ("x", Some("nonsense"), Code::InvalidArgument),
    ] {
        let pull = PullImage {
            name: name.into(),
            platform: platform.map(str::to_owned),
            kernel: None,
        };
        assert_eq!(code(client.pull_image(&pull).await), expected, "{pull:?}");
    }
    let catalog = client.image_catalog().await.unwrap();
    assert!(
        catalog
            .iter()
            .any(|entry| entry.name == "debian-bookworm" && !entry.pulled)
    );

    // All that nobody uses: both.
    let all = PruneImages {
        all: true,
        dry_run: true,
    };
    let found = client.prune_images(&all).await.unwrap();
    assert_eq!(found.images.len(), 2, "{found:?}");
    assert_eq!(names(client).await.len(), 2);
    let all = PruneImages {
        dry_run: false,
        ..all
    };
    assert_eq!(client.prune_images(&all).await.unwrap().images.len(), 2);
    assert!(names(client).await.is_empty());
    assert!(ground.entries("images/objects").is_empty());
}

#[tokio::test]
async fn a_daemon_that_ends_at_any_step_leaves_whole_images_or_none() {
    let ground = Ground::with_image();
    ext4(&ground);
    for kind in ["register-image", "delete-image"] {
        for step in 1.. {
            assert!(step < 30, "{kind} has no end");
            let daemon = ground.start();
            if kind == "delete-image" {
                let registered = daemon.client.register_image(&own(&ground, "own")).await;
                done(&daemon.client, registered).await.unwrap();
            }
            daemon.kill();
            let armed = format!("{kind}:{step}");
            let daemon = ground.start_with(&[("BANGER_TEST_ABORT", &armed)]);
            let client = &daemon.client;
            let ended = match kind {
                "delete-image" => done(client, client.delete_image("own", false).await).await,
                _ => done(client, client.register_image(&own(&ground, "own")).await).await,
            };
            daemon.kill();
            let daemon = ground.start();
            let client = &daemon.client;
            assert!(ground.entries("images/staging").is_empty(), "{armed}");
            let listed = names(client).await;
            assert_eq!(
                ground.entries("images/objects").len(),
                listed.len(),
                "{armed}"
            );
            if listed.contains(&"own".to_owned()) {
                let vm = client.create_vm(&from("own", "box")).await;
                done(client, vm).await.unwrap();
                done(
                    client,
                    client.delete_vm("box", DeleteOptions::default()).await,
                )
                .await
                .unwrap();
                done(client, client.delete_image("own", false).await)
                    .await
                    .unwrap();
            }
            daemon.kill();
            if ended.is_ok() {
                assert!(step > if kind == "delete-image" { 2 } else { 6 }, "{armed}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn an_input_that_breaks_off_or_is_no_archive_leaves_nothing() {
    use futures_util::stream;
    let ground = Ground::with_image();
    let daemon = ground.start();
    let client = &daemon.client;
    let load = LoadImage::default();
    for (pieces, expected) in [
        (vec![Ok(b"no archive".to_vec())], Code::InvalidArgument),
        (vec![], Code::InvalidArgument),
        (
            vec![
                Ok(vec![0; 512]),
                Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe)),
            ],
            Code::InvalidArgument,
        ),
    ] {
        let operation = client.load_image(&load).await.unwrap();
        let input = stream::iter(pieces.into_iter().map(|piece| piece.map(Into::into)));
        // It may end before it has taken everything.
        client.send_input(&operation.id, input).await.ok();
        let error = client.wait(&operation.id, |_| {}).await.unwrap_err();
        assert_eq!(error.code(), expected, "{error:?}");
    }
    // One that is cancelled before anything is sent, and one that expects nothing.
    let operation = client.load_image(&load).await.unwrap();
    client.cancel(&operation.id).await.unwrap();
    assert_eq!(
        code(client.wait(&operation.id, |_| {}).await),
        Code::Cancelled
    );
    let late = client.send_input(&operation.id, stream::iter([])).await;
    assert_eq!(code(late), Code::Conflict);
    assert_eq!(names(client).await, [IMAGE]);
    assert!(ground.entries("images/layers/staging").is_empty());
    assert!(ground.entries("images/staging").is_empty());
}
