//! The daemon: started on demand, private, killed at any moment without loss.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Instant;

use banger_tests::World;
use rustix::process::{Signal, kill_process};

use banger_tests::scenario::{Scenario, pure};
use banger_tests::seconds;

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "daemon-killed-vm-lives",
        "VMs and sessions outlive a daemon that is killed",
        killed_vm_lives,
    ),
    pure(
        "daemon-killed-sessions-close",
        "sessions that end without a daemon lose nothing",
        killed_while_sessions_close,
    )
    .with_plain_guests(),
    pure(
        "daemon-killed-during-create",
        "a create without its daemon leaves a whole VM or none",
        killed_during_create,
    )
    .with_plain_guests(),
    pure(
        "daemon-killed-during-rm-run",
        "a `--rm` machine goes although the daemon was killed",
        killed_during_rm_run,
    )
    .with_plain_guests(),
    pure(
        "daemon-second-is-refused",
        "a state directory has one daemon",
        second,
    ),
    pure(
        "daemon-sockets-are-private",
        "nobody else can open a socket",
        sockets,
    ),
    pure(
        "daemon-refuses-an-open-runtime-dir",
        "a runtime directory that others may enter is refused",
        open_runtime_dir,
    ),
    pure(
        "daemon-many-clients-start-one",
        "clients that come at once start one daemon",
        one_daemon,
    ),
    pure(
        "daemon-logs-the-operation",
        "what went wrong is in the log, under the id that was shown",
        logs,
    ),
];

/// Kills the daemon and waits until it is gone.
fn kill_daemon(w: &World) {
    let pid = w.daemon_pid();
    kill_process(pid, Signal::KILL).expect("kill the daemon");
    assert!(banger_tests::process::ends_within(pid, seconds(5)));
}

fn killed_vm_lives(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "lives"]).ok();
    let before = w.vm("lives");
    let mut session = w.start([
        "vm",
        "exec",
        "lives",
        "--",
        "sh",
        "-c",
        "echo up >&2; sleep 3; exit 4",
    ]);
    session.wait_for_stderr("up");
    for _ in 0..3 {
        kill_daemon(w);
        // The next command starts a daemon, which adopts the VM.
        let now = w.vm("lives");
        assert_eq!(now["state"], "running");
        assert_eq!(now["boot_id"], before["boot_id"]);
        assert_eq!(now["pid"], before["pid"]);
    }
    // A session that was open all the time goes straight to the guest.
    session.finish().expect_code(4);
    w.banger(["vm", "exec", "lives", "--", "true"]).ok();
    w.banger(["vm", "stop", "lives"]).ok();
    w.banger(["vm", "start", "lives"]).ok();
    kill_daemon(w);
    w.banger(["vm", "delete", "lives"]).ok();
}

/// Streams that end in the milliseconds in which nobody is the VM's parent: the vsock program
/// must not care.
fn killed_while_sessions_close(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "lives"]).ok();
    let before = w.vm("lives");
    for round in 0..10 {
        let mut session = w.start([
            "vm",
            "exec",
            "lives",
            "--",
            "sh",
            "-c",
            "echo up >&2; exit 4",
        ]);
        session.wait_for_stderr("up");
        kill_daemon(w);
        let now = w.vm("lives");
        assert_eq!(now["state"], "running", "round {round}: {}", now["reason"]);
        assert_eq!(now["pid"], before["pid"]);
        session.finish().expect_code(4);
    }
    assert_eq!(w.vm("lives")["boot_id"], before["boot_id"]);
    w.banger(["vm", "delete", "lives"]).ok();
}

fn killed_during_create(w: &World) {
    // At the stages a client sees; the failpoints of the daemon's own steps come on top.
    for stage in ["spec:", "waiting for the guest"] {
        let mut run = w.start(["vm", "run", "--name", "torn", "--", "true"]);
        run.wait_for_stderr(stage);
        kill_daemon(w);
        let done = run.finish().expect_code(125);
        assert!(
            done.err().contains("banger vm list"),
            "what to do next:\n{}",
            done.err()
        );
        // Absent or usable.
        let begun = Instant::now();
        for (name, _) in w.vms() {
            w.banger(["vm", "start", &name]).ok();
            w.banger(["vm", "exec", &name, "--", "true"]).ok();
            w.banger(["vm", "delete", &name]).ok();
        }
        assert!(begun.elapsed() < seconds(60));
    }
}

