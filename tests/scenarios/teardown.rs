//! Work in a guest is saved before its machine is deleted, or the machine stays.

use std::fs;
use std::process::Command;
use std::time::Instant;

use banger_tests::repository::HostRepository;
use banger_tests::{Finished, Running, World, eventually};
use rustix::process::{Signal, kill_process};

use banger_tests::scenario::{Scenario, pure};
use banger_tests::seconds;

use crate::workspace::path;

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "teardown-saves-work",
        "work that was not exported is saved before its VM is deleted",
        running,
    )
    .with_plain_guests(),
    pure(
        "teardown-saves-what-is-stopped",
        "so it is when the VM is stopped",
        stopped,
    ),
    pure(
        "teardown-saves-on-every-way-out",
        "so it is by `--rm`, on every way out",
        ways_out,
    )
    .with_plain_guests(),
    pure(
        "teardown-keeps-what-cannot-be-saved",
        "what cannot be saved is not deleted",
        cannot_be_saved,
    )
    .with_plain_guests(),
    pure(
        "teardown-outlives-the-daemon",
        "a daemon that dies while it saves loses nothing",
        daemon_killed,
    )
    .with_plain_guests(),
    pure(
        "teardown-is-not-delayed-by-a-copy",
        "a delete does not wait for a copy",
        long_copy,
    )
    .with_plain_guests(),
];

/// Changes, makes and deletes a file each.
const WORK: &str = "cd /root/repo && echo changed > README && echo new > new && rm old && sync";

fn exec(w: &World, vm: &str, script: &str) -> Finished {
    w.banger(["vm", "exec", vm, "--", "sh", "-c", script])
}

/// A repository of one commit: `README`, `old` and `bin/run`.
fn host(w: &World) -> HostRepository<'_> {
    let repository = HostRepository::empty(w, "host");
    for (file, content) in [
        ("README", "hello\n"),
        ("old", "old\n"),
        ("bin/run", "run\n"),
    ] {
        repository.write(file, content.as_bytes());
    }
    repository.commit("first");
    repository
}

/// Copies it into a machine that runs.
fn prepare(w: &World, vm: &str, repository: &HostRepository) {
    w.banger(["vm", "workspace", "prepare", vm, path(repository)])
        .ok();
}

/// Makes a machine with a copy of the repository and work in it.
fn with_work(w: &World, vm: &str, repository: &HostRepository) {
    w.banger(["vm", "run", "-d", "--name", vm]).ok();
    prepare(w, vm, repository);
    exec(w, vm, WORK).ok();
}

/// The one command in the text that brings the work back, as a person would run it.
fn bring_back(text: &str) {
    let command = text.split('`').find(|part| {
        ["git -C ", "tar -x "]
            .iter()
            .any(|start| part.starts_with(start))
    });
    let command = command.unwrap_or_else(|| panic!("no command in:\n{text}"));
    let done = Command::new("sh").args(["-c", command]).output();
    let done = done.expect("run sh");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command}: {said}");
}

/// Checks that the working tree has the work, and takes it away again.
#[track_caller]
fn has_work(repository: &HostRepository) {
    let read = |name: &str| fs::read_to_string(repository.path().join(name)).unwrap_or_default();
    assert_eq!(
        (read("README"), read("new")),
        ("changed\n".into(), "new\n".into())
    );
    assert!(!repository.path().join("old").exists());
    repository.git_words(&["reset", "-q", "--hard"]);
    repository.git_words(&["clean", "-qfd"]);
}

