//! Processes that die and clients that vanish at random moments.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use banger_tests::{World, eventually, oracle};
use rustix::process::{Pid, Signal, kill_process};

use banger_tests::scenario::{Scenario, global, pure};
use banger_tests::seconds;

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "faults-neighbours-are-undisturbed",
        "VMs beside one that dies notice nothing",
        neighbours,
    )
    .with_plain_guests(),
    pure(
        "faults-agent-killed",
        "an agent that is killed ends its VM",
        agent_killed,
    ),
    pure(
        "faults-client-vanishes",
        "clients killed at random moments leave nothing half-done",
        client_vanishes,
    )
    .with_plain_guests(),
    pure(
        "faults-nothing-grows",
        "a daemon that has seen many VMs is as small as before",
        nothing_grows,
    )
    .with_plain_guests(),
    global(
        "many-creates-at-once",
        "twenty creates at once all succeed",
        many_creates,
    )
    .with_plain_guests(),
    pure(
        "many-names-race",
        "one name has one winner, round after round",
        name_races,
    )
    .with_plain_guests(),
    global(
        "many-cycles-in-parallel",
        "sixteen whole lives side by side",
        cycles,
    )
    .with_plain_guests(),
];

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn neighbours(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "neighbour"]).ok();
    w.banger(["vm", "create", "--no-start", "--name", "victim"])
        .ok();
    let before = w.vm("neighbour");
    let id = w.vm("victim")["id"].as_str().expect("an id").to_owned();
    let programs = w.vm_programs();
    let processes = |program: &str| {
        oracle::find_processes(|line| line.starts_with(program) && line.contains(&id))
    };
    let mut random = Random(42);
    for round in 0..8 {
        let program = programs[round % 2];
        // While it boots as well as when it runs.
        let mut start = w.start(["vm", "start", "victim"]);
        if round < 4 {
            start.finish().ok();
            std::thread::sleep(Duration::from_millis(random.below(300)));
        } else {
            start.wait_for_stderr("waiting for the guest");
            std::thread::sleep(Duration::from_millis(random.below(1000)));
        }
        for pid in processes(program) {
            // Gone by itself is as good.
            kill_process(pid, Signal::KILL).ok();
        }
        eventually(seconds(2), "the VM is stopped", || {
            w.vm("victim")["state"] == "stopped"
        });
        assert!(w.vm("victim")["reason"].is_string());
        for program in programs {
            assert_eq!(processes(program), [], "round {round}");
        }
        let done = w
            .banger(["vm", "exec", "neighbour", "--", "echo", "fine"])
            .ok();
        assert_eq!(done.out(), "fine\n");
    }
    assert_eq!(w.vm("neighbour")["boot_id"], before["boot_id"]);
    w.banger(["vm", "delete", "victim", "neighbour"]).ok();
}

/// Root in the guest can end the agent: the machine goes on, says so, and can be stopped.
fn agent_killed(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "headless"]).ok();
    w.banger([
        "vm",
        "exec",
        "headless",
        "--",
        "sh",
        "-c",
        "echo kept > /root/file; sync",
    ])
    .ok();
    let killed = w.banger([
        "vm",
        "exec",
        "headless",
        "--",
        "sh",
        "-c",
        "for p in /proc/[0-9]*; do \
           case $(readlink $p/exe) in *banger-agent*|/init*) [ ${p#/proc/} = 1 ] || kill -9 ${p#/proc/};; esac; \
         done",
    ]);
    assert_ne!(killed.code(), 0, "the session went with its agent");
    // Whatever the guest has left: an answer or a clear error, and soon.
    let begun = Instant::now();
    let asked = w.banger(["vm", "exec", "headless", "--", "true"]);
    assert!(begun.elapsed() < seconds(40));
    if asked.code() != 0 {
        asked.expect_code(125);
    }
    w.banger(["vm", "kill", "headless"]).ok();
    w.banger(["vm", "start", "headless"]).ok();
    let kept = w
        .banger(["vm", "exec", "headless", "--", "cat", "/root/file"])
        .ok();
    assert_eq!(kept.out(), "kept\n");
    w.banger(["vm", "delete", "headless"]).ok();
}

