//! The verbs of a VM's life beyond create, start, stop and delete.

use std::time::Instant;

use banger_tests::World;

use banger_tests::scenario::{Scenario, pure};
use banger_tests::seconds;

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "restart-boot-id",
        "a restart is another boot, and keeps the data",
        restart,
    ),
    pure(
        "kill-signal",
        "kill ends a VM with any of the signals it takes",
        kill,
    )
    .with_plain_guests(),
    pure(
        "set-vcpu",
        "set changes processors, memory, disk and network of a stopped VM",
        set,
    )
    .with_plain_guests(),
    pure("prune", "prune deletes stopped VMs and no other", prune),
    pure(
        "several-names",
        "verbs take several names, and one mistake stops none of the others",
        several,
    )
    .with_plain_guests(),
    pure("logs", "logs of VMs and of the daemon, from the end", logs),
    pure(
        "ports",
        "what listens in a guest, and what it uses",
        stats_and_ports,
    )
    .with_plain_guests(),
    pure("json-contract", "every command speaks JSON", json).with_plain_guests(),
];

fn exec(w: &World, vm: &str, script: &str) -> String {
    w.banger(["vm", "exec", vm, "--", "sh", "-c", script])
        .ok()
        .out()
}

fn restart(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "again"]).ok();
    exec(w, "again", "echo kept > /root/file; echo kept > /etc/file");
    let before = w.vm("again");
    w.banger(["vm", "restart", "again"]).ok();
    let after = w.vm("again");
    assert_eq!(after["state"], "running");
    assert_ne!(after["boot_id"], before["boot_id"]);
    assert_eq!(exec(w, "again", "cat /root/file /etc/file"), "kept\nkept\n");
    assert_ne!(
        exec(w, "again", "cat /proc/sys/kernel/random/boot_id"),
        before["boot_id"].as_str().expect("a boot id")
    );
    // A stopped one is started.
    w.banger(["vm", "stop", "again"]).ok();
    w.banger(["vm", "restart", "again"]).ok();
    assert_eq!(w.vm("again")["state"], "running");
    w.banger(["vm", "delete", "again"]).ok();
}

fn kill(w: &World) {
    w.banger(["vm", "create", "--name", "victim"]).ok();
    for signal in ["", "KILL", "SIGTERM", "term", "INT", "HUP", "QUIT"] {
        if w.vm("victim")["state"] != "running" {
            w.banger(["vm", "start", "victim"]).ok();
        }
        let mut args = vec!["vm", "kill", "victim"];
        if !signal.is_empty() {
            args.extend(["--signal", signal]);
        }
        let begun = Instant::now();
        w.banger(&args).ok();
        assert!(begun.elapsed() < seconds(15), "{signal}");
        let vm = w.vm("victim");
        assert_eq!(vm["state"], "stopped", "{signal}: not an error");
        assert!(
            vm["reason"]
                .as_str()
                .is_some_and(|why| why.contains("kill")),
            "{vm}"
        );
        assert!(vm["pid"].is_null());
    }
    // Killing what does not run is a success; other signals are refused.
    w.banger(["vm", "kill", "victim"]).ok();
    for bad in ["STOP", "USR1", "9x", "SEGV", ""] {
        w.banger(["vm", "kill", "victim", "--signal", bad])
            .expect_code(2);
    }
    // One that boots is ended in the middle.
    let mut start = w.start(["vm", "start", "victim"]);
    start.wait_for_stderr("waiting for the guest");
    w.banger(["vm", "kill", "victim"]).ok();
    start.finish().expect_code(1);
    assert_eq!(w.vm("victim")["state"], "stopped");
    w.banger(["vm", "start", "victim"]).ok();
    w.banger(["vm", "delete", "victim"]).ok();
}