fn running(w: &World) {
    let repository = host(w);
    with_work(w, "box", &repository);
    let before = repository.untouched();
    let done = w.banger(["vm", "delete", "-q", "box"]).ok();
    assert_eq!(done.out(), "box\n");
    assert!(done.err().contains("refs/banger/box/"), "{}", done.err());
    assert_eq!(
        repository.untouched(),
        before,
        "only objects and a reference are new"
    );
    assert_eq!(repository.saved().len(), 1);
    bring_back(&done.err());
    has_work(&repository);

    // Nothing was done; or what was done is not wanted.
    w.banger(["vm", "run", "-d", "--name", "idle"]).ok();
    prepare(w, "idle", &repository);
    let done = w.banger(["vm", "delete", "idle"]).ok();
    assert!(!done.err().contains("refs/banger"), "{}", done.err());
    with_work(w, "waste", &repository);
    let done = w.banger(["vm", "delete", "--discard", "waste"]).ok();
    assert!(!done.err().contains("refs/banger"), "{}", done.err());
    assert_eq!(repository.saved().len(), 1);

    // Commits that the files do not show are work as well.
    w.banger(["vm", "run", "-d", "--name", "twigs"]).ok();
    prepare(w, "twigs", &repository);
    let twigs = "cd /root/repo && git config user.name t && git config user.email t@t && \
                 git checkout -qb side && echo side > side && git add side && \
                 git commit -qm side && git checkout -q main && echo hidden > README && git stash -q";
    exec(w, "twigs", twigs).ok();
    let done = w.banger(["vm", "delete", "twigs"]).ok();
    bring_back(&done.err());
    assert_eq!(
        repository.git_words(&["show", "refs/banger/twigs/heads/side:side"]),
        "side"
    );
    assert_eq!(
        repository.git_words(&["show", "refs/banger/twigs/stash:README"]),
        "hidden"
    );

    // So are repositories that were made in the copy, whether its own files changed or not.
    w.banger(["vm", "run", "-d", "--name", "nest"]).ok();
    prepare(w, "nest", &repository);
    let nest = "cd /root/repo && git init -q vendor/x && cd vendor/x && echo nested > file && \
                git add file && git -c user.name=t -c user.email=t@t commit -qm x && echo on > new";
    exec(w, "nest", nest).ok();
    let done = w.banger(["vm", "delete", "nest"]).ok();
    bring_back(&done.err());
    assert_eq!(repository.read("vendor/x/new"), b"on\n");
    assert_eq!(repository.git("-C vendor/x show HEAD:file"), "nested");
    fs::remove_dir_all(repository.path().join("vendor")).expect("remove");

    // The copy is no repository any more; the files are work all the same.
    with_work(w, "bare", &repository);
    exec(w, "bare", "rm -rf /root/repo/.git").ok();
    let done = w.banger(["vm", "delete", "bare"]).ok();
    bring_back(&done.err());
    has_work(&repository);
}

fn stopped(w: &World) {
    let repository = host(w);
    with_work(w, "box", &repository);
    w.banger(["vm", "stop", "box"]).ok();
    let mut delete = w.start(["vm", "delete", "box"]);
    delete.wait_for_stderr("saving work of box");
    let states = w.vms();
    assert_eq!(states, [("box".to_owned(), "deleting".to_owned())]);
    let done = delete.finish().ok();
    bring_back(&done.err());
    has_work(&repository);

    with_work(w, "killed", &repository);
    w.banger(["vm", "kill", "killed"]).ok();
    let done = w
        .banger(["vm", "prune", "--force", "--output", "json"])
        .ok();
    let saved = &done.json()[0]["saved"];
    let reference = saved["reference"].as_str().expect("a reference");
    assert!(
        repository.saved().contains(&reference.to_owned()),
        "{saved}"
    );
    bring_back(&format!(
        "`{}`",
        saved["restore"].as_str().expect("a command")
    ));
    has_work(&repository);
}

fn ways_out(w: &World) {
    let repository = host(w);
    let end = "echo up >&2; until [ -e /root/code ]; do sleep 0.2; done; exit $(cat /root/code)";
    for (number, way) in ["0", "3", "INT", "KILL"].into_iter().enumerate() {
        let name = format!("way-{number}");
        let args = ["vm", "run", "--rm", "--name", &name, "--", "sh", "-c", end];
        let mut session = w.start(args);
        session.wait_for_stderr("up");
        prepare(w, &name, &repository);
        exec(w, &name, WORK).ok();
        match way {
            "INT" => session.signal(Signal::INT),
            "KILL" => session.signal(Signal::KILL),
            code => drop(exec(w, &name, &format!("echo {code} > /root/code")).ok()),
        }
        let done = session.finish();
        let code = match way {
            "INT" => 130,
            "KILL" => 137,
            code => code.parse().expect("a number"),
        };
        let done = done.expect_code(code);
        eventually(seconds(120), "it is gone", || w.vms().is_empty());
        assert_eq!(repository.saved().len(), number + 1, "{way}");
        if way != "KILL" {
            bring_back(&done.err());
            has_work(&repository);
        }
    }
    let args = [
        "vm",
        "run",
        "--rm",
        "--discard",
        "--name",
        "waste",
        "--",
        "sh",
        "-c",
        end,
    ];
    let mut session = w.start(args);
    session.wait_for_stderr("up");
    prepare(w, "waste", &repository);
    exec(w, "waste", &format!("{WORK}; echo 0 > /root/code")).ok();
    session.finish().ok();
    assert_eq!(repository.saved().len(), 4);
}

