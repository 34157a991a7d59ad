//! The verbs on machines, against a daemon that answers from a table.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::process::Output;

use serde_json::{Value, json};
use support::{Place, Scripted, vm_json};

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn several_machines_are_all_attempted_and_each_failure_is_told() {
    let place = Place::new();
    let daemon = Scripted::start(
        &place,
        &[
            ("POST /v1/vms/a/restart", "op:a"),
            ("POST /v1/vms/bad1/restart", "op:bad1"),
            ("POST /v1/vms/z/restart", "op:z"),
        ],
    );
    let output = place.run(&["vm", "restart", "z", "bad1", "a", "gone", "a"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "a\nz\n");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("banger: it is stuck"), "{stderr}");
    assert!(stderr.contains("banger: it says not_found"), "{stderr}");
    assert_eq!(daemon.changes().len(), 4);

    let output = place.run(&["vm", "restart", "a", "bad1", "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = json!([
        {"name": "a"},
        {"name": "bad1", "error": {"code": "io", "message": "it is stuck", "op_id": "op-bad1"}}
    ]);
    assert_eq!(parsed(&output), expected);
}

#[test]
fn what_is_asked_reaches_the_daemon() {
    for (args, request) in [
        (
            &["kill", "a"][..],
            r#"POST /v1/vms/a/kill {"signal":"KILL"}"#,
        ),
        (
            &["kill", "a", "-s", "sigterm"],
            r#"POST /v1/vms/a/kill {"signal":"TERM"}"#,
        ),
        (
            &["set", "a", "--memory", "1G", "--vcpu", "2"],
            r#"PATCH /v1/vms/a {"vcpus":2,"memory":1073741824}"#,
        ),
        (
            &["set", "a", "--disk-size=2G", "--nat"],
            r#"PATCH /v1/vms/a {"disk_size":2147483648,"nat":true}"#,
        ),
        (
            &["set", "--nat=false", "a"],
            r#"PATCH /v1/vms/a {"nat":false}"#,
        ),
        (
            &["set", "a", "--no-nat"],
            r#"PATCH /v1/vms/a {"nat":false}"#,
        ),
    ] {
        let place = Place::new();
        let table = [("POST /v1/vms/a/kill", "op:a"), ("PATCH /v1/vms/a", "op:a")];
        let daemon = Scripted::start(&place, &table);
        let output = place.run(&[&["vm"], args].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        assert_eq!(text(&output.stdout), "a\n", "{args:?}");
        assert_eq!(daemon.changes(), [request], "{args:?}");
    }
}

fn machines() -> String {
    let console = r#""console_log":"/c","#;
    let states = [
        ("run", "running"),
        ("new", "creating"),
        ("stop", "stopping"),
        ("up", "starting"),
        ("idle", "stopped"),
        ("raced", "stopped"),
        ("lost", "broken"),
    ];
    let vms = states.map(|(name, state)| vm_json(name, state, console));
    format!("[{}]", vms.join(","))
}

#[test]
fn prune_deletes_what_rests_and_leaves_alone_what_was_started() {
    let place = Place::new();
    let vms = machines();
    let daemon = Scripted::start(
        &place,
        &[
            ("GET /v1/vms", &vms),
            ("DELETE /v1/vms/0000000idle?only=stopped", "op:idle"),
            ("DELETE /v1/vms/0000000raced?only=stopped", "conflict!"),
            ("DELETE /v1/vms/0000000lost?only=stopped", "op:lost"),
        ],
    );
    let output = place.run(&["vm", "prune", "--force"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), "idle\nlost\n");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("`raced` is left alone"), "{stderr}");
    let expected =
        ["idle", "lost", "raced"].map(|name| format!("DELETE /v1/vms/0000000{name}?only=stopped"));
    assert_eq!(daemon.changes(), expected);
}

#[test]
fn nothing_to_prune_is_a_success() {
    let place = Place::new();
    let daemon = Scripted::start(&place, &[("GET /v1/vms", "[]")]);
    let output = place.run(&["vm", "prune", "-f", "--output", "json"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(parsed(&output), json!([]));
    assert!(daemon.changes().is_empty());
}

#[test]
fn empty_lists_are_lists() {
    let place = Place::new();
    let table = ["vms", "stats", "images", "kernels"].map(|what| format!("GET /v1/{what}"));
    let table: Vec<_> = table
        .iter()
        .map(|request| (request.as_str(), "[]"))
        .collect();
    Scripted::start(&place, &table);
    for args in [
        ["vm", "list"],
        ["vm", "stats"],
        ["image", "list"],
        ["kernel", "list"],
    ] {
        let output = place.run(&[&args[..], &["--output", "json"]].concat());
        assert_eq!(text(&output.stdout), "[]\n", "{args:?}");
        let quiet = place.run(&[&args[..], &["-q"]].concat());
        assert!(
            quiet.stdout.is_empty() && quiet.stderr.is_empty(),
            "{args:?}"
        );
    }
}

#[test]
fn stats_are_shown_for_those_that_are_there() {
    let place = Place::new();
    let vm = vm_json("box", "stopped", r#""console_log":"/c","#);
    let stats = r#"[{"id":"0000000box","name":"box","state":"stopped","at":"2026-01-01T00:00:00Z",
        "memory":1073741824,"disk_used":4096}]"#;
    Scripted::start(
        &place,
        &[("GET /v1/vms/box", &vm), ("GET /v1/stats", stats)],
    );
    let output = place.run(&["vm", "stats", "box", "no", "--output=json"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = parsed(&output);
    assert_eq!(shown[0]["disk_used"], 4096);
    assert_eq!(shown[1]["name"], "no");
    assert_eq!(shown[1]["error"]["code"], "not_found");
    let output = place.run(&["vm", "stats"]);
    assert_eq!(
        output.status.code(),
        Some(1),
        "without a list of machines: {output:?}"
    );
    let output = place.run(&["vm", "stats", "box", "-q"]);
    assert_eq!(text(&output.stdout), "box\n");
}

#[test]
fn shells_complete_the_names_of_machines_for_every_verb() {
    let place = Place::new();
    let vms = machines();
    Scripted::start(&place, &[("GET /v1/vms", &vms)]);
    for (words, expected) in [
        (&["vm", "restart", "i"][..], "idle"),
        (&["vm", "kill", "l"], "lost"),
        (&["vm", "set", "i"], "idle"),
        (&["vm", "stats", "i"], "idle"),
        (&["vm", "logs", "i"], "idle"),
        (&["vm", "ports", "r"], "run"),
        (&["vm", "forward", "r"], "run"),
        (&["vm", "ssh", "r"], "run"),
        (&["vm", "cp", "r"], "run:"),
        (&["vm", "kill", "run", "--signal", "K"], "KILL"),
    ] {
        for shell in ["bash", "zsh", "fish"] {
            let output = place
                .banger()
                .current_dir(place.path())
                .env("_BANGER_COMPLETE", shell)
                // What the scripts for bash and zsh say about the cursor.
                .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
                .env("_CLAP_IFS", "\n")
                .args(["--", "banger"])
                .args(words)
                .output()
                .unwrap();
            let answer = text(&output.stdout);
            let begins = |line: &str| line.replace("\\:", ":").starts_with(expected);
            assert!(answer.lines().any(begins), "{shell} {words:?}: {answer}");
        }
    }
}
