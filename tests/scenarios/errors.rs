//! Bad input and missing parts: a clear error with a hint, and nothing changed.

use banger_tests::{Running, World};

use banger_tests::scenario::{Need, Scenario, pure};

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "invalid-name",
        "a bad name is refused before anything starts",
        bad_name,
    ),
    pure(
        "invalid-spec",
        "a bad size, variable or VMM is refused before anything starts",
        bad_spec,
    ),
    pure(
        "errors-unknown-image",
        "an image that is not there is named, with those that are",
        unknown_image,
    ),
    pure(
        "errors-missing-programs",
        "a missing program is named with the package it is in",
        missing_programs,
    )
    .needs(&[Need::Qemu]),
    pure(
        "errors-kvm-that-does-not-work",
        "KVM that opens and does not work is told from KVM that works",
        broken_kvm,
    )
    .needs(&[Need::NoVirtualisation, Need::Qemu]),
    pure(
        "errors-disk-full-during-create",
        "a full disk is named, and nothing half-made is left",
        disk_full_create,
    ),
    pure(
        "errors-bad-configuration",
        "a mistake in the configuration is named with its key",
        bad_configuration,
    ),
    pure("doctor", "doctor checks programs, KVM and the rest", doctor),
];

/// Refused before anything starts.
fn refused(w: &World, flags: &[&str]) {
    let args = [&["vm", "run", "--rm"], flags, &["--", "true"]].concat();
    let refused = w.banger(&args).expect_code(2);
    assert_eq!(refused.out(), "");
    assert!(!refused.err().is_empty());
    assert!(!w.runtime().exists(), "no daemon was started: {flags:?}");
}

fn bad_name(w: &World) {
    for name in [
        "Box",
        "",
        "-x",
        "x-",
        "a/../b",
        "a b",
        "a.b",
        "é",
        &"x".repeat(64),
    ] {
        refused(w, &[&format!("--name={name}")]);
    }
}

fn bad_spec(w: &World) {
    for flags in [
        ["--vcpu", "0"],
        ["--vcpu", "65"],
        ["--memory", "1M"],
        ["--memory", "lots"],
        ["--disk-size", "1.5G"],
        ["--env", "=x"],
        ["--vmm", "xen"],
    ] {
        refused(w, &flags);
    }
}

fn unknown_image(w: &World) {
    let refused = w
        .banger([
            "vm",
            "run",
            "--rm",
            "--image",
            "127.0.0.1:1/no-such",
            "--",
            "true",
        ])
        .expect_code(125);
    assert!(refused.err().contains("no-such"), "{}", refused.err());
    assert!(
        refused.err().contains("cannot pull the image"),
        "{}",
        refused.err()
    );
    assert_eq!(w.vms(), []);
}

fn missing_programs(w: &World) {
    let path = w.path_without("qemu-system-x86_64");
    let vsock = w.root().join("lib/banger/banger-vsock");
    for (program, words) in [
        ("qemu-system-x86_64", "apt-get install qemu-system-x86"),
        ("banger-vsock", "install banger again"),
    ] {
        if program == "banger-vsock" {
            std::fs::remove_file(&vsock).expect("remove a part of banger");
        }
        let run = |args: &[&str]| {
            let mut command = w.banger_command(args);
            if program != "banger-vsock" {
                command.env("PATH", &path);
            }
            Running::start(command, None).finish()
        };
        let refused = run(&["vm", "run", "--rm", "--", "true"]).expect_code(125);
        assert!(refused.err().contains(program), "{}", refused.err());
        assert!(refused.err().contains(words), "{}", refused.err());
        let doctor = run(&["doctor"]).expect_code(1);
        assert!(doctor.out().contains(words), "{}", doctor.out());
        assert_eq!(w.vms(), []);
        w.banger(["daemon", "stop"]).ok();
    }
    let build = w.base().build.join("lib/banger/banger-vsock");
    std::fs::hard_link(build, vsock).expect("put it back");
    w.configure("qemu_bin = \"/nonexistent/program\"\n");
    let refused = w
        .banger(["vm", "run", "--rm", "--", "true"])
        .expect_code(125);
    for word in ["/nonexistent/program", "qemu_bin"] {
        assert!(refused.err().contains(word), "{}", refused.err());
    }
    assert_eq!(w.vms(), []);
    w.banger(["daemon", "stop"]).ok();
}

fn broken_kvm(w: &World) {
    // Here `/dev/kvm` may even open; a stock kernel would hang under it.
    let refused = w
        .banger(["vm", "run", "--rm", "--vmm", "qemu-kvm", "--", "true"])
        .expect_code(125);
    assert!(
        refused.err().contains("qemu-tcg") || refused.err().contains("auto"),
        "{}",
        refused.err()
    );
    assert_eq!(w.vms(), []);
    let refused = w
        .banger(["vm", "run", "--rm", "--vmm", "firecracker", "--", "true"])
        .expect_code(125);
    assert!(refused.err().contains("auto"), "{}", refused.err());
    assert_eq!(w.vms(), []);
    // The fallback is taken and explained.
    let doctor = w.banger(["doctor", "--output", "json"]).ok().json();
    let checks = doctor
        .as_array()
        .cloned()
        .or(doctor["checks"].as_array().cloned())
        .expect("checks");
    let kvm = checks
        .iter()
        .find(|check| check["name"] == "kvm")
        .expect("a check of KVM");
    assert_eq!(kvm["status"], "warn", "{kvm}");
    assert!(kvm["fix"].is_string(), "{kvm}");
}

fn disk_full_create(w: &World) {
    let args = ["vm", "run", "--rm", "--output", "json", "--", "true"];
    let refused = w
        .banger_on_small_disk(&w.state().join("vms"), "512k", &args)
        .expect_code(125);
    assert!(refused.err().contains("no_space"), "{}", refused.err());
    assert!(
        refused.err().contains("free some space"),
        "{}",
        refused.err()
    );
    assert_eq!(w.vms(), []);
    // Once there is space again, it works.
    w.banger(["daemon", "stop"]).ok();
    w.banger(["vm", "run", "--rm", "--", "true"]).ok();
}

fn bad_configuration(w: &World) {
    for (toml, words) in [
        ("[vm_defaults]\nvcpus = 2\n", "vcpus"),
        ("[vm_defaults]\nvcpu = \"two\"\n", "vcpu"),
        ("[vm_defaults]\nmemory = \"1K\"\n", "memory"),
        ("[vm_defaults\n", "line 1"),
    ] {
        w.configure(toml);
        let refused = w.banger(["vm", "list", "--output", "json"]).expect_code(1);
        let error = &refused.json()["error"];
        assert_eq!(error["code"], "invalid_config", "{toml}");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains("config.toml"), "{message}");
        assert!(message.contains(words), "{message}");
    }
    w.configure("");
}

fn doctor(w: &World) {
    let report = w.banger(["doctor"]).ok();
    for word in ["qemu", "banger-vsock", "mmdebstrap", "kvm"] {
        assert!(
            report.out().contains(word),
            "{word} is checked:\n{}",
            report.out()
        );
    }
}