fn cannot_be_saved(w: &World) {
    let repository = host(w);
    let clone = repository.checkout("HEAD", "clone");
    let mut session = w.start([
        "vm",
        "run",
        "--rm",
        "--name",
        "brief",
        "--",
        "sh",
        "-c",
        "echo up >&2; sleep 600",
    ]);
    session.wait_for_stderr("up");
    prepare(w, "brief", &repository);
    exec(w, "brief", WORK).ok();
    fs::remove_dir_all(repository.path()).expect("remove the repository");
    // Neither place takes it.
    let saved = w.state().join("saved");
    fs::write(&saved, "in the way").expect("put a file in the way");
    session.signal(Signal::INT);
    let done = session.finish().expect_code(130);
    assert!(
        done.err().contains("vm delete --discard brief"),
        "{}",
        done.err()
    );
    let vm = w.vm("brief");
    assert_eq!(vm["state"], "running");
    assert_eq!(
        vm["ephemeral"], false,
        "its lease has ended, and it is kept"
    );
    // A command that comes later says so too, and the machine is still of use.
    let done = w.banger(["vm", "delete", "brief"]).expect_code(1);
    assert!(done.err().contains("cannot be saved"), "{}", done.err());
    assert_eq!(exec(w, "brief", "cat /root/repo/new").ok().out(), "new\n");

    fs::remove_file(&saved).expect("take it away");
    let done = w.banger(["vm", "delete", "brief"]).ok();
    assert!(done.err().contains("does not exist"), "{}", done.err());
    let patch = fs::read_dir(&saved).expect("list").flatten().next();
    let patch = patch.expect("a patch").path();
    clone.git_words(&["apply", "--index", &patch.display().to_string()]);
    has_work(&clone);

    // A guest that hangs is given up, and nothing is deleted.
    with_work(w, "hung", &clone);
    let pid = w.vm("hung")["pid"].as_i64().expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid");
    kill_process(pid, Signal::STOP).expect("stop the VMM");
    let begun = Instant::now();
    let mut delete = w.start(["vm", "delete", "hung"]);
    delete.wait_for_stderr("saving work of hung");
    let done = delete.finish().expect_code(1);
    assert!(begun.elapsed() < seconds(90), "{:?}", begun.elapsed());
    assert!(done.err().contains("--discard hung"), "{}", done.err());
    assert_eq!(w.vm("hung")["state"], "running");
    // Who does not want the work need not wait for it.
    let mut delete = w.start(["vm", "delete", "hung"]);
    delete.wait_for_stderr("saving work of hung");
    w.banger(["vm", "delete", "--discard", "hung"]).ok();
    delete.finish().expect_code(1);
}

/// Runs `banger` so that the daemon it starts has this fault.
fn faulty(w: &World, step: &str, args: &[&str]) -> Running {
    w.banger(["daemon", "stop"]).ok();
    let mut command = w.banger_command(args);
    command.env("BANGER_TEST_ABORT", step);
    Running::start(command, None)
}

fn daemon_killed(w: &World) {
    let repository = host(w);
    with_work(w, "box", &repository);
    let boot = w.vm("box")["boot_id"].clone();
    let rests = |state: &str, step: u32| {
        eventually(seconds(60), "it is what it was", || {
            w.vm("box")["state"] == state
        });
        eprintln!("it is {state} after a daemon that ended at step {step}");
    };
    // Before the work is saved, and after.
    for step in [3, 6] {
        let fault = format!("delete-vm:{step}");
        faulty(w, &fault, &["vm", "delete", "box"])
            .finish()
            .expect_code(1);
        rests("running", step);
        assert_eq!(w.vm("box")["boot_id"], boot, "step {step}");
    }
    assert_eq!(exec(w, "box", "cat /root/repo/new").ok().out(), "new\n");
    w.banger(["vm", "stop", "box"]).ok();
    // What came up only to be saved is not taken for a machine that runs.
    faulty(w, "delete-vm:10", &["vm", "delete", "box"])
        .finish()
        .expect_code(1);
    rests("stopped", 10);
    assert_eq!(w.vm("box")["pid"], serde_json::Value::Null);
    w.banger(["daemon", "stop"]).ok();
    let done = w.banger(["vm", "delete", "box"]).ok();
    bring_back(&done.err());
    has_work(&repository);
}

fn long_copy(w: &World) {
    let repository = host(w);
    let large = fs::File::create(repository.path().join("large")).expect("make a file");
    let mut noise = std::io::Read::take(fs::File::open("/dev/urandom").expect("open"), 256 << 20);
    std::io::copy(&mut noise, &mut &large).expect("fill a file");
    repository.git_words(&["add", "-A"]);
    repository.git_words(&["-c", "core.compression=0", "commit", "-qm", "large"]);
    w.banger(["vm", "run", "-d", "--name", "box"]).ok();
    let mut copy = w.start(["vm", "workspace", "prepare", "box", path(&repository)]);
    copy.wait_for_stderr("copying ");
    eventually(seconds(30), "the copy has begun", || {
        w.vm("box")["workspace"]["complete"] == false
    });
    let begun = Instant::now();
    w.vms();
    let listed = begun.elapsed();
    let begun = Instant::now();
    w.banger(["vm", "delete", "box"]).ok();
    let deleted = begun.elapsed();
    let done = copy.finish().expect_code(1);
    eprintln!(
        "during a copy: list {listed:?}, delete {deleted:?}; the copy: {}",
        done.err()
    );
    assert!(listed < seconds(1), "{listed:?}");
    assert!(deleted < seconds(10), "{deleted:?}");
}
