//! What is refused is refused before anything happens: no file, no directory, no daemon.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use support::Place;

/// Runs, and proves that nothing was made.
fn refused(args: &[&str], code: i32) -> String {
    let place = Place::new();
    let before = place.files();
    let output = place.run(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert_eq!(place.files(), before, "{args:?}");
    assert!(
        output.stdout.is_empty() || args.contains(&"json"),
        "{args:?}"
    );
    format!("{}{stderr}", String::from_utf8(output.stdout).unwrap())
}

#[test]
fn names_and_sizes() {
    for (args, expected) in [
        (
            &["vm", "run", "--name", "Not_OK"][..],
            "`Not_OK` is not a valid VM name",
        ),
        (&["vm", "run", "--name", ""], "it is empty"),
        (&["vm", "run", "--name=-x"], "it starts or ends with `-`"),
        (
            &["vm", "run", "--image", "../etc"],
            "is not a valid image name",
        ),
        (
            &["vm", "run", "--kernel", "A"],
            "is not a valid kernel name",
        ),
        (&["vm", "run", "--vcpu", "0"], "`--vcpu` is 0"),
        (&["vm", "run", "--vcpu", "two"], "`two` is not a number"),
        (&["vm", "run", "--memory", "1M"], "`--memory` is 1M"),
        (&["vm", "run", "--memory", "lots"], "`lots` is not a size"),
        (&["vm", "run", "--disk-size", "1K"], "`--disk-size` is 1K"),
        (&["vm", "run", "--env", "=x"], "the variable has no name"),
        (&["vm", "run", "--user", "a b"], "`a b` is not a user"),
        (
            &["vm", "run", "--workdir", "here"],
            "`here` is not an absolute path",
        ),
        (&["vm", "create", "--memory", "9999T"], "`--memory`"),
        (&["vm", "show", "Box"], "cannot be the name of a machine"),
        (
            &["vm", "delete", "ok", "a/b"],
            "cannot be the name of a machine",
        ),
        (&["vm", "kill", "box", "-s", "STOP"], "is not a signal"),
        (&["vm", "set", "box", "--memory", "1M"], "`--memory` is 1M"),
        (&["vm", "set", "box", "--vcpu", "0"], "`--vcpu` is 0"),
        (&["vm", "stats", "--interval", "0"], "is not an interval"),
        (&["vm", "forward", "box", "0"], "is not a port to forward"),
        (
            &["vm", "forward", "box", "x:80"],
            "is not a port to forward",
        ),
        (&["vm", "cp", "a", "b"], "none of the two is in a machine"),
        (&["vm", "cp", "a:x", "b:y"], "both are in a machine"),
        (&["vm", "cp", "A:x", "b"], "is not a place"),
        (&["vm", "prune"], "there is no terminal to ask on"),
        (&["daemon", "logs", "--op", "a b"], "cannot be the id"),
        (&["ssh-proxy", "a;b.vm"], "cannot be the name of a machine"),
        (&["image", "pull", "../x"], "is not a valid image name"),
        (&["kernel", "pull", "/x"], "is not a valid kernel name"),
    ] {
        let text = refused(args, 2);
        assert!(text.contains(expected), "{args:?}: {text}");
        assert!(text.starts_with("banger: "), "{args:?}: {text}");
        assert!(text.contains("\n  hint: "), "{args:?}: {text}");
    }
}

#[test]
fn combinations() {
    for args in [
        &["vm", "run", "-d", "--rm"][..],
        &["vm", "run", "-d", "--", "true"],
        &["vm", "run", "-d", "--env", "A=b"],
        &["vm", "run", "-d", "--user", "root"],
        &["vm", "run", "--nonsense"],
        &["vm", "run", "--vmm", "xen"],
        &["vm", "run", "--wait-for", "luck"],
        &["vm", "run", "--nat=perhaps"],
        &["vm", "exec", "box"],
        &["vm", "exec", "box", "true"],
        &["vm", "exec", "--", "true"],
        &["vm", "stop"],
        &["vm", "restart"],
        &["vm", "kill"],
        &["vm", "set", "box"],
        &["vm", "set", "--nat"],
        &["vm", "set", "box", "--nat", "--no-nat"],
        &["vm", "forward", "box"],
        &["vm", "cp", "box:x"],
        &["vm", "logs"],
        &["vm", "logs", "box", "-n", "-1"],
        &["vm", "ssh", "box", "true"],
        &["ssh-config", "--install", "--uninstall"],
        &["vm"],
        &["frobnicate"],
        &["--output", "yaml", "vm", "list"],
    ] {
        refused(args, 2);
    }
}

#[test]
fn detach_is_explained() {
    for (args, expected) in [
        (&["vm", "run", "-d", "--rm"][..], "deletes it"),
        (&["vm", "run", "-d", "--", "true"], "runs no command"),
        (&["vm", "run", "-d", "--env", "A=b"], "no command options"),
    ] {
        let text = refused(args, 2);
        assert!(text.contains(expected), "{args:?}: {text}");
        assert!(text.contains("hint: "), "{args:?}: {text}");
    }
}

#[test]
fn a_path_is_explained() {
    let text = refused(&["vm", "run", "./repo"], 125);
    assert!(text.contains("`./repo` does not exist"), "{text}");
    assert!(text.contains("banger vm run -- ./repo"), "{text}");
    let text = refused(&["vm", "run", "ls", "somewhere"], 2);
    assert!(text.contains("banger vm run -- ls"), "{text}");
}

#[test]
fn a_repository_whose_tools_need_the_network_is_explained() {
    let repo = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("git")
        .args(["init", "-q"])
        .current_dir(repo.path())
        .status()
        .unwrap();
    assert!(made.success());
    std::fs::write(repo.path().join("mise.toml"), "").unwrap();
    let path = repo.path().to_str().unwrap();
    let text = refused(&["vm", "run", path, "--", "true"], 125);
    for part in ["mise.toml", "`--nat`", "`--no-bootstrap`"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn an_unreadable_environment_file_stops_everything() {
    let text = refused(
        &["vm", "run", "--env-file", "/nowhere/vars", "--", "true"],
        125,
    );
    assert!(text.contains("cannot read `/nowhere/vars`"), "{text}");
}

#[test]
fn json_errors_go_where_they_belong() {
    let place = Place::new();
    let list = place.run(&["vm", "show", "NO", "--output", "json"]);
    let error: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(error["error"]["code"], "invalid_argument");
    assert!(error["error"]["hint"].is_string());
    assert!(list.stderr.is_empty());

    // Standard output belongs to the guest here.
    let run = place.run(&["vm", "run", "--output=json", "--nonsense"]);
    assert!(run.stdout.is_empty());
    let error: serde_json::Value = serde_json::from_slice(&run.stderr).unwrap();
    assert_eq!(error["error"]["code"], "invalid_argument");
    assert_eq!(run.status.code(), Some(2));
}

#[test]
fn asking_about_the_daemon_does_not_start_it() {
    let place = Place::new();
    let before = place.files();
    for (args, code, expected) in [
        (&["daemon", "status"][..], 1, "not running"),
        (
            &["daemon", "status", "--output", "json"],
            1,
            "\"running\": false",
        ),
        (&["daemon", "stop"], 0, ""),
        (&["daemon", "socket"], 0, "/run/banger/bangerd.sock"),
        (&["version"], 0, "banger "),
        (&["completion", "bash"], 0, "complete"),
        (&["config", "show"], 0, "memory"),
        (&["ssh-config"], 0, "Host *.vm"),
        (&["vm", "run", "--help"], 0, "[default: "),
    ] {
        let output = place.run(args);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(stdout.contains(expected), "{args:?}: {stdout}");
    }
    place.run(&["doctor"]);
    assert_eq!(place.files(), before);
}

#[test]
fn a_daemon_that_is_not_installed_is_named() {
    let place = Place::new();
    // A copy that has no `bangerd` beside it.
    let copy = place.path().join("banger");
    banger_testing::write_program(&copy, std::fs::read(env!("CARGO_BIN_EXE_banger")).unwrap());
    let output = std::process::Command::new(copy)
        .args(["vm", "list"])
        .env_clear()
        .env("PATH", place.path())
        .env("HOME", place.path().join("home"))
        .env("XDG_RUNTIME_DIR", place.path().join("run"))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr.contains("the daemon `bangerd` is not installed"),
        "{stderr}"
    );
}
