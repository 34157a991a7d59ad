//! `vm run` from its first request to its last: every way out deletes what `--rm` made.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::io::Read;
use std::process::{Child, Stdio};

use banger_guest_api::frame::Kind;
use banger_guest_api::{ExecEvent, ExecInput};
use support::{Boot, Connection, FakeDaemon, Place, fake_agent, kill};

const DELETE: &str = "DELETE /v1/vms/0123456789ab";
const CANCEL: &str = "POST /v1/operations/create/cancel";

fn place(boot: Boot, serve: impl Fn(Connection) + Send + 'static) -> (Place, FakeDaemon) {
    let place = Place::new();
    let socket = fake_agent(place.path(), serve);
    let daemon = FakeDaemon::start(&place, &socket, boot);
    (place, daemon)
}

fn exits(code: i32) -> impl Fn(Connection) + Send + 'static {
    move |mut guest| guest.event(&ExecEvent::Exited { code })
}

fn was_deleted(daemon: &FakeDaemon) -> bool {
    daemon.log().iter().any(|line| line == DELETE)
}

fn spawn(place: &Place, args: &[&str]) -> Child {
    place
        .banger()
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The exit code and standard error.
fn finish(mut child: Child) -> (Option<i32>, String) {
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    (child.wait().unwrap().code(), stderr)
}

#[test]
fn a_run_asks_for_the_lease_first_and_gives_it_up_last() {
    let (place, daemon) = place(Boot::Succeeds, exits(3));
    let output = place.run(&["vm", "run", "--rm", "--memory", "1G", "--", "x"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(output.stdout.is_empty());
    let mut lines = stderr.lines();
    // Which VMM depends on the host.
    let spec = lines.next().unwrap();
    assert!(
        spec.starts_with("spec: i | 1 vcpu | 1G memory | 1G disk | "),
        "{spec}"
    );
    assert!(spec.ends_with(" | no network"), "{spec}");
    assert_eq!(lines.next(), Some("booting\\u{1b}[2J"));
    assert!(lines.next().unwrap().starts_with("ready in "), "{stderr}");
    assert_eq!(lines.next(), None);

    daemon.wait_for("lease ended");
    let log = daemon.log();
    assert_eq!(
        log[0],
        r#"POST /v1/vms {"memory":1073741824,"start":true,"ephemeral":true}"#
    );
    assert_eq!(log[1], "GET /v1/vms/0123456789ab/lease");
    let place_of = |entry: &str| log.iter().position(|line| line == entry).unwrap();
    assert!(place_of("GET /v1/operations/delete/events") < place_of("lease ended"));
}

#[test]
fn quiet_says_nothing() {
    let (place, _daemon) = place(Boot::Succeeds, exits(0));
    let output = place.run(&["vm", "run", "-q", "--rm", "--", "x"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stderr.is_empty() && output.stdout.is_empty(),
        "{output:?}"
    );
}

#[test]
fn without_rm_nothing_is_deleted() {
    let (place, daemon) = place(Boot::Succeeds, exits(0));
    let output = place.run(&["vm", "run", "--", "x"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(!was_deleted(&daemon));
    assert!(!daemon.log().iter().any(|line| line.contains("lease")));
}

#[test]
fn detached_is_the_name_and_nothing_else() {
    let (place, daemon) = place(Boot::Succeeds, |_| panic!("no command"));
    let output = place.run(&["vm", "run", "-d"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"box\n");
    assert!(!was_deleted(&daemon));
}

#[test]
fn a_deletion_that_fails_is_told_and_the_commands_code_wins() {
    for (guest, ours) in [(0, 125), (4, 4)] {
        let (place, _daemon) = place(Boot::CannotBeDeleted, exits(guest));
        let output = place.run(&["vm", "run", "--rm", "--", "x"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(ours), "{stderr}");
        assert!(
            stderr.contains("the machine `box` is not deleted: stuck"),
            "{stderr}"
        );
        assert!(
            stderr.contains("hint: run `banger vm delete box`"),
            "{stderr}"
        );
    }
}

#[test]
fn a_boot_that_fails_is_125_with_its_reason() {
    for args in [
        &["vm", "run", "--rm", "--", "x"][..],
        &["vm", "run", "-d"],
        &["vm", "run"],
    ] {
        let (place, _daemon) = place(Boot::Fails, |_| panic!("no command"));
        let output = place.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{stderr}");
        assert!(stderr.contains("banger: it is broken"), "{stderr}");
        assert!(stderr.contains("(operation create)"), "{stderr}");
    }
}

#[test]
fn an_interrupt_during_the_boot_is_a_cancellation() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        for args in [
            &["vm", "run", "--rm", "--", "x"][..],
            &["vm", "run", "-d"],
            &["vm", "create"],
        ] {
            let (place, daemon) = place(Boot::Hangs, |_| panic!("no command"));
            let child = spawn(&place, args);
            daemon.wait_for("booting");
            kill(&child, signal);
            let (exit, stderr) = finish(child);
            assert_eq!(exit, Some(code), "{args:?}: {stderr}");
            assert!(
                stderr.ends_with("cancelled; nothing is left behind\n"),
                "{stderr}"
            );
        }
    }
}

#[test]
fn a_second_interrupt_does_not_wait() {
    let (place, daemon) = place(Boot::HangsForGood, |_| panic!("no command"));
    let child = spawn(&place, &["vm", "run", "--rm", "--", "x"]);
    daemon.wait_for("booting");
    kill(&child, "INT");
    daemon.wait_for(CANCEL);
    kill(&child, "INT");
    let (exit, stderr) = finish(child);
    assert_eq!(exit, Some(130));
    assert!(
        stderr.contains("the daemon goes on undoing: making `box`"),
        "{stderr}"
    );
    daemon.wait_for("lease ended");
}

#[test]
fn a_machine_that_came_up_just_before_the_cancellation_is_deleted() {
    for args in [
        &["vm", "run", "--rm", "--", "x"][..],
        &["vm", "run"],
        &["vm", "create"],
    ] {
        let (place, daemon) = place(Boot::SucceedsWhenCancelled, |_| panic!("no command"));
        let child = spawn(&place, args);
        daemon.wait_for("booting");
        kill(&child, "INT");
        let (exit, stderr) = finish(child);
        assert_eq!(exit, Some(130), "{args:?}: {stderr}");
        assert!(
            stderr.ends_with("cancelled; nothing is left behind\n"),
            "{stderr}"
        );
        assert!(was_deleted(&daemon));
    }
}

#[test]
fn a_signal_during_the_command_is_forwarded_and_the_machine_deleted() {
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let (place, daemon) = place(Boot::Succeeds, move |mut guest| {
            guest.output(Kind::Stdout, b"up\n");
            let input: ExecInput = guest.next().unwrap().parse().unwrap();
            assert_eq!(input, ExecInput::Signal { signal: number });
            guest.event(&ExecEvent::Signalled { signal: number });
        });
        let mut child = spawn(&place, &["vm", "run", "--rm", "--", "x"]);
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut [0; 3])
            .unwrap();
        kill(&child, signal);
        let (exit, stderr) = finish(child);
        assert_eq!(exit, Some(128 + number), "{stderr}");
        assert!(was_deleted(&daemon));
    }
}

#[test]
fn a_reader_that_goes_away_does_not_leave_the_machine_behind() {
    let (place, daemon) = place(Boot::Succeeds, |mut guest| {
        guest.output(Kind::Stdout, b"up\n");
        while guest.output(Kind::Stdout, &[b'y'; 4096]) {}
    });
    let mut child = spawn(&place, &["vm", "run", "--rm", "--", "x"]);
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 3]).unwrap();
    drop(stdout);
    let (exit, stderr) = finish(child);
    assert_eq!(exit, Some(141), "{stderr}");
    assert!(was_deleted(&daemon));
}

#[test]
fn a_daemon_of_another_release_is_told_with_the_way_out() {
    for args in [
        &["vm", "run", "--rm", "--", "x"][..],
        &["vm", "exec", "box", "--", "x"],
    ] {
        let (place, _daemon) = place(Boot::SucceedsElsewhere, exits(0));
        let output = place.run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert!(
            stderr.contains("warning: the daemon is release 99.0.0"),
            "{stderr}"
        );
        assert!(stderr.contains("`banger daemon stop`"), "{stderr}");
    }
}

#[test]
fn being_killed_gives_up_the_lease() {
    let (place, daemon) = place(Boot::Succeeds, |mut guest| {
        guest.output(Kind::Stdout, b"up\n");
        while guest.next().is_some() {}
    });
    let mut child = spawn(&place, &["vm", "run", "--rm", "--", "x"]);
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 3])
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    daemon.wait_for("lease ended");
}