fn killed_during_rm_run(w: &World) {
    let mut run = w.start([
        "vm",
        "run",
        "--rm",
        "--",
        "sh",
        "-c",
        "echo up >&2; sleep 3; exit 6",
    ]);
    run.wait_for_stderr("up");
    kill_daemon(w);
    // The session goes straight to the guest; the client sees to the VM's end afterwards.
    run.finish().expect_code(6);
    assert_eq!(w.vms(), []);
}

fn second(w: &World) {
    w.daemon_pid();
    let begun = Instant::now();
    let mut command = w.command(w.root().join("bin/bangerd"));
    command.arg("--foreground");
    let done = banger_tests::Running::start(command, None).finish();
    assert_ne!(done.code(), 0);
    assert!(begun.elapsed() < seconds(1), "{:?}", begun.elapsed());
    let said = format!("{}{}", done.out(), done.err());
    assert!(said.contains("already"), "{said}");
    w.banger(["vm", "list"]).ok();
}

fn sockets(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "private"]).ok();
    let mut seen = 0;
    let mut look = vec![w.runtime(), w.state()];
    while let Some(dir) = look.pop() {
        for entry in fs::read_dir(&dir).expect("read").flatten() {
            let meta = fs::symlink_metadata(entry.path()).expect("stat");
            let mode = meta.mode() & 0o7777;
            assert_eq!(
                mode & 0o077,
                0,
                "{} has mode {mode:o}",
                entry.path().display()
            );
            use std::os::unix::fs::FileTypeExt;
            if meta.file_type().is_socket() {
                assert_eq!(mode, 0o600, "{}", entry.path().display());
                seen += 1;
            }
            // Shared, immutable content is linked between worlds; its directory is closed.
            if meta.is_dir() && !entry.path().ends_with("objects") {
                look.push(entry.path());
            }
        }
    }
    assert!(seen >= 2, "the daemon's socket and the VM's");
    w.banger(["vm", "delete", "private"]).ok();
}

fn open_runtime_dir(w: &World) {
    fs::create_dir_all(w.runtime()).expect("make the runtime directory");
    fs::set_permissions(w.runtime(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let refused = w.banger(["vm", "list", "--output", "json"]).expect_code(1);
    assert_eq!(refused.json()["error"]["code"], "unsafe_permissions");
    assert!(refused.json()["error"]["hint"].is_string());
    fs::set_permissions(w.runtime(), fs::Permissions::from_mode(0o700)).expect("chmod");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(w.runtime(), Some(65534), None).expect("chown");
        let refused = w.banger(["vm", "list", "--output", "json"]).expect_code(1);
        assert_eq!(refused.json()["error"]["code"], "unsafe_permissions");
        std::os::unix::fs::chown(w.runtime(), Some(0), None).expect("chown");
    } else {
        eprintln!("daemon-refuses-an-open-runtime-dir: the foreign owner needs root, not tried");
    }
    // A link where the directory should be.
    fs::remove_dir(w.runtime()).expect("remove");
    std::os::unix::fs::symlink(w.root().join("home"), w.runtime()).expect("link");
    let refused = w.banger(["vm", "list", "--output", "json"]).expect_code(1);
    assert_eq!(refused.json()["error"]["code"], "unsafe_permissions");
    fs::remove_file(w.runtime()).expect("remove");
}

fn one_daemon(w: &World) {
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| w.banger(["vm", "list"])))
                .collect();
            for client in clients {
                client.join().expect("a client").ok();
            }
        });
        // A socket nobody listens on is not in the way.
        kill_daemon(w);
        assert!(w.runtime().join("bangerd.sock").exists());
    }
}

fn logs(w: &World) {
    w.configure("[vm_defaults]\nvmm = \"qemu-tcg\"\n");
    let failed = w
        .banger([
            "vm",
            "create",
            "--image",
            "127.0.0.1:1/no-such-image",
            "--output",
            "json",
        ])
        .expect_code(1)
        .json();
    let op = failed["error"]["op_id"]
        .as_str()
        .expect("an operation id")
        .to_owned();
    let log = fs::read_to_string(w.state().join("bangerd.log")).expect("read the log");
    assert!(log.contains(&op), "the log has lines for {op}:\n{log}");
}
