//! Guests that come up and then lie: bounded in time and memory, a clear error, and nothing
//! outside the machine harmed.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use banger_tests::{Finished, World};

use banger_tests::scenario::{Scenario, pure};
use banger_tests::{pace, seconds};

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "hostile-broken-frames",
        "a guest that lies about lengths is refused",
        broken_frames,
    )
    .with_plain_guests(),
    pure(
        "hostile-names-and-text",
        "no name of a guest reaches a terminal or leaves its directory",
        names_and_text,
    )
    .with_plain_guests(),
    pure(
        "hostile-endings",
        "a guest that ends early is an error",
        endings,
    )
    .with_plain_guests(),
    pure(
        "hostile-floods",
        "a flood of output takes bounded memory",
        floods,
    )
    .with_plain_guests(),
    pure(
        "hostile-console-flood",
        "the console log is bounded",
        console_flood,
    )
    .with_plain_guests(),
    pure(
        "hostile-silence",
        "a guest that falls silent is given up",
        silence,
    )
    .with_plain_guests(),
    pure("protocol-1-agent", "an older agent still works", protocol_1).with_plain_guests(),
];

/// Boots `bad` with an agent that misbehaves in this way.
fn boot(w: &World, mode: &str) {
    let program = built(w, "banger-bad-agent");
    let mine = w.root().join("bad-agent");
    fs::copy(&program, &mine).expect("copy");
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(&mine)
        .expect("open");
    write!(file, "\nmode={mode}").expect("append the mode");
    drop(file);
    w.use_agent(&mine);
    w.banger(["vm", "create", "--name", "bad"]).ok();
}

fn built(w: &World, name: &str) -> PathBuf {
    let program = w
        .base()
        .build
        .join("x86_64-unknown-linux-gnu/agent")
        .join(name);
    assert!(
        program.exists(),
        "{}: run `make bad-agent`",
        program.display()
    );
    program
}

/// Whatever was said is fit for a terminal, and came soon.
fn check(done: Finished, what: &str) -> Finished {
    for text in [&done.stdout, &done.stderr] {
        let text = String::from_utf8_lossy(text);
        assert!(
            !text
                .chars()
                .any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'),
            "{what}: {text:?}"
        );
    }
    assert!(done.took < seconds(45), "{what}: {:?}", done.took);
    done
}

/// Asks everything there is to ask of the machine; no answer may be taken for a good one.
fn ask_everything(w: &World, mode: &str) {
    let target = w.root().join("target");
    fs::create_dir_all(&target).expect("mkdir");
    let here = target.to_str().expect("UTF-8");
    let source = w.root().join("bin/banger");
    let source = source.to_str().expect("UTF-8");
    let asked: [(&[&str], i32); 4] = [
        (&["vm", "exec", "bad", "--", "true"], 125),
        (&["vm", "cp", "bad:/etc/hostname", here], 1),
        (&["vm", "cp", source, "bad:/root/x"], 1),
        (&["vm", "ports", "bad"], 1),
    ];
    for (args, code) in asked {
        let what = format!("{mode}: {args:?}");
        let done = check(w.banger(args), &what).expect_code(code);
        assert!(!done.err().is_empty(), "{what}");
    }
    // What the host alone knows is still told.
    let stats = check(w.banger(["vm", "stats", "--output", "json"]), mode).ok();
    assert_eq!(stats.json()[0]["name"], "bad");
    assert_eq!(fs::read_dir(&target).expect("list").count(), 0, "{mode}");
}

/// The end of a bad machine is as quick as that of a good one.
fn end(w: &World) {
    w.banger(["vm", "kill", "bad"]).ok();
    w.banger(["vm", "delete", "bad"]).ok();
    w.banger(["daemon", "stop"]).ok();
}

fn broken_frames(w: &World) {
    for mode in [
        "serve-garbage",
        "serve-huge",
        "serve-close",
        "serve-half",
        "serve-refuse",
    ] {
        boot(w, mode);
        if mode == "serve-half" {
            // The connection stays open in the middle of a frame: each question costs its
            // whole time limit, so one is asked.
            let done = check(w.banger(["vm", "exec", "bad", "--", "true"]), mode);
            done.expect_code(125);
        } else {
            ask_everything(w, mode);
        }
        end(w);
    }
}

fn names_and_text(w: &World) {
    boot(w, "serve-names");
    let target = w.root().join("target");
    fs::create_dir(&target).expect("mkdir");
    let here = target.to_str().expect("UTF-8");
    let before = listing(&target, w);
    let refused = check(w.banger(["vm", "cp", "bad:/srv", here]), "cp").expect_code(1);
    assert!(refused.err().contains("a link is on the way"));
    // What came before the first evil name was whole and stays, as everywhere in a copy; the link
    // among it points where it likes, and nothing was written through it.
    let copy = target.join("srv");
    let mut kept: Vec<_> = fs::read_dir(&copy)
        .expect("list")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    kept.sort();
    assert_eq!(kept, ["harmless", "link"]);
    assert_eq!(fs::read(copy.join("harmless")).expect("read"), b"harmless");
    fs::remove_dir_all(&copy).expect("remove");
    assert_eq!(listing(&target, w), before, "nothing outside");
    check(w.banger(["vm", "exec", "bad", "--", "true"]), "exec").expect_code(127);
    check(w.banger(["vm", "ports", "bad"]), "ports");
    check(w.banger(["vm", "stats"]), "stats").ok();
    check(
        w.banger(["vm", "cp", "/etc/hostname", "bad:/root/x"]),
        "cp in",
    )
    .expect_code(1);
    end(w);
}