/// A client that closes its connection at any moment of any mutating call leaves an operation
/// that either never began or runs to its end.
fn client_vanishes(w: &World) {
    w.banger(["vm", "create", "--no-start", "--name", "box"])
        .ok();
    let socket = w.runtime().join("bangerd.sock");
    let mut random = Random(7);
    let mut call = |method: &str, path: &str, body: &str| {
        let (cut, patience) = (120 + random.below(400), random.below(20));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: banger\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = UnixStream::connect(&socket).expect("connect");
        // Some hang up in the middle of their request, some right after it.
        let sent = usize::try_from(cut).expect("fits").min(request.len());
        stream.write_all(&request.as_bytes()[..sent]).expect("send");
        // At any moment of the call.
        std::thread::sleep(Duration::from_millis(patience));
    };
    for round in 0..50 {
        let body = format!("{{\"name\":\"vanish-{round}\",\"start\":false}}");
        call("POST", "/v1/vms", &body);
    }
    settled(w);
    for (name, state) in w.vms() {
        assert_eq!(state, "stopped", "{name}");
    }
    let made: Vec<String> = w
        .vms()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name != "box")
        .collect();
    assert!(!made.is_empty(), "some got through");
    w.banger(["vm", "start", &made[0]]).ok();
    for name in &made {
        call("DELETE", &format!("/v1/vms/{name}"), "");
    }
    settled(w);
    // Deleted, or never asked to be.
    for (name, state) in w.vms() {
        if name != "box" {
            assert!(["stopped", "running"].contains(&state.as_str()), "{name}");
            w.banger(["vm", "delete", &name]).ok();
        }
    }
    for verb in ["start", "stop", "start", "restart", "kill", "start", "kill"] {
        let body = if verb == "kill" { "{}" } else { "" };
        call("POST", &format!("/v1/vms/box/{verb}"), body);
    }
    settled(w);
    w.banger(["vm", "kill", "box"]).ok();
    assert_eq!(w.vm("box")["state"], "stopped");
    w.banger(["vm", "start", "box"]).ok();
    w.banger(["vm", "exec", "box", "--", "true"]).ok();
    w.banger(["vm", "delete", "box"]).ok();
}

/// Waits until no VM has been on its way anywhere for a while: nobody is told when a request
/// without a client has been taken.
fn settled(w: &World) {
    const QUIET: Duration = Duration::from_millis(500);
    let mut since = Instant::now();
    let mut before = w.vms();
    eventually(seconds(60), "nothing is under way", || {
        let now = w.vms();
        let resting = now
            .iter()
            .all(|(_, state)| ["stopped", "running"].contains(&state.as_str()));
        if !resting || now != before {
            since = Instant::now();
            before = now;
        }
        since.elapsed() > QUIET
    });
}

/// Descriptors and threads of a process, and its memory in bytes.
fn cost(pid: Pid) -> (usize, usize, u64) {
    let dir = format!("/proc/{}", pid.as_raw_nonzero());
    let count = |what: &str| {
        std::fs::read_dir(format!("{dir}/{what}"))
            .expect("read /proc")
            .count()
    };
    let status = std::fs::read_to_string(format!("{dir}/status")).expect("read /proc");
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse::<u64>().ok())
        .expect("VmRSS");
    (count("fd"), count("task"), rss << 10)
}