fn set(w: &World) {
    w.banger([
        "vm",
        "create",
        "--no-start",
        "--name",
        "grows",
        "--disk-size",
        "256M",
    ])
    .ok();
    w.banger(["vm", "start", "grows"]).ok();
    exec(w, "grows", "head -c 100M /dev/zero > /root/fill");
    // Not while it runs, and not smaller.
    let refused = w
        .banger(["vm", "set", "grows", "--vcpu", "2"])
        .expect_code(1);
    assert!(refused.err().contains("stop"), "{}", refused.err());
    let refused = w.banger(["vm", "set", "grows", "--nat"]).expect_code(1);
    assert!(refused.err().contains("stop"), "{}", refused.err());
    w.banger(["vm", "stop", "grows"]).ok();
    let refused = w
        .banger(["vm", "set", "grows", "--disk-size", "128M"])
        .expect_code(1);
    assert!(refused.err().contains("256"), "{}", refused.err());
    w.banger(["vm", "set", "grows"]).expect_code(2);
    w.banger(["vm", "set", "grows", "--vcpu", "0"])
        .expect_code(2);

    w.banger([
        "vm",
        "set",
        "grows",
        "--vcpu",
        "2",
        "--memory",
        "700M",
        "--disk-size",
        "1G",
        "--nat",
    ])
    .ok();
    w.banger(["vm", "start", "grows"]).ok();
    assert_eq!(exec(w, "grows", "nproc").trim(), "2");
    let memory: u64 = exec(w, "grows", "awk '/MemTotal/ {print $2}' /proc/meminfo")
        .trim()
        .parse()
        .expect("a number");
    assert!((550_000..700 << 10).contains(&memory), "{memory} KiB");
    let disk: u64 = exec(w, "grows", "df --output=size -k /root | tail -n 1")
        .trim()
        .parse()
        .expect("a number");
    assert!(disk > 900_000, "the file system has grown: {disk} KiB");
    assert_eq!(
        exec(w, "grows", "stat -c %s /root/fill").trim(),
        "104857600"
    );
    exec(w, "grows", "ip -brief address show | grep 10.0.2.15");
    let vm = w.vm("grows");
    assert_eq!((&vm["vcpus"], &vm["nat"]), (&2.into(), &true.into()));
    // The change outlives the daemon.
    w.banger(["daemon", "stop"]).ok();
    assert_eq!(w.vm("grows")["memory"], 700u64 << 20);
    w.banger(["vm", "delete", "grows"]).ok();
}

fn prune(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "alive"]).ok();
    for name in ["idle-1", "idle-2"] {
        w.banger(["vm", "create", "--no-start", "--name", name])
            .ok();
    }
    // Without a terminal nobody can be asked.
    let refused = w.banger(["vm", "prune"]).expect_code(2);
    assert!(refused.err().contains("-f"), "{}", refused.err());
    assert_eq!(w.vms().len(), 3);
    let done = w.banger(["vm", "prune", "-f"]).ok();
    for name in ["idle-1", "idle-2"] {
        assert!(
            done.out().contains(name) || done.err().contains(name),
            "{done:?}"
        );
    }
    assert_eq!(w.vms(), [("alive".to_owned(), "running".to_owned())]);
    w.banger(["vm", "prune", "-f"]).ok();
    exec(w, "alive", "true");
    w.banger(["vm", "delete", "alive"]).ok();
}

fn several(w: &World) {
    for name in ["one", "two", "three"] {
        w.banger(["vm", "create", "--no-start", "--name", name])
            .ok();
    }
    let begun = Instant::now();
    let done = w
        .banger(["vm", "start", "one", "nobody", "two", "three"])
        .expect_code(1);
    assert!(done.err().contains("nobody"), "{}", done.err());
    assert!(begun.elapsed() < seconds(60));
    for name in ["one", "two", "three"] {
        assert_eq!(w.vm(name)["state"], "running", "{name}");
    }
    w.banger(["vm", "restart", "one", "two"]).ok();
    w.banger(["vm", "kill", "one", "two", "three"]).ok();
    assert!(w.vms().iter().all(|(_, state)| state == "stopped"));
    w.banger(["vm", "delete", "one", "two", "three"]).ok();
}

fn logs(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "talks"]).ok();
    let mut follow = w.start(["vm", "logs", "-f", "talks"]);
    exec(w, "talks", "echo first-words > /dev/console");
    follow.wait_for_stdout("first-words");
    // The log begins anew with each boot, and whoever follows goes along.
    w.banger(["vm", "restart", "talks"]).ok();
    exec(w, "talks", "echo second-words > /dev/console");
    follow.wait_for_stdout("second-words");
    let log = w.banger(["vm", "logs", "talks"]).ok().out();
    assert!(log.contains("second-words"), "{log}");
    let last = w.banger(["vm", "logs", "-n", "1", "talks"]).ok().out();
    assert_eq!(last.lines().count(), 1, "{last}");
    // And ends with the machine.
    w.banger(["vm", "delete", "talks"]).ok();
    follow.finish().ok();
    let log = w.banger(["daemon", "logs"]).ok().out();
    assert!(log.contains("talks"), "{log}");
    let last = w.banger(["daemon", "logs", "-n", "2"]).ok().out();
    assert_eq!(last.lines().count(), 2, "{last}");
    w.banger(["daemon", "stop"]).ok();
    w.banger(["daemon", "logs", "-n", "1"]).ok();
}

