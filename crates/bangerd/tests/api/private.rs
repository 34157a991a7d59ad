//! The socket, the directories and the lock.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use banger_model::Code;
use rustix::process::Signal;

use crate::ground::{Ground, make};

#[tokio::test]
async fn everything_is_private() {
    let ground = Ground::with_image();
    let daemon = ground.start();
    let created = daemon.client.create_vm(&make("box")).await.unwrap();
    daemon.client.wait(&created.id, |_| {}).await.unwrap();
    let mut look = vec![ground.state(), ground.runtime()];
    let mut seen = 0;
    while let Some(dir) = look.pop() {
        assert_eq!(
            fs::metadata(&dir).unwrap().mode() & 0o7777,
            0o700,
            "{dir:?}"
        );
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            seen += 1;
            if meta.is_dir() {
                look.push(path);
            } else if !path.to_string_lossy().contains("/objects/")
                && !path.to_string_lossy().contains("/names/")
            {
                assert_eq!(meta.mode() & 0o7077, 0, "{path:?} {:o}", meta.mode());
            }
        }
    }
    assert!(seen > 15, "looked at {seen} files");
    assert_eq!(
        fs::metadata(ground.socket()).unwrap().mode() & 0o7777,
        0o600
    );
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let ground = Ground::new();
    banger_config::ensure_private_dir(&ground.runtime()).unwrap();
    drop(UnixListener::bind(ground.socket()).unwrap());
    let daemon = ground.start();
    assert_eq!(daemon.client.daemon().await.unwrap().pid, daemon.pid());
}

#[test]
fn something_else_in_the_sockets_place_is_left_alone() {
    let ground = Ground::new();
    banger_config::ensure_private_dir(&ground.runtime()).unwrap();
    fs::write(ground.socket(), "mine").unwrap();
    let (error, _) = ground.start_refused();
    assert_eq!(error.code, Code::Unsafe);
    assert_eq!(fs::read_to_string(ground.socket()).unwrap(), "mine");
}

#[test]
fn directories_open_to_others_or_of_others_are_refused() {
    for dir in [Ground::runtime, Ground::state] {
        let ground = Ground::new();
        let dir = dir(&ground);
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
        let (error, status) = ground.start_refused();
        assert_eq!(error.code, Code::Unsafe);
        assert!(error.hint.is_some());
        assert_eq!(status.code(), Some(1));
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&dir, Some(65534), None).unwrap();
            assert_eq!(ground.start_refused().0.code, Code::Unsafe);
        } else {
            eprintln!("a foreign owner needs root: not tried");
        }
        fs::remove_dir(&dir).unwrap();
        std::os::unix::fs::symlink("/tmp", &dir).unwrap();
        assert_eq!(ground.start_refused().0.code, Code::Unsafe);
    }
}

#[tokio::test]
async fn a_second_daemon_is_refused_at_once_and_changes_nothing() {
    let ground = Ground::new();
    let daemon = ground.start();
    let begun = Instant::now();
    let (error, status) = ground.start_refused();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(error.code, Code::DaemonRunning);
    assert_eq!(status.code(), Some(3));
    assert_eq!(daemon.client.daemon().await.unwrap().pid, daemon.pid());
}

#[tokio::test]
async fn the_lock_of_a_killed_daemon_is_free() {
    let ground = Ground::new();
    ground.start().kill();
    assert!(ground.socket().exists(), "the socket is stale now");
    let daemon = ground.start();
    assert!(daemon.client.vms().await.unwrap().is_empty());
}

#[tokio::test]
async fn it_stops_in_good_order() {
    let ground = Ground::new();
    for signal in [Signal::TERM, Signal::INT] {
        let (status, _) = ground.start().end_by(signal);
        assert!(status.success(), "{signal:?}: {status}");
        assert!(!ground.socket().exists());
    }
    let daemon = ground.start();
    daemon.client.stop_daemon().await.unwrap();
    assert!(daemon.wait().success());
    assert!(!ground.socket().exists());
}

#[test]
fn arguments_it_does_not_know_are_refused() {
    let ground = Ground::new();
    let output = ground.command().arg("--nonsense").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!ground.state().exists());
}
