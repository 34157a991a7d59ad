//! Commands in a guest, with an agent that does what no real one can be made to do at will.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Stdio};

use banger_guest_api::frame::Kind;
use banger_guest_api::{ByteString, ExecEvent, ExecInput};
use support::{Boot, Connection, FakeDaemon, Place, fake_agent, kill};

fn place(serve: impl Fn(Connection) + Send + 'static) -> Place {
    let place = Place::new();
    let socket = fake_agent(place.path(), serve);
    FakeDaemon::start(&place, &socket, Boot::Succeeds);
    place
}

#[test]
fn streams_stay_apart_and_the_code_comes_back() {
    let place = place(|mut guest| {
        assert!(!guest.exec.stdin, "/dev/null needs no stream");
        guest.event(&ExecEvent::Started { pid: 7 });
        guest.output(Kind::Stdout, b"out\0\xff");
        guest.output(Kind::Stderr, b"err\x1b[0m");
        guest.event(&ExecEvent::Exited { code: 7 });
    });
    let output = place.run(&["vm", "exec", "box", "--", "x"]);
    assert_eq!(output.stdout, b"out\0\xff");
    assert_eq!(output.stderr, b"err\x1b[0m");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn arguments_and_variables_arrive_exactly() {
    let place = place(|mut guest| {
        let expected: Vec<ByteString> = vec![
            "printf".into(),
            "".into(),
            "a b".into(),
            "--help".into(),
            b"\xff\n".to_vec().into(),
        ];
        assert_eq!(guest.exec.argv, expected);
        let env: Vec<(ByteString, ByteString)> = vec![
            ("FROM".into(), "image".into()),
            ("A".into(), b"\xfe".to_vec().into()),
            ("COPIED".into(), "here".into()),
        ];
        assert_eq!(guest.exec.env, env);
        assert_eq!(guest.exec.user.as_deref(), Some("1000:1000"));
        assert_eq!(guest.exec.workdir, Some("/srv".into()));
        assert_eq!(guest.exec.tty, None);
        guest.event(&ExecEvent::Exited { code: 0 });
    });
    let output = place
        .banger()
        .env("COPIED", "here")
        .args([
            "vm",
            "exec",
            "box",
            "--user",
            "1000:1000",
            "--workdir",
            "/srv",
            "--env",
        ])
        .arg(OsStr::from_bytes(b"A=\xfe"))
        .args(["--env", "COPIED", "--env", "ABSENT"])
        .args(["--", "printf", "", "a b", "--help"])
        .arg(OsStr::from_bytes(b"\xff\n"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn large_input_and_output_are_carried_with_back_pressure() {
    let place = place(|mut guest| {
        let input = guest.read_all_stdin();
        for chunk in input.chunks(100_000) {
            assert!(guest.output(Kind::Stdout, chunk));
        }
        guest.event(&ExecEvent::Exited { code: 0 });
    });
    let bytes: Vec<u8> = (0..8u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut child = place
        .banger()
        .args(["vm", "exec", "box", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let mut got = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == bytes);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_regular_file_is_input_too() {
    let place = place(|mut guest| {
        let input = guest.read_all_stdin();
        guest.output(Kind::Stdout, &input);
        guest.event(&ExecEvent::Exited { code: 0 });
    });
    let file = place.path().join("input");
    std::fs::write(&file, b"from a file").unwrap();
    let output = place
        .banger()
        .args(["vm", "exec", "box", "--", "cat"])
        .stdin(std::fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"from a file");
}

#[test]
fn the_ends_of_commands_have_their_codes() {
    for (event, code) in [
        // No command ends like this: the agent lies.
        (ExecEvent::Exited { code: 300 }, 125),
        (ExecEvent::Exited { code: -1 }, 125),
        (ExecEvent::Exited { code: 255 }, 255),
        (ExecEvent::Signalled { signal: 9 }, 137),
        (
            ExecEvent::Refused {
                code: 127,
                message: "not found".into(),
            },
            127,
        ),
        (
            ExecEvent::Refused {
                code: 126,
                message: "denied\x1b[2J".into(),
            },
            126,
        ),
        (
            ExecEvent::Refused {
                code: 125,
                message: "no such user".into(),
            },
            125,
        ),
        (
            ExecEvent::Refused {
                code: 0,
                message: "a lie".into(),
            },
            125,
        ),
    ] {
        let refused = matches!(
            event,
            ExecEvent::Refused {
                code: 125..=127,
                ..
            }
        );
        let expected = event.clone();
        let place = place(move |mut guest| guest.event(&event));
        let output = place.run(&["vm", "exec", "box", "--", "nosuch"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{expected:?}: {stderr}");
        assert_eq!(
            stderr.contains("banger: the guest cannot run `nosuch`"),
            refused
        );
        assert!(!stderr.contains('\x1b'), "{stderr:?}");
    }
}

#[test]
fn a_guest_that_talks_nonsense_or_hangs_up_is_125() {
    let nonsense: [(&str, &[u8]); 4] = [
        ("garbage", b"\xff\xff\xff\xff\xff\xff\xff"),
        ("not JSON", b"\0\0\0\x02\0{]"),
        ("cut short", b"\0\0\0\x09\0{"),
        ("nothing", b""),
    ];
    for (what, bytes) in nonsense {
        let place = place(move |mut guest| guest.stream.write_all(bytes).unwrap());
        let output = place.run(&["vm", "exec", "box", "--", "x"]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{what}: {stderr}");
        assert!(stderr.starts_with("banger: "), "{what}: {stderr}");
        assert!(output.stdout.is_empty(), "{what}");
    }
}

#[test]
fn an_unknown_machine_is_125_and_its_text_is_harmless() {
    let place = place(|_| {});
    let output = place.run(&["vm", "exec", "nosuch", "--", "x"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(stderr, "banger: no such VM\n  hint: look\\u{1b}[2J\n");
}

#[test]
fn one_question_to_the_daemon_and_one_connection_to_the_agent() {
    let place = Place::new();
    let socket = fake_agent(place.path(), |mut guest| {
        guest.event(&ExecEvent::Exited { code: 0 })
    });
    let daemon = FakeDaemon::start(&place, &socket, Boot::Succeeds);
    place.run(&["vm", "exec", "box", "--", "true"]);
    assert_eq!(daemon.log(), ["GET /v1/vms/box"]);
}

/// Sends a signal to a session whose command has started, and lets the guest end it.
fn signalled(signal: &'static str, number: i32) {
    let place = place(move |mut guest| {
        guest.event(&ExecEvent::Started { pid: 7 });
        guest.output(Kind::Stdout, b"up\n");
        let input: ExecInput = guest.next().unwrap().parse().unwrap();
        assert_eq!(input, ExecInput::Signal { signal: number });
        guest.event(&ExecEvent::Signalled { signal: number });
    });
    let mut child = start(&place);
    kill(&child, signal);
    assert_eq!(child.wait().unwrap().code(), Some(128 + number), "{signal}");
}

/// Starts a session and waits for the guest's `up`.
fn start(place: &Place) -> Child {
    let mut child = place
        .banger()
        .args(["vm", "exec", "box", "--", "x"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    child
}

#[test]
fn signals_are_forwarded() {
    for (signal, number) in [
        ("INT", 2),
        ("TERM", 15),
        ("HUP", 1),
        ("QUIT", 3),
        ("USR1", 10),
        ("USR2", 12),
    ] {
        signalled(signal, number);
    }
}

#[test]
fn a_command_that_ignores_everything_is_left_after_three_interrupts() {
    let place = place(|mut guest| {
        guest.output(Kind::Stdout, b"up\n");
        while guest.next().is_some() {
            guest.output(Kind::Stdout, b"no\n");
        }
    });
    let mut child = start(&place);
    for _ in 0..2 {
        kill(&child, "INT");
        let mut no = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut no).unwrap();
        assert_eq!(&no, b"no\n");
    }
    kill(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn signals_reach_a_command_whose_input_and_output_are_both_stuck() {
    let place = place(|mut guest| {
        guest.output(Kind::Stdout, b"up\n");
        // Gives no credit, and writes until the host takes no more.
        let mut flood = guest.stream.try_clone().unwrap();
        std::thread::spawn(move || {
            let frame = [&b"\0\x01\0\0\x02"[..], &[b'x'; 65536]].concat();
            while flood.write_all(&frame).is_ok() {}
        });
        while let Some(frame) = guest.next() {
            if frame.kind == Kind::Control {
                let input: ExecInput = frame.parse().unwrap();
                assert_eq!(input, ExecInput::Signal { signal: 2 });
                // Nothing more can be said on this connection: hang up.
                guest.stream.shutdown(std::net::Shutdown::Both).unwrap();
                return;
            }
        }
    });
    let mut child = place
        .banger()
        .args(["vm", "exec", "box", "--", "x"])
        .stdin(std::fs::File::open("/dev/zero").unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut up = [0; 3];
    stdout.read_exact(&mut up).unwrap();
    kill(&child, "INT");
    // The guest hung up on the signal: only now is the output read.
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(125));
}

#[test]
fn a_reader_that_goes_away_ends_the_session_as_sigpipe_would() {
    let place = place(|mut guest| {
        guest.output(Kind::Stdout, b"up\n");
        while guest.output(Kind::Stdout, &[b'y'; 4096]) {}
    });
    let mut child = start(&place);
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn a_full_disk_under_standard_output_is_an_error() {
    let place = place(|mut guest| {
        guest.output(Kind::Stdout, b"x");
        guest.event(&ExecEvent::Exited { code: 0 });
    });
    let output = place
        .banger()
        .args(["vm", "exec", "box", "--", "x"])
        .stdout(
            std::fs::File::options()
                .write(true)
                .open("/dev/full")
                .unwrap(),
        )
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(
        stderr.contains("cannot write the command's output"),
        "{stderr}"
    );
}
