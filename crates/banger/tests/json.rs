//! `docs/json.md` says what the program prints: no field, and no error code, that is not there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Output;

use banger_api::{
    CatalogImage, CatalogKernel, DaemonInfo, ErrorBody, Image, ImageDetails, Kernel, PrunedImage,
    PrunedImages, SavedWork, Vm, VmStats, Workspace, WorkspaceMode,
};
use banger_guest_api::{DiskUse, Stats};
use banger_model::{ByteSize, Class, Code, ImageConfig, VmState, VmmChoice, VmmKind};
use serde::Serialize;
use serde_json::{Value, json};
use support::{Place, Scripted, vm_json};

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/json.md")
}

/// The fields in the tables below the heading, up to the next one.
fn documented(heading: &str, column: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(file()).unwrap();
    let section = text
        .split("\n#")
        .find(|section| {
            section
                .trim_start_matches('#')
                .starts_with(&format!(" {heading}\n"))
        })
        .unwrap_or_else(|| panic!("docs/json.md has no section {heading}"));
    let table = section.split(&format!("| {column} |")).nth(1);
    table
        .unwrap_or_else(|| panic!("{heading} has no table of `{column}`"))
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect()
}

fn fields(value: impl Serialize) -> BTreeSet<String> {
    let value = serde_json::to_value(value).unwrap();
    value.as_object().unwrap().keys().cloned().collect()
}

fn check(heading: &str, value: impl Serialize) {
    assert_eq!(fields(value), documented(heading, "field"), "{heading}");
}

/// Written out, so that a new field does not compile before it is here and in the document.
fn vm() -> Vm {
    let text = |text: &str| Some(text.to_owned());
    Vm {
        id: "0123456789ab".into(),
        name: "box".into(),
        state: VmState::Running,
        reason: text("r"),
        image: "i".into(),
        image_digest: "d".into(),
        kernel: "k".into(),
        vcpus: 1,
        memory: ByteSize::gib(1),
        disk_size: ByteSize::gib(1),
        nat: false,
        vmm: VmmChoice::Auto,
        vmm_running: Some(VmmKind::QemuTcg),
        vmm_reason: Some("software emulation was asked for".to_owned()),
        pid: Some(1),
        ephemeral: false,
        created_at: "2026-01-01T00:00:00Z".into(),
        started_at: text("2026-01-01T00:00:00Z"),
        boot_id: text("b"),
        agent_socket: text("/a"),
        console_log: "/c".into(),
        ssh_host_key: text("ssh-ed25519 AAAA"),
        ssh_identity: "/k".into(),
        image_config: ImageConfig::default(),
        workspace: Some(workspace()),
    }
}

fn workspace() -> Workspace {
    let text = |text: &str| Some(text.to_owned());
    Workspace {
        repository: "/r".into(),
        guest_path: "/root/repo".into(),
        mode: WorkspaceMode::Overlay,
        include_untracked: false,
        branch: text("b"),
        from: text("f"),
        base: text("c"),
        fingerprint: "f".into(),
        copied_at: "2026-01-01T00:00:00Z".into(),
        complete: true,
        exported: text("d"),
    }
}

fn image() -> Image {
    Image {
        name: "n".into(),
        digest: "d".into(),
        size: ByteSize::gib(1),
        disk_usage: ByteSize::gib(1),
        source: "s".into(),
        kernel: "k".into(),
        created_at: "t".into(),
        used_by: 1,
    }
}

fn stats() -> VmStats {
    VmStats {
        id: "0123456789ab".into(),
        name: "box".into(),
        state: VmState::Running,
        at: "2026-01-01T00:00:00Z".into(),
        cpu_seconds: Some(1.0),
        memory_used: Some(1),
        memory: ByteSize::gib(1),
        disk_used: 1,
    }
}

#[test]
fn what_comes_from_the_daemon_and_the_guest_is_documented() {
    check("`vm list`, `vm show`, `vm create`, `vm run --detach`", vm());
    check("A workspace", workspace());
    check("`image list`", image());
    check(
        "`image show`, `image load`",
        ImageDetails {
            image: image(),
            rootfs_digest: Some("d".into()),
            config: ImageConfig::default(),
            reference: Some("r".into()),
            manifest_digest: Some("d".into()),
            platform: Some("p".into()),
            built_at: Some("t".into()),
            labels: [("l".to_owned(), "v".to_owned())].into(),
            exposed_ports: vec!["80/tcp".into()],
            vms: vec!["box".into()],
        },
    );
    check(
        "`image catalog`",
        CatalogImage {
            name: "n".into(),
            description: "d".into(),
            kind: "oci".into(),
            kernel: "k".into(),
            pulled: true,
        },
    );
    check("`image prune`", PrunedImages::default());
    let pruned = PrunedImage {
        name: Some("n".into()),
        digest: "d".into(),
        disk_usage: 1,
    };
    assert_eq!(
        fields(pruned),
        documented("`image prune`", "field of `images`")
    );
    check(
        "`kernel list`, `kernel show`",
        Kernel {
            name: "n".into(),
            digest: "d".into(),
            release: "r".into(),
            disk_usage: ByteSize::gib(1),
            source: "s".into(),
            created_at: "t".into(),
            used_by: 1,
            modules: true,
            initrd: true,
            config: Some("file".into()),
        },
    );
    check(
        "`kernel catalog`",
        CatalogKernel {
            name: "n".into(),
            description: "d".into(),
            pulled: true,
        },
    );
    let mut status = fields(DaemonInfo {
        version: "v".into(),
        pid: 1,
        started_at: "t".into(),
        state_dir: "/s".into(),
        running_vms: 1,
    });
    status.insert("running".into());
    assert_eq!(status, documented("`daemon status`", "field"));
    let mut usage = fields(stats());
    usage.extend(["cpu_percent", "guest"].map(str::to_owned));
    assert_eq!(usage, documented("`vm stats`", "field"));
    let guest = Stats {
        uptime_seconds: 1.0,
        memory_total: 1,
        memory_available: 1,
        load_1: 1.0,
        tasks: 1,
        network_received: 1,
        network_sent: 1,
        disks: vec![DiskUse::default()],
    };
    assert_eq!(fields(guest), documented("`vm stats`", "field of `guest`"));
    check(
        "Errors",
        ErrorBody {
            code: Code::Io,
            message: "m".into(),
            hint: Some("h".into()),
            op_id: Some("o".into()),
        },
    );
}

fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn what_the_program_makes_itself_is_documented() {
    let place = Place::new();
    let run = |args: &[&str]| parsed(&place.run(&[args, &["--output=json"]].concat()));
    check("`version`", run(&["version"]));
    check("`daemon socket`", run(&["daemon", "socket"]));
    check("`config show`", &run(&["config", "show"])[0]);
    check("`ssh-config`", run(&["ssh-config"]));
    let user_file = place.path().join("config");
    let user_file = user_file.to_str().unwrap();
    check(
        "`ssh-config --install`, `ssh-config --uninstall`",
        run(&["ssh-config", "--install", "--file", user_file]),
    );
    let doctor = run(&["doctor"]);
    let found: BTreeSet<_> = doctor.as_array().unwrap().iter().flat_map(fields).collect();
    assert!(
        found.is_subset(&documented("`doctor`", "field")),
        "{found:?}"
    );
    assert_eq!(run(&["daemon", "status"]), json!({"running": false}));
}

#[test]
fn what_is_documented_about_several_machines_is_printed() {
    let place = Place::new();
    let vm = serde_json::to_string(&vm()).unwrap();
    let other = vm_json("other", "stopped", r#""console_log":"/c","#);
    let table = [
        ("GET /v1/vms/box", vm.as_str()),
        ("GET /v1/vms", &format!("[{vm},{other}]")),
        ("GET /v1/stats", &serde_json::to_string(&[stats()]).unwrap()),
        ("POST /v1/vms/bad/stop", "op:bad"),
        ("DELETE /v1/kernels/bad", "op:bad"),
    ];
    Scripted::start(&place, &table);
    let run = |args: &[&str]| parsed(&place.run(&[args, &["--output=json"]].concat()));
    let heading = "`vm list`, `vm show`, `vm create`, `vm run --detach`";
    check(heading, run(&["vm", "show", "box"]));
    check(heading, &run(&["vm", "list"])[0]);
    let heading =
        "`vm start`, `vm stop`, `vm restart`, `vm kill`, `vm set`, `vm delete`, `vm prune`";
    let mut entry = run(&["vm", "stop", "bad"])[0].clone();
    let saved = SavedWork {
        repository: "/r".into(),
        reference: Some("refs/banger/box/1".into()),
        patch: Some("/p".into()),
        bundle: Some("/b".into()),
        archive: Some("/a".into()),
        because: Some("b".into()),
        restore: "git".into(),
    };
    assert_eq!(fields(&saved), documented(heading, "field of `saved`"));
    entry["saved"] = json!(saved);
    entry["warnings"] = json!(["w"]);
    check(heading, entry);
    check(
        "`kernel delete`, `kernel prune`",
        &run(&["kernel", "delete", "bad"])[0],
    );
    assert_eq!(run(&["vm", "stats", "box"])[0]["cpu_seconds"], 1.0);
}

#[test]
fn every_error_code_is_documented() {
    let (begin, end) = ("<!-- codes begin -->\n", "<!-- codes end -->");
    let mut table = String::from("| code | class |\n|---|---|\n");
    for code in Code::ALL {
        let class = match code.class() {
            Class::User => "user",
            Class::Config => "config",
            Class::Environment => "environment",
            Class::Internal => "internal",
        };
        table.push_str(&format!("| `{}` | {class} |\n", code.as_str()));
    }
    let text = std::fs::read_to_string(file()).unwrap();
    let (before, rest) = text.split_once(begin).unwrap();
    let (written, after) = rest.split_once(end).unwrap();
    if std::env::var_os("BANGER_REGENERATE").is_some() {
        // At once: the other tests read it meanwhile.
        let staged = file().with_extension("md.new");
        std::fs::write(&staged, [before, begin, &table, end, after].concat()).unwrap();
        std::fs::rename(staged, file()).unwrap();
        return;
    }
    assert!(
        written == table,
        "docs/json.md has other codes: run `BANGER_REGENERATE=1 cargo test -p banger`"
    );
}
