//! What is different when a person sits at a terminal: questions, and consoles made harmless.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::process::Child;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use support::{Place, Scripted, vm_json};

/// The program with a terminal of ours on all three streams.
fn on_terminal(place: &Place, args: &[&str]) -> (Child, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let controller = openpt(flags).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let terminal = ioctl_tiocgptpeer(&controller, flags).unwrap();
    let child = place
        .banger()
        .args(args)
        .stdin(terminal.try_clone().unwrap())
        .stdout(terminal.try_clone().unwrap())
        .stderr(terminal)
        .spawn()
        .unwrap();
    (child, File::from(controller))
}

/// Everything until the text, or until the program has closed its terminal.
fn read_until(controller: &mut File, text: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(text) {
        match controller.read(&mut byte) {
            Ok(1) => seen.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn prune_shows_what_goes_and_takes_only_yes_for_yes() {
    for (answer, is_yes) in [
        ("y\n", true),
        ("YES\n", true),
        ("\n", false),
        ("n\n", false),
        ("yep\n", false),
        ("\x04", false),
    ] {
        let place = Place::new();
        let vms = format!("[{}]", vm_json("idle", "stopped", r#""console_log":"/c","#));
        let delete = "DELETE /v1/vms/0000000idle?only=stopped";
        let daemon = Scripted::start(&place, &[("GET /v1/vms", &vms), (delete, "op:idle")]);
        let (mut child, mut terminal) = on_terminal(&place, &["vm", "prune"]);
        let question = read_until(&mut terminal, "[y/N] ");
        assert!(question.contains("idle   stopped"), "{question}");
        assert!(daemon.changes().is_empty());
        terminal.write_all(answer.as_bytes()).unwrap();
        let rest = read_until(&mut terminal, "\u{0}never");
        assert_eq!(child.wait().unwrap().code(), Some(0), "{answer:?}: {rest}");
        let expected: &[&str] = if is_yes { &[delete] } else { &[] };
        assert_eq!(daemon.changes(), expected, "{answer:?}: {rest}");
    }
}

#[test]
fn a_console_cannot_drive_the_terminal() {
    let place = Place::new();
    let console = place.path().join("console.log");
    std::fs::write(
        &console,
        b"\x1b]0;evil\x07\x1b[31mred\x1b[0m\x9b2J\xc2\x9b\r\nend\r\n",
    )
    .unwrap();
    let more = format!(r#""console_log":{:?},"#, console.to_str().unwrap());
    let vm = vm_json("box", "stopped", &more);
    Scripted::start(&place, &[("GET /v1/vms/box", &vm)]);
    let (mut child, mut terminal) = on_terminal(&place, &["vm", "logs", "box"]);
    let seen = read_until(&mut terminal, "end");
    assert_eq!(seen, "red\u{fffd}2J\\u{9b}\r\nend");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
