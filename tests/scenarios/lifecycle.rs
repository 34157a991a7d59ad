//! The verbs needed to live with a VM: list, show, exec, stop, start, delete.

use std::time::Duration;

use banger_tests::{World, eventually, oracle};
use rustix::process::{Pid, Signal, kill_process};

use banger_tests::scenario::{Scenario, pure};
use banger_tests::seconds;

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "lifecycle",
        "a VM's life from create to delete, and its state at every step",
        lifecycle,
    ),
    pure(
        "stop-keeps-data",
        "what was written before a stop is there after the start",
        stop_keeps_data,
    ),
    pure(
        "start-gives-a-new-boot-id",
        "a start is a new boot, and starting twice is one",
        new_boot_id,
    )
    .with_plain_guests(),
    pure(
        "verbs-look-up-names",
        "a VM is found by name, prefix and id",
        names,
    ),
    pure(
        "exec-refuses-a-stopped-vm",
        "exec in a stopped VM says how to start it",
        exec_stopped,
    ),
    pure(
        "delete-leaves-no-trace",
        "a deleted VM leaves no process and no file",
        delete_leaves_nothing,
    ),
    pure(
        "guest-powers-itself-off",
        "a guest that powers itself off is stopped",
        guest_poweroff,
    ),
    pure(
        "vmm-killed",
        "a VMM that is killed is noticed at once",
        vmm_killed,
    )
    .with_plain_guests(),
    pure(
        "vm-programs-killed",
        "a program beside the VMM that is killed is noticed at once",
        programs_killed,
    )
    .also(&["vsock-program-killed"]),
    pure(
        "name-race-has-one-winner",
        "of two creates with one name one succeeds",
        name_race,
    ),
    pure(
        "concurrent-runs",
        "runs side by side do not mix",
        side_by_side,
    ),
];

fn lifecycle(w: &World) {
    let state = |expected: &str| {
        assert_eq!(w.vms(), [("box".to_owned(), expected.to_owned())]);
        assert_eq!(w.vm("box")["state"], expected);
    };
    w.banger(["vm", "create", "--no-start", "--name", "box"])
        .ok();
    state("stopped");
    w.banger(["vm", "start", "box"]).ok();
    state("running");
    let said = w.banger(["vm", "exec", "box", "--", "echo", "hello"]).ok();
    assert_eq!(said.out(), "hello\n");
    w.banger(["vm", "stop", "box"]).ok();
    state("stopped");
    w.banger(["vm", "start", "box"]).ok();
    // One that runs is deleted, too.
    w.banger(["vm", "delete", "box"]).ok();
    assert_eq!(w.vms(), []);
}

fn stop_keeps_data(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "keep"]).ok();
    let script = "echo on-root > /etc/mark; echo on-work > /root/mark; \
                  i=0; while [ $i -lt 500 ]; do echo $i > /root/f$i; i=$((i+1)); done";
    w.banger(["vm", "exec", "keep", "--", "sh", "-c", script])
        .ok();
    w.banger(["vm", "stop", "keep"]).ok();
    assert_eq!(w.vms(), [("keep".into(), "stopped".into())]);
    w.banger(["vm", "start", "keep"]).ok();
    let script = "cat /etc/mark /root/mark; cat /root/f* | wc -l; cat /root/f499";
    let out = w
        .banger(["vm", "exec", "keep", "--", "sh", "-c", script])
        .ok()
        .out();
    assert_eq!(out, "on-root\non-work\n500\n499\n");
    w.banger(["vm", "delete", "keep"]).ok();
}

fn new_boot_id(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "again"]).ok();
    let first = w.vm("again")["boot_id"]
        .as_str()
        .expect("a boot id")
        .to_owned();
    let inside = w
        .banger([
            "vm",
            "exec",
            "again",
            "--",
            "cat",
            "/proc/sys/kernel/random/boot_id",
        ])
        .ok();
    assert_eq!(inside.out().trim(), first);
    // Both are no-ops on a VM that is there already.
    w.banger(["vm", "start", "again"]).ok();
    assert_eq!(w.vm("again")["boot_id"], first.as_str());
    w.banger(["vm", "stop", "again"]).ok();
    w.banger(["vm", "stop", "again"]).ok();
    w.banger(["vm", "start", "again"]).ok();
    assert_ne!(w.vm("again")["boot_id"], first.as_str());
    w.banger(["vm", "delete", "again"]).ok();
}

fn names(w: &World) {
    for name in ["box-a", "box-b", "other"] {
        w.banger(["vm", "create", "--no-start", "--name", name])
            .ok();
    }
    let listed = w.banger(["vm", "list", "-q"]).ok();
    assert_eq!(listed.out(), "box-a\nbox-b\nother\n");
    let taken = w.banger([
        "vm",
        "create",
        "--no-start",
        "--name",
        "other",
        "--output",
        "json",
    ]);
    let taken = taken.expect_code(1);
    assert_eq!(taken.json()["error"]["code"], "already_exists");
    // A unique prefix names a VM, an ambiguous one lists what it could mean.
    assert_eq!(w.vm("oth")["name"], "other");
    let id = w.vm("other")["id"].as_str().expect("an id").to_owned();
    assert_eq!(w.vm(&id)["name"], "other");
    let ambiguous = w.banger(["vm", "show", "box"]).expect_code(1);
    assert!(ambiguous.err().contains("box-a") && ambiguous.err().contains("box-b"));
    let none = w
        .banger(["vm", "show", "nothing", "--output", "json"])
        .expect_code(1);
    assert_eq!(none.json()["error"]["code"], "not_found");
    // One wrong name does not stop the others from being deleted.
    let mixed = w
        .banger(["vm", "delete", "box-a", "nothing", "box-b"])
        .expect_code(1);
    assert!(mixed.err().contains("nothing"), "{}", mixed.err());
    assert_eq!(w.vms(), [("other".into(), "stopped".into())]);
    w.banger(["vm", "delete", "other"]).ok();
}