fn stats_and_ports(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "busy"]).ok();
    w.banger(["vm", "create", "--no-start", "--name", "idle"])
        .ok();
    let stats = w.banger(["vm", "stats", "--output", "json"]).ok().json();
    let of = |name: &str| {
        let list = stats.as_array().expect("a list");
        list.iter()
            .find(|vm| vm["name"] == name)
            .unwrap_or_else(|| panic!("{name} in {stats}"))
            .clone()
    };
    let busy = of("busy");
    assert!(
        busy["cpu_seconds"].as_f64().expect("a number") > 0.1,
        "{busy}"
    );
    assert!(
        busy["memory_used"].as_u64().expect("a number") > 50 << 20,
        "{busy}"
    );
    assert!(
        busy["disk_used"].as_u64().expect("a number") > 100 << 10,
        "{busy}"
    );
    let total = busy["guest"]["memory_total"].as_u64();
    assert!(total.expect("a number") > 100 << 20, "{busy}");
    assert!(of("idle")["cpu_seconds"].is_null());
    let table = w.banger(["vm", "stats"]).ok().out();
    assert!(table.contains("busy") && table.contains("idle"), "{table}");

    // A server of the guest's own.
    let server = "import socket,time\ns=socket.create_server(('127.0.0.1',8123))\n\
                  print('up',flush=True)\ntime.sleep(1000)";
    let mut serving = w.start(["vm", "exec", "busy", "--", "python3", "-c", server]);
    serving.wait_for_stdout("up");
    let ports = w
        .banger(["vm", "ports", "busy", "--output", "json"])
        .ok()
        .json();
    let found = ports
        .as_array()
        .expect("a list")
        .iter()
        .find(|port| port["port"] == 8123)
        .unwrap_or_else(|| panic!("8123 in {ports}"))
        .clone();
    assert_eq!(found["address"], "127.0.0.1");
    assert!(
        found["process"]
            .as_str()
            .is_some_and(|name| name.starts_with("python3")),
        "{found}"
    );
    let table = w.banger(["vm", "ports", "busy"]).ok().out();
    assert!(table.contains("8123"), "{table}");
    w.banger(["vm", "ports", "idle"]).expect_code(1);
    w.banger(["vm", "delete", "busy", "idle"]).ok();
    serving.finish();
}

/// Every command, successful or not, answers in JSON when asked to.
fn json(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "box"]).ok();
    let successes: &[&[&str]] = &[
        &["vm", "list"],
        &["vm", "show", "box"],
        &["vm", "stats"],
        &["vm", "ports", "box"],
        &["vm", "restart", "box"],
        &["vm", "kill", "box"],
        &["vm", "set", "box", "--vcpu", "2"],
        &["vm", "start", "box"],
        &["vm", "stop", "box"],
        &["vm", "prune", "-f"],
        &["image", "list"],
        &["kernel", "list"],
        &["daemon", "status"],
        &["config", "show"],
        &["version"],
    ];
    for args in successes {
        let done = w.banger(args.iter().chain(&["--output", "json"])).ok();
        if !done.stdout.is_empty() {
            done.json();
        }
    }
    let failures: &[(&[&str], i32, &str)] = &[
        (&["vm", "show", "gone"], 1, "not_found"),
        (&["vm", "start", "gone"], 1, "not_found"),
        (&["vm", "logs", "gone"], 1, "not_found"),
        (&["vm", "ports", "gone"], 1, "not_found"),
        (&["vm", "stats", "gone"], 1, "not_found"),
        (&["vm", "cp", "gone:/x", "."], 1, "not_found"),
        (&["vm", "forward", "gone", "80"], 1, "not_found"),
        (&["vm", "ssh", "gone", "--", "true"], 255, "not_found"),
        (&["vm", "exec", "gone", "--", "true"], 125, "not_found"),
        (&["vm", "set", "gone", "--vcpu", "2"], 1, "not_found"),
        (&["vm", "set", "gone"], 2, "invalid_argument"),
        (&["vm", "prune"], 2, "invalid_argument"),
        (
            &["vm", "kill", "gone", "--signal", "STOP"],
            2,
            "invalid_argument",
        ),
        (&["vm", "nonsense"], 2, "invalid_argument"),
        (&["nonsense"], 2, "invalid_argument"),
    ];
    for (args, code, word) in failures {
        let mut words: Vec<&str> = args.to_vec();
        // Before the guest's words.
        words.splice(1..1, ["--output", "json"]);
        let done = w.banger(&words).expect_code(*code);
        let text = if done.stdout.is_empty() {
            &done.stderr
        } else {
            &done.stdout
        };
        let error: serde_json::Value = serde_json::from_slice(text)
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {done:?}"));
        // Verbs that take several names answer for each.
        let error = error.get(0).unwrap_or(&error);
        assert_eq!(error["error"]["code"], *word, "{args:?}");
        assert!(error["error"]["message"].is_string(), "{args:?}");
    }
}
