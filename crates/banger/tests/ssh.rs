//! How OpenSSH is run, and what is done to the user's configuration.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::{Place, Scripted, vm_json};

/// A place with a running machine.
fn running() -> Place {
    let place = Place::new();
    let more = r#""console_log":"/c","agent_socket":"/x","ssh_host_key":"ssh-ed25519 AAAA","#;
    Scripted::start(
        &place,
        &[("GET /v1/vms/b", &vm_json("box", "running", more))],
    );
    place
}

/// A program called `ssh` that prints its arguments, a line each, and ends with 7.
fn fake_ssh(place: &Place) -> String {
    let dir = place.path().join("bin");
    fs::create_dir(&dir).unwrap();
    let program = dir.join("ssh");
    let prints = "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 7\n";
    banger_testing::write_program(&program, prints);
    format!("{}:/usr/bin:/bin", dir.display())
}

#[test]
fn ssh_gets_the_key_the_pin_and_every_word() {
    let place = running();
    let path = fake_ssh(&place);
    let run = |args: &[&str]| {
        let output = place
            .banger()
            .env("PATH", &path)
            .args(["vm", "ssh", "b"])
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let argv = run(&["-t", "--", "echo", "a b", "$HOME", ""]);
    assert_eq!(argv[0], "-t");
    let state = place.path().join("home/.local/state/banger/ssh");
    let known_hosts = format!(
        "UserKnownHostsFile=\"{}\"",
        state.join("known_hosts").display()
    );
    let proxy = format!(
        "ProxyCommand='{}' ssh-proxy '%h' %p",
        env!("CARGO_BIN_EXE_banger")
    );
    for option in [
        known_hosts.as_str(),
        proxy.as_str(),
        "HostName=%h",
        "User=root",
        "IdentityFile=\"/keys/id_ed25519\"",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=/dev/null",
        "UpdateHostKeys=no",
        "ForwardAgent=no",
        "ControlPath=none",
    ] {
        let at = argv.iter().position(|word| word == option);
        let at = at.unwrap_or_else(|| panic!("{option} is not in {argv:#?}"));
        assert_eq!(argv[at - 1], "-o");
    }
    let end = argv.iter().position(|word| word == "--").unwrap();
    assert_eq!(
        argv[end + 1..],
        ["box.vm", "echo", "'a b'", "'$HOME'", "''"]
    );
    assert_eq!(run(&[]).last().unwrap(), "box.vm");
}

#[test]
fn without_ssh_there_is_a_hint() {
    let place = running();
    let output = place
        .banger()
        .env("PATH", place.path())
        .args(["vm", "ssh", "b", "--output=json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(output.stdout.is_empty());
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "missing_program");
    assert!(
        error["error"]["hint"]
            .as_str()
            .unwrap()
            .contains("vm exec box")
    );
}

/// What the real client makes of the configuration.
fn resolved(config: &Path, host: &str) -> String {
    let output = std::process::Command::new("ssh")
        .arg("-F")
        .arg(config)
        .args(["-G", "--", host])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_configuration_comes_and_goes_without_a_trace() {
    for (contents, mode) in [
        (
            Some(&b"Host *\n    User me\n    ProxyJump elsewhere\n"[..]),
            0o600,
        ),
        (Some(b"Host *\r\n    User me"), 0o644),
        (Some(b""), 0o400),
        (None, 0),
    ] {
        let place = Place::new();
        let file = place.path().join("ssh/config");
        if let Some(contents) = contents {
            fs::create_dir(file.parent().unwrap()).unwrap();
            fs::write(&file, contents).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        }
        let run = |flag: &str| {
            let output = place.run(&[
                "ssh-config",
                flag,
                "--file",
                file.to_str().unwrap(),
                "--output=json",
            ]);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            report["changed"].as_bool().unwrap()
        };
        assert!(!run("--uninstall"));
        assert!(run("--install"));
        let installed = fs::read(&file).unwrap();
        assert!(installed.ends_with(contents.unwrap_or_default()));
        assert!(!run("--install"), "once is enough");
        assert_eq!(fs::read(&file).unwrap(), installed);

        // Ours wins over what the user has for every host, and only for machines.
        let shown = resolved(&file, "box.vm");
        assert!(shown.contains("\nuser root\n"), "{shown}");
        assert!(shown.contains("ssh-proxy '%h' %p"), "{shown}");
        assert!(shown.contains("\nstricthostkeychecking true\n"), "{shown}");
        assert!(!resolved(&file, "other").contains("ssh-proxy"));
        assert!(!resolved(&file, "a'b.vm").contains("ssh-proxy"));

        assert!(run("--uninstall"));
        match contents {
            Some(contents) => {
                assert_eq!(fs::read(&file).unwrap(), contents);
                let now = fs::metadata(&file).unwrap().permissions().mode() & 0o7777;
                assert_eq!(now, mode);
            }
            None => assert!(!file.exists()),
        }
    }
}