fn exec_stopped(w: &World) {
    w.banger(["vm", "create", "--no-start", "--name", "off"])
        .ok();
    let refused = w
        .banger(["vm", "exec", "off", "--", "true"])
        .expect_code(125);
    assert!(
        refused.err().contains("banger vm start off"),
        "{}",
        refused.err()
    );
    w.banger(["vm", "delete", "off"]).ok();
}

fn delete_leaves_nothing(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "gone"]).ok();
    let vm = w.vm("gone");
    let pid = Pid::from_raw(vm["pid"].as_i64().expect("a pid") as i32).expect("a pid");
    let id = vm["id"].as_str().expect("an id");
    w.banger(["vm", "delete", "gone"]).ok();
    assert!(
        banger_tests::process::ends_within(pid, Duration::ZERO),
        "the VMM still runs"
    );
    assert!(!w.state().join("vms").join(id).exists());
    assert!(!w.runtime().join("vm").join(id).exists());
    let again = w.banger(["vm", "delete", "gone"]).expect_code(1);
    assert!(again.err().contains("gone"), "{}", again.err());
}

fn guest_poweroff(w: &World) {
    w.banger(["vm", "run", "-d", "--wait-for", "boot", "--name", "off"])
        .ok();
    // The session may or may not outlive its guest.
    w.banger(["vm", "exec", "off", "--", "systemctl", "poweroff"]);
    eventually(seconds(60), "the VM is stopped", || {
        w.vms() == [("off".into(), "stopped".into())]
    });
    w.banger(["vm", "start", "off"]).ok();
    w.banger(["vm", "delete", "off"]).ok();
}

fn vmm_killed(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "victim"]).ok();
    w.banger(["vm", "run", "-d", "--name", "neighbour"]).ok();
    let boot_id = w.vm("neighbour")["boot_id"].clone();
    let pid = w.vm("victim")["pid"].as_i64().expect("a pid") as i32;
    // A session that is open when it happens ends with a clear error.
    let mut session = w.start([
        "vm",
        "exec",
        "victim",
        "--",
        "sh",
        "-c",
        "echo up >&2; sleep 600",
    ]);
    session.wait_for_stderr("up");
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("kill the VMM");
    eventually(seconds(2), "the VM is stopped", || {
        w.vm("victim")["state"] == "stopped"
    });
    assert!(w.vm("victim")["reason"].is_string(), "the reason is said");
    let cut = session.finish().expect_code(125);
    assert!(cut.err().contains("victim"), "{}", cut.err());
    assert_eq!(
        w.vm("neighbour")["boot_id"],
        boot_id,
        "the neighbour is undisturbed"
    );
    w.banger(["vm", "exec", "neighbour", "--", "true"]).ok();
    w.banger(["vm", "start", "victim"]).ok();
    w.banger(["vm", "exec", "victim", "--", "true"]).ok();
    w.banger(["vm", "delete", "victim", "neighbour"]).ok();
}

fn programs_killed(w: &World) {
    let firecracker = w.base().vmm.as_deref() == Some("firecracker");
    w.banger(["vm", "run", "-d", "--nat", "--name", "served"])
        .ok();
    let id = w.vm("served")["id"].as_str().expect("an id").to_owned();
    // Under Firecracker, pasta carries the network; QEMU does that itself.
    let programs: &[&str] = match firecracker {
        true => &["banger-vsock", "pasta"],
        false => &["banger-vsock"],
    };
    for (index, program) in programs.iter().enumerate() {
        if index > 0 {
            w.banger(["vm", "start", "served"]).ok();
        }
        let served_by = |line: &str| line.starts_with(*program) && line.contains(&id);
        let found = oracle::find_processes(served_by);
        let pid = *found.first().expect(program);
        kill_process(pid, Signal::KILL).expect("kill it");
        eventually(seconds(2), "the VM is stopped", || {
            w.vm("served")["state"] == "stopped"
        });
        assert!(w.vm("served")["reason"].is_string(), "the reason is said");
    }
    w.banger(["vm", "delete", "served"]).ok();
}

fn name_race(w: &World) {
    for round in 0..5 {
        let name = format!("race-{round}");
        let codes: Vec<i32> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..6)
                .map(|_| {
                    scope.spawn(|| {
                        let args = [
                            "vm",
                            "create",
                            "--no-start",
                            "--name",
                            &name,
                            "--output",
                            "json",
                        ];
                        let done = w.banger(args);
                        if done.code() != 0 {
                            assert_eq!(done.json()["error"]["code"], "already_exists");
                        }
                        done.code()
                    })
                })
                .collect();
            racers
                .into_iter()
                .map(|racer| racer.join().expect("a racer"))
                .collect()
        });
        assert_eq!(
            codes.iter().filter(|code| **code == 0).count(),
            1,
            "{codes:?}"
        );
        assert_eq!(w.vms().len(), 1);
        w.banger(["vm", "delete", &name]).ok();
    }
}

fn side_by_side(w: &World) {
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|i| {
                scope.spawn(move || {
                    let script = format!("echo {i}; exit {i}");
                    let done = w.banger(["vm", "run", "--rm", "--", "sh", "-c", &script]);
                    assert_eq!(done.expect_code(i).out(), format!("{i}\n"));
                })
            })
            .collect();
        for run in runs {
            run.join().expect("a run");
        }
    });
    assert_eq!(w.vms(), []);
}
