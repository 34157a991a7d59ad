//! `vm logs` and `daemon logs`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use support::{Place, Scripted, vm_json};

/// A place with a machine whose console is in a directory of its own.
fn with_console() -> (Place, PathBuf) {
    let place = Place::new();
    let console = place.path().join("vms/box/console.log");
    fs::create_dir_all(console.parent().unwrap()).unwrap();
    let more = format!(r#""console_log":{:?},"#, console.to_str().unwrap());
    Scripted::start(
        &place,
        &[("GET /v1/vms/box", &vm_json("box", "stopped", &more))],
    );
    (place, console)
}

#[test]
fn the_console_goes_into_a_pipe_as_it_is() {
    let (place, console) = with_console();
    let output = place.run(&["vm", "logs", "box"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.is_empty());
    fs::write(&console, b"one\r\n\x1b[2Jtwo\xff\nthree").unwrap();
    let output = place.run(&["vm", "logs", "box"]);
    assert_eq!(output.stdout, b"one\r\n\x1b[2Jtwo\xff\nthree");
    let output = place.run(&["vm", "logs", "box", "-n", "2"]);
    assert_eq!(output.stdout, b"\x1b[2Jtwo\xff\nthree");
    let output = place.run(&["vm", "logs", "box", "-n", "1", "--output", "json"]);
    assert_eq!(output.stdout, b"{\"line\":\"three\"}\n");
    // Errors are no lines of a console.
    let output = place.run(&["vm", "logs", "no", "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "not_found");
}

#[test]
fn following_goes_on_across_restarts_and_ends_with_the_machine() {
    let (place, console) = with_console();
    fs::write(&console, "old\nbegin\n").unwrap();
    let mut child = place
        .banger()
        .args(["vm", "logs", "-f", "-n", "1", "box"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().map(|line| line.unwrap());
    assert_eq!(next().as_deref(), Some("begin"));
    fs::remove_file(&console).unwrap();
    fs::write(&console, "again\n").unwrap();
    assert_eq!(next().as_deref(), Some("again"));
    fs::remove_dir_all(console.parent().unwrap()).unwrap();
    assert_eq!(next(), None);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_daemons_log_needs_no_daemon() {
    let place = Place::new();
    let before = place.files();
    let output = place.run(&["daemon", "logs"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(place.files(), before);

    let state = place.path().join("home/.local/state/banger");
    fs::create_dir_all(&state).unwrap();
    let line = |op: &str, what: &str| format!("2026-01-01T00:00:00Z  INFO op{{op={op}}}: {what}\n");
    let (old, new) = (
        line("a1", "oldest"),
        line("a1", "newer") + &line("b2", "newest"),
    );
    fs::write(state.join("bangerd.log.1"), &old).unwrap();
    fs::write(state.join("bangerd.log"), &new).unwrap();
    let shown = |args: &[&str]| {
        let output = place.run(&[&["daemon", "logs"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(shown(&[]), format!("{old}{new}"));
    assert_eq!(shown(&["-n", "1"]), line("b2", "newest"));
    assert_eq!(
        shown(&["--op", "a1"]),
        line("a1", "oldest") + &line("a1", "newer")
    );
    assert_eq!(shown(&["--op", "a1", "-n1"]), line("a1", "newer"));
    assert_eq!(shown(&["--op", "c3"]), "");
}
