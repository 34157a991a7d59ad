//! The first pull of an image and a kernel, and what can go wrong in the middle of it.
//!
//! Each of these starts from an empty state directory, as on a fresh machine.

use std::fs;

use banger_tests::proxy::FailingProxy;
use banger_tests::{Running, World, eventually};
use rustix::process::{Signal, kill_process};

use banger_tests::scenario::{Need, Scenario, shared};
use banger_tests::seconds;

pub(crate) const SCENARIOS: &[Scenario] = &[
    shared(
        "image-two-runs-build-once",
        "two first runs build one image",
        build_once,
    )
    .on_bare_ground()
    .needs(&[Need::PackageArchive]),
    shared(
        "image-ctrl-c-during-bootstrap",
        "Ctrl-C during the first pull leaves nothing",
        ctrl_c,
    )
    .on_bare_ground()
    .needs(&[Need::PackageArchive]),
    shared(
        "image-daemon-killed-during-bootstrap",
        "a daemon killed during the first pull leaves nothing",
        daemon_killed,
    )
    .on_bare_ground()
    .needs(&[Need::PackageArchive]),
    shared(
        "image-no-space-for-bootstrap",
        "an image that does not fit is refused first",
        no_space,
    )
    .on_bare_ground()
    .needs(&[Need::PackageArchive]),
    shared(
        "image-archive-unreachable",
        "an archive that cannot be reached is named",
        unreachable,
    )
    .on_bare_ground()
    .needs(&[Need::PackageArchive]),
    shared(
        "image-archive-fails-half-way",
        "an archive that fails half-way is named",
        fails_half_way,
    )
    .on_bare_ground()
    .needs(&[Need::PackageArchive]),
];

fn build_once(w: &World) {
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| w.banger(["vm", "run", "--rm", "--", "true"])))
            .collect();
        for run in runs {
            run.join().expect("a run").ok();
        }
    });
    let images = w.banger(["image", "list", "--output", "json"]).ok().json();
    assert_eq!(images.as_array().expect("a list").len(), 1);
    assert_eq!(images[0]["name"], "debian-bookworm");
    let kernels = w.banger(["kernel", "list", "--output", "json"]).ok().json();
    assert_eq!(kernels.as_array().expect("a list").len(), 1);
    assert!(
        kernels[0]["release"]
            .as_str()
            .expect("a release")
            .ends_with("-amd64")
    );
    let log = fs::read_to_string(w.state().join("bangerd.log")).expect("read the log");
    let builds = log
        .lines()
        .filter(|line| line.contains("building image"))
        .count();
    assert_eq!(builds, 1, "one build for both:\n{log}");
    // Pulling what is there already is a quick success.
    w.banger(["image", "pull", "debian-bookworm"]).ok();
}

fn ctrl_c(w: &World) {
    let mut pull = w.start(["vm", "run", "--rm", "--", "true"]);
    pull.wait_for_stderr("install");
    pull.signal(Signal::INT);
    let done = pull.finish().expect_code(130);
    assert!(
        done.err().contains("nothing is left behind"),
        "{}",
        done.err()
    );
    assert_eq!(
        w.banger(["image", "list", "--output", "json"])
            .ok()
            .out()
            .trim(),
        "[]"
    );
    assert_eq!(w.vms(), []);
}

fn daemon_killed(w: &World) {
    let mut pull = w.start(["image", "pull", "debian-bookworm"]);
    pull.wait_for_stderr("install");
    let pid = w.daemon_pid();
    kill_process(pid, Signal::KILL).expect("kill the daemon");
    pull.finish().expect_code(1);
    let state = w.state();
    eventually(seconds(5), "the bootstrap ends with the daemon", || {
        banger_tests::oracle::world_leaks(&state.join("images"), &state.join("kernels"))
            .iter()
            .all(|leak| !leak.starts_with("process") && !leak.starts_with("mount"))
    });
    // The next daemon clears what is left of it.
    assert_eq!(
        w.banger(["image", "list", "--output", "json"])
            .ok()
            .out()
            .trim(),
        "[]"
    );
}

fn no_space(w: &World) {
    let args = ["image", "pull", "debian-bookworm", "--output", "json"];
    let refused = w
        .banger_on_small_disk(&w.state(), "64m", &args)
        .expect_code(1);
    assert_eq!(
        refused.json()["error"]["code"],
        "no_space",
        "{}",
        refused.err()
    );
    w.banger(["daemon", "stop"]).ok();
}

fn unreachable(w: &World) {
    // A mirror that answers the first request and then nothing more.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("address").port();
    w.configure(&format!(
        "[images]\nmirror = \"http://127.0.0.1:{port}/debian\"\n"
    ));
    drop(listener);
    let refused = w
        .banger(["vm", "run", "--rm", "--output", "json", "--", "true"])
        .expect_code(125);
    assert!(refused.err().contains("fetch_failed"), "{}", refused.err());
    assert_eq!(w.vms(), []);
    assert_eq!(
        w.banger(["image", "list", "--output", "json"])
            .ok()
            .out()
            .trim(),
        "[]"
    );
}

fn fails_half_way(w: &World) {
    // More than the package lists, less than the packages.
    let proxy = FailingProxy::start(30 << 20);
    let mut command = w.banger_command(["image", "pull", "debian-bookworm", "--output", "json"]);
    for name in ["http_proxy", "https_proxy"] {
        command.env(name, proxy.url());
    }
    command.env("no_proxy", "");
    let refused = Running::start(command, None).finish().expect_code(1);
    assert!(
        proxy.is_spent(),
        "the archive was reached through the proxy:\n{}",
        refused.err()
    );
    assert!(
        refused.err().contains("download"),
        "it failed after the lists:\n{}",
        refused.err()
    );
    let error = &refused.json()["error"];
    assert_eq!(error["code"], "fetch_failed", "{error}");
    assert!(error["hint"].is_string(), "{error}");
    assert_eq!(
        w.banger(["image", "list", "--output", "json"])
            .ok()
            .out()
            .trim(),
        "[]"
    );
}