/// Real machines, over and over; the daemon's own tests do 200 cycles with a stand-in.
fn nothing_grows(w: &World) {
    let pid = w.daemon_pid();
    let cycle = |number: u32| {
        w.banger(["vm", "run", "--rm", "--", "true"]).ok();
        (number, cost(pid))
    };
    for warm_up in 0..4 {
        cycle(warm_up);
    }
    let (_, (fds, threads, rss)) = cycle(4);
    for number in 5..20 {
        cycle(number);
    }
    let mut after = cost(pid);
    let deadline = Instant::now() + seconds(10);
    while after.0 > fds + 5 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        after = cost(pid);
    }
    assert!(after.0 <= fds + 5, "descriptors: {fds} then {}", after.0);
    assert!(
        after.1 <= threads + 2,
        "threads: {threads} then {}",
        after.1
    );
    assert!(after.2 <= rss + (4 << 20), "memory: {rss} then {}", after.2);
    assert_eq!(w.daemon_pid(), pid, "the same daemon all along");
}

/// For many guests at once: each waits for the others, too.
fn small_and_patient(w: &World) {
    let patience = seconds(300).as_secs();
    w.configure(&format!(
        "[vm_defaults]\nmemory = \"256M\"\nboot_timeout = {patience}\n"
    ));
}

/// Twenty machines at once on however few processors.
fn many_creates(w: &World) {
    small_and_patient(w);
    let begun = Instant::now();
    let creates: Vec<_> = (0..20)
        .map(|number| w.start(["vm", "create", "--name", &format!("many-{number}")]))
        .collect();
    // A list never waits for anything.
    let asked = Instant::now();
    drop(w.vms());
    assert!(asked.elapsed() < seconds(5), "{:?}", asked.elapsed());
    for create in creates {
        create.finish().ok();
    }
    println!("20 creates at once: {:?}", begun.elapsed());
    assert!(w.vms().iter().all(|(_, state)| state == "running"));
    let names: Vec<String> = w.vms().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 20);
    let execs: Vec<_> = names
        .iter()
        .map(|name| (name, w.start(["vm", "exec", name, "--", "hostname"])))
        .collect();
    for (name, exec) in execs {
        assert_eq!(exec.finish().ok().out(), format!("{name}\n"));
    }
    let mut delete = vec!["vm".to_owned(), "delete".to_owned()];
    delete.extend(names);
    w.banger(&delete).ok();
}

/// One name, many who want it: exactly one gets it, the others get a conflict.
fn name_races(w: &World) {
    for round in 0..10 {
        let racers: Vec<_> = (0..6)
            .map(|_| {
                w.start([
                    "vm",
                    "--output",
                    "json",
                    "create",
                    "--no-start",
                    "--name",
                    "prize",
                ])
            })
            .collect();
        let mut winners = 0;
        for racer in racers {
            let done = racer.finish();
            match done.code() {
                0 => winners += 1,
                1 => {
                    let said = done.out() + &done.err();
                    assert!(said.contains("already_exists"), "{said}");
                }
                code => panic!("exit code {code}: {}", done.err()),
            }
        }
        assert_eq!(winners, 1, "round {round}");
        assert_eq!(w.vms().len(), 1);
        // A delete against a start: never an error other than a refusal, never half a VM.
        let start = w.start(["vm", "start", "prize"]);
        let delete = w.start(["vm", "delete", "prize"]);
        delete.finish().ok();
        let started = start.finish();
        assert!([0, 1].contains(&started.code()), "{}", started.err());
        assert_eq!(w.vms(), [], "round {round}");
    }
}

/// Whole lives side by side.
fn cycles(w: &World) {
    small_and_patient(w);
    for round in 0..2 {
        let runs: Vec<_> = (0..8)
            .map(|number| {
                let word = format!("{round}-{number}");
                let script = format!("echo {word}; exit {number}");
                (
                    number,
                    word,
                    w.start(["vm", "run", "--rm", "--", "sh", "-c", &script]),
                )
            })
            .collect();
        for (number, word, run) in runs {
            assert_eq!(run.finish().expect_code(number).out(), format!("{word}\n"));
        }
        assert_eq!(w.vms(), []);
    }
}
