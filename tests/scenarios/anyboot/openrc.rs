//! OpenRC under BusyBox' init, as on Alpine.

use std::fs;
use std::os::unix::fs::symlink;

use banger_tests::World;
use serde_json::json;

use super::image::{Tree, run};

const INITTAB: &str = "::sysinit:/sbin/openrc sysinit\n::sysinit:/sbin/openrc boot\n\
    ::wait:/sbin/openrc default\n::ctrlaltdel:/bin/reboot\n::shutdown:/sbin/openrc shutdown\n";

/// Writes down when it is started and stopped.
const SERVICE: &str = "#!/sbin/openrc-run\nstart() { echo started >> /var/record; }\n\
    stop() { echo stopped >> /var/record; }\n";

pub(super) fn boots_and_goes_down(w: &World) {
    let tree = Tree::new(w);
    // The distribution's OpenRC and what it needs, unpacked; BusyBox for everything else.
    let archive = w.root().join("openrc.tar");
    let mut bootstrap = w.command("mmdebstrap");
    bootstrap.args([
        "--mode=unshare",
        "--variant=extract",
        "--include=openrc",
        "bookworm",
    ]);
    run(bootstrap.arg(&archive));
    let mut unpack = w.command("tar");
    unpack.args([
        "--extract",
        "--no-same-owner",
        "--exclude=./dev/*",
        "--exclude=./var/lib/dpkg",
    ]);
    run(unpack
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(tree.path("")));
    tree.busybox();
    symlink("/bin/busybox", tree.path("sbin/init")).expect("link");
    tree.file("etc/inittab", INITTAB);
    tree.file("etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    tree.file("etc/group", "root:x:0:\n");
    tree.file("etc/rc.conf", "rc_sys=\"\"\nrc_cgroup_mode=\"unified\"\n");
    tree.program("etc/init.d/record", SERVICE);
    // Only the runlevels and the service of ours: the rest is Debian's, for Debian's own boot.
    for level in ["sysinit", "boot", "default", "shutdown"] {
        let directory = tree.path("etc/runlevels").join(level);
        if directory.exists() {
            fs::remove_dir_all(&directory).expect("empty a runlevel");
        }
        fs::create_dir_all(&directory).expect("make a runlevel");
    }
    symlink(
        "/etc/init.d/record",
        tree.path("etc/runlevels/default/record"),
    )
    .expect("link");
    tree.register("openrc", json!({}));

    let run = [
        "vm",
        "run",
        "--name",
        "box",
        "--image",
        "openrc",
        "--wait-for",
        "boot",
    ];
    let script =
        "readlink /proc/1/exe; rc-status --runlevel; rc-service record status; cat /var/record";
    let done = w
        .banger([&run[..], &["--", "sh", "-c", script]].concat())
        .ok();
    let out = done.out();
    assert!(out.starts_with("/bin/busybox\ndefault\n"), "{out}");
    assert!(
        out.contains("status: started") && out.ends_with("\nstarted\n"),
        "{out}"
    );

    let stop = w.banger(["vm", "stop", "box"]).ok();
    assert!(
        stop.took.as_secs() < 18,
        "init goes down when asked: {:?}",
        stop.took
    );
    w.banger(["vm", "start", "box"]).ok();
    let record = w
        .banger(["vm", "exec", "box", "--", "cat", "/var/record"])
        .ok()
        .out();
    assert!(record.starts_with("started\nstopped\n"), "{record}");
    w.banger(["vm", "delete", "box"]).ok();
}
