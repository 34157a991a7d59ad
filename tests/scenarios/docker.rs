//! Docker in the default guest: installed from the distribution's packages, and everything it
//! needs from the kernel and the agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_tests::World;
use serde_json::json;
use sha2::{Digest, Sha256};

use banger_tests::scenario::{Need, Scenario, shared};
use banger_tests::seconds;

pub(crate) const SCENARIOS: &[Scenario] = &[shared(
    "docker-in-the-default-guest",
    "Docker installed from packages runs a container",
    works,
)
.needs(&[Need::PackageArchive, Need::ToBeNamed])];

/// `docker.io` and what the default image has not of its dependencies, and of what it recommends:
/// Docker 20 runs nothing on a kernel with AppArmor that it cannot load a profile into.
const PACKAGES: &str = "docker.io containerd runc tini libdevmapper1.02.1 dmsetup apparmor";

fn works(w: &World) {
    let packages = packages(w);
    let image = image(w);
    let run = [
        "vm",
        "run",
        "--detach",
        "--name",
        "box",
        "--memory",
        "1G",
        "--wait-for",
        "boot",
    ];
    w.banger(run).ok();
    let sh = |script: &str| {
        w.banger(["vm", "exec", "box", "--", "sh", "-ec", script])
            .ok()
            .out()
    };
    let copy = |from: &Path, to: &str| {
        let from = from.to_str().expect("text");
        w.banger(["vm", "cp", from, to]).ok();
    };
    copy(&packages, "box:/root/packages");
    copy(&image, "box:/root/tiny.tar");

    // As `apt-get install docker.io` does it, after its downloads. What it starts may take longer,
    // in software emulation, than one command may here.
    sh("dpkg --unpack --force-unsafe-io /root/packages/*.deb >&2");
    sh("printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d");
    sh("DEBIAN_FRONTEND=noninteractive dpkg --configure --pending >&2; rm /usr/sbin/policy-rc.d");
    sh("systemctl restart apparmor; systemctl start --no-block docker.socket docker.service");
    started(w);
    assert_eq!(
        sh("docker info --format '{{.Driver}} {{.CgroupDriver}} {{.CgroupVersion}}'"),
        "overlay2 systemd 2\n"
    );
    assert_eq!(
        sh("stat --file-system --format %T /var/lib/docker /var/lib/containerd"),
        "ext2/ext3\next2/ext3\n"
    );

    sh("docker load < /root/tiny.tar");
    assert_eq!(sh("docker run --rm tiny echo hello"), "hello\n");
    let code = w.banger([
        "vm", "exec", "box", "--", "docker", "run", "--rm", "tiny", "sh", "-c", "exit 7",
    ]);
    code.expect_code(7);
    assert_eq!(
        sh("docker run --rm --memory 32m tiny cat /sys/fs/cgroup/memory.max"),
        "33554432\n"
    );
    // Its network: a bridge, address translation, published ports.
    sh("docker run --rm tiny ping -c 1 -w 20 172.17.0.1");
    assert!(sh("iptables -t nat -S").contains("MASQUERADE"));
    assert_eq!(sh("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
    sh(
        "docker run --detach --name web --publish 8080:80 tiny sh -c 'echo served > /index.html; httpd -f -h /'",
    );
    assert_eq!(
        sh(
            "curl --silent --fail --retry 20 --retry-connrefused --retry-delay 1 http://127.0.0.1:8080/"
        ),
        "served\n"
    );

    // Images and containers outlive a stop.
    w.banger(["vm", "stop", "box"]).ok();
    w.banger(["vm", "start", "box"]).ok();
    started(w);
    assert_eq!(sh("docker image ls --format '{{.Repository}}'"), "tiny\n");
    assert_eq!(sh("docker run --rm tiny echo again"), "again\n");
    w.banger(["vm", "delete", "box"]).ok();
}

/// Waits until Docker is up, as long as that may take in software emulation on a busy host.
fn started(w: &World) {
    let limit = seconds(240);
    banger_tests::eventually(limit, "Docker is started", || {
        let state = [
            "vm",
            "exec",
            "box",
            "--",
            "systemctl",
            "is-active",
            "docker.service",
        ];
        w.banger(state).out() == "active\n"
    });
}

/// The packages, uncompressed: a guest in software emulation would take minutes for that.
fn packages(w: &World) -> PathBuf {
    let script = format!(
        "mkdir \"$1/packages\" && cd \"$1/packages\" && \
         APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-get download {PACKAGES} >&2"
    );
    let downloaded = w.root().join("packages");
    let mut download = w.command("mmdebstrap");
    download.args([
        "--mode=unshare",
        "--variant=extract",
        "--include=base-files",
    ]);
    download.arg(format!("--extract-hook={script}"));
    download.arg(format!(
        "--extract-hook=copy-out /packages {}",
        w.root().display()
    ));
    run(download.args(["bookworm", "/dev/null"]));
    let tree = w.root().join("package");
    for entry in fs::read_dir(&downloaded).expect("list packages") {
        let path = entry.expect("a package").path();
        run(w.command("dpkg-deb").arg("-R").arg(&path).arg(&tree));
        let mut build = w.command("dpkg-deb");
        run(build
            .args(["-Znone", "--root-owner-group", "-b"])
            .arg(&tree)
            .arg(&path));
        fs::remove_dir_all(&tree).expect("remove a tree");
    }
    downloaded
}

/// An archive as `docker save` writes it: BusyBox and nothing else.
fn image(w: &World) -> PathBuf {
    let root = w.root().join("tiny");
    fs::create_dir_all(root.join("bin")).expect("make a directory");
    fs::create_dir_all(root.join("layer")).expect("make a directory");
    fs::copy("/bin/busybox", root.join("bin/busybox"))
        .expect("BusyBox (busybox-static) is missing: run scripts/install-deps");
    for name in ["sh", "echo", "cat", "ping", "httpd"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("link");
    }
    let tar = |what: &[&str], to: &str| {
        let mut tar = w.command("tar");
        tar.args([
            "--create",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--file",
            to,
        ]);
        run(tar.args(what).current_dir(&root));
    };
    tar(&["bin"], "layer/layer.tar");
    let layer = fs::read(root.join("layer/layer.tar")).expect("read the layer");
    let diff: String = Sha256::digest(&layer)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": ["tiny:latest"], "Layers": ["layer/layer.tar"]}]);
    fs::write(root.join("config.json"), config.to_string()).expect("write");
    fs::write(root.join("manifest.json"), manifest.to_string()).expect("write");
    tar(
        &["manifest.json", "config.json", "layer/layer.tar"],
        "../tiny.tar",
    );
    w.root().join("tiny.tar")
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().expect("run a program");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {err}");
}