/// What lies around a directory into which a hostile guest's files are copied.
fn listing(target: &std::path::Path, w: &World) -> Vec<String> {
    let mut names: Vec<String> = [
        target,
        w.root(),
        &w.root().join("home"),
        std::path::Path::new("/tmp"),
    ]
    .iter()
    .flat_map(|dir| fs::read_dir(dir).expect("list").flatten())
    .map(|entry| entry.path().display().to_string())
    .filter(|path| !path.starts_with("/tmp/") || path.contains("evil"))
    .collect();
    names.sort();
    names
}

fn endings(w: &World) {
    for mode in ["serve-exit", "serve-signal", "serve-credit"] {
        boot(w, mode);
        let done = check(
            w.banger_with_input(["vm", "exec", "bad", "--", "cat"], vec![7; 3 << 20]),
            mode,
        );
        done.expect_code(125);
        end(w);
    }
}

/// Memory of every process of this world, in KiB.
fn memory_of(pid: rustix::process::Pid) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0)
}

fn floods(w: &World) {
    boot(w, "serve-flood");
    // Output without end, to somebody who does not read it.
    let exec = w.start(["vm", "exec", "bad", "--", "true"]);
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < seconds(3) {
        most = most.max(memory_of(exec.pid()));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(most < 64 << 10, "a session holds {most} KiB");
    // The terminal's user can always leave.
    exec.signal(rustix::process::Signal::TERM);
    exec.signal(rustix::process::Signal::TERM);
    let begun = Instant::now();
    w.banger(["vm", "kill", "bad"]).ok();
    exec.finish();
    assert!(begun.elapsed() < seconds(15));
    end(w);
}

/// A guest that prints for ever fills no disk, and costs the daemon nothing.
fn console_flood(w: &World) {
    // More than the log may hold, unless a serial line takes some kilobytes a second, as it does
    // under emulated virtualisation: there it is a flood, and its end is read.
    let flood: u64 = match pace::factor() {
        1 => 12_000_000,
        _ => 300_000,
    };
    let pid = w.daemon_pid();
    w.banger(["vm", "run", "-d", "--name", "bad"]).ok();
    let before = memory_of(pid);
    let script = format!(
        "yes 'a line that says nothing' | head -c {flood} > /dev/console; echo the-end > /dev/console"
    );
    w.banger(["vm", "exec", "bad", "--", "sh", "-c", &script])
        .ok();
    let vm = w.vm("bad");
    let log = PathBuf::from(vm["console_log"].as_str().expect("a path"));
    let mut size = 0;
    for entry in fs::read_dir(log.parent().expect("a directory"))
        .expect("list")
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with("console") {
            size += entry.metadata().expect("stat").len();
        }
    }
    assert!(
        (flood.min(4 << 20)..9 << 20).contains(&size),
        "{size} bytes of console"
    );
    let end_of_log = w.banger(["vm", "logs", "-n", "1", "bad"]).ok();
    assert!(end_of_log.out().contains("the-end"), "{}", end_of_log.out());
    let after = memory_of(pid);
    assert!(after < before + (4 << 10), "{before} then {after} KiB");
    end(w);
}

/// An agent that takes every request and never answers one.
fn silence(w: &World) {
    boot(w, "serve-stall");
    check(w.banger(["vm", "exec", "bad", "--", "true"]), "exec").expect_code(125);
    check(w.banger(["vm", "ports", "bad"]), "ports").expect_code(1);
    // Stopping asks the agent first, and does without it then.
    let begun = Instant::now();
    w.banger(["vm", "stop", "bad"]).ok();
    assert!(begun.elapsed() < seconds(100));
    assert_eq!(w.vm("bad")["state"], "stopped");
    end(w);
}

/// A machine that was started with the previous release's protocol: what that can do works, and
/// what it cannot do is said.
fn protocol_1(w: &World) {
    w.use_agent(&built(w, "banger-agent-protocol-1"));
    w.banger(["vm", "run", "-d", "--name", "old"]).ok();
    let done = w
        .banger_with_input(["vm", "exec", "old", "--", "cat"], b"bytes".to_vec())
        .ok();
    assert_eq!(done.out(), "bytes");
    w.banger(["vm", "exec", "old", "--", "sh", "-c", "exit 7"])
        .expect_code(7);
    for (args, what) in [
        (
            &["vm", "cp", "/etc/hostname", "old:/root/x"][..],
            "copy files",
        ),
        (
            &["vm", "cp", "old:/etc/hostname", "/nonexistent"],
            "copy files",
        ),
        (&["vm", "ports", "old"], "list what it listens on"),
    ] {
        let refused = w.banger(args).expect_code(1);
        for word in ["protocol 1", what, "stop and start"] {
            assert!(refused.err().contains(word), "{args:?}: {}", refused.err());
        }
    }
    let stats = w.banger(["vm", "stats", "--output", "json"]).ok();
    assert!(stats.json()[0]["cpu_seconds"].is_number());
    // The way out that was named works, in the same machine.
    let program = w.base().build.join("lib/banger/banger-agent");
    w.use_agent(&program);
    w.banger(["vm", "stop", "old"]).ok();
    w.banger(["vm", "start", "old"]).ok();
    w.banger(["vm", "cp", "/etc/hostname", "old:/root/x"]).ok();
    w.banger(["vm", "delete", "old"]).ok();
}
