//! What talks to a guest: ports, forward, cp, against an agent that answers as a test wants.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use banger_guest_api::archive::{Owner, Unpack, archive_out, unpack};
use banger_guest_api::frame::{self, Frame, Kind};
use banger_guest_api::{CopyEvent, Listener, Reply, Request, Transport};
use rustix::fs::inotify;
use serde_json::{Value, json};
use support::{Place, Scripted, agent_for, kill, vm_json};

/// A running machine `box` with this agent.
fn running(pid: u32, serve: impl Fn(Request, UnixStream) + Send + Sync + 'static) -> Place {
    let place = Place::new();
    let socket = agent_for(place.path(), serve);
    let more = format!(
        r#""console_log":"/c","pid":{pid},"agent_socket":{:?},"ssh_host_key":"ssh-ed25519 AAAA","#,
        socket.to_str().unwrap()
    );
    let vm = vm_json("box", "running", &more);
    let table = [
        ("GET /v1/vms/box", vm.as_str()),
        ("GET /v1/vms/0000000box", vm.as_str()),
    ];
    Scripted::start(&place, &table);
    place
}

fn control(stream: &mut UnixStream, message: &impl serde::Serialize) {
    frame::write(stream, &Frame::control(message).unwrap()).unwrap();
}

/// An agent whose every port sends back what it gets, to its end, and then says `bye`.
fn echoes(request: Request, mut stream: UnixStream) {
    let Request::Connect(dial) = request else {
        panic!("not a connection: {request:?}");
    };
    if dial.port == 81 {
        return control(&mut stream, &Reply::NothingListens);
    }
    control(&mut stream, &Reply::Done);
    let mut frames = Vec::new();
    loop {
        let Some(frame) = frame::read(&mut stream).unwrap() else {
            return;
        };
        assert_eq!(frame.kind, Kind::Stdin);
        if frame.payload.is_empty() {
            break;
        }
        frames.push(frame.payload);
    }
    for payload in frames.into_iter().chain([b"bye".to_vec(), Vec::new()]) {
        let kind = Kind::Stdout;
        frame::write(&mut stream, &Frame { kind, payload }).unwrap();
    }
}

#[test]
fn ports_are_shown_and_nothing_in_them_reaches_the_terminal() {
    let place = running(1, |_, mut stream| {
        let listeners = vec![Listener {
            transport: Transport::Tcp,
            address: "0.0.0.0".into(),
            port: 80,
            process: Some("x\u{1b}[2J".into()),
            pid: Some(9),
        }];
        control(&mut stream, &Reply::Listeners { listeners });
    });
    let output = place.run(&["vm", "ports", "box"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout.contains("banger vm forward box 80"), "{stdout}");
    assert!(!stdout.contains('\u{1b}'), "{stdout:?}");
    let output = place.run(&["vm", "ports", "box", "-q"]);
    assert_eq!(output.stdout, b"80/tcp\n");
    let output = place.run(&["vm", "ports", "box", "--output", "json"]);
    let ports: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ports[0]["endpoint"], "banger vm forward box 80");
}

/// Starts a forward and gives the ports it says.
fn forward(place: &Place, ports: &[&str]) -> (Child, Vec<u16>, impl BufRead + use<>) {
    let mut child = place
        .banger()
        .args(["vm", "forward", "box"])
        .args(ports)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let open = ports
        .iter()
        .map(|port| {
            let line = lines.next().unwrap().unwrap();
            let (here, there) = line.split_once(" -> ").unwrap();
            let guest = port.rsplit(':').next().unwrap();
            assert_eq!(there, format!("box:{guest}"));
            here.strip_prefix("127.0.0.1:").unwrap().parse().unwrap()
        })
        .collect();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    (child, open, stderr)
}

#[test]
fn forwarded_connections_are_whole_many_at_once_and_half_closed() {
    let place = running(std::process::id(), echoes);
    let (mut child, ports, mut stderr) = forward(&place, &["0:80", "0:81"]);
    let mut open: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(("127.0.0.1", ports[0])).unwrap())
        .collect();
    for (number, stream) in open.iter_mut().enumerate() {
        let bytes = vec![number as u8; 300_000];
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for (number, stream) in open.iter_mut().enumerate() {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let mut expected = vec![number as u8; 300_000];
        expected.extend(b"bye");
        assert!(answer == expected, "{number}: {} bytes", answer.len());
    }
    // Where nothing listens, the connection is refused and not merely ended.
    let mut refused = TcpStream::connect(("127.0.0.1", ports[1])).unwrap();
    let error = refused.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(
        line.starts_with("port 81 of `box`: nothing listens"),
        "{line}"
    );
    kill(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_forward_ends_with_its_machine() {
    let mut vmm = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let place = running(vmm.id(), echoes);
    let (mut child, _, mut stderr) = forward(&place, &["0:80"]);
    drop(vmm.stdin.take());
    vmm.wait().unwrap();
    let mut told = String::new();
    stderr.read_to_string(&mut told).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{told}");
    assert!(told.starts_with("banger: `box` "), "{told}");
}

#[test]
fn a_port_that_is_taken_is_an_error_before_anything_starts() {
    let place = running(std::process::id(), echoes);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = place.run(&["vm", "forward", "box", "0:80", &format!("{port}:80")]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(
        stderr.contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{stderr}"
    );
    assert!(stderr.contains("hint: choose another port"), "{stderr}");
}

/// An agent with the tree at `root`: sends `root/PATH`, takes into `root/PATH/NAME`.
fn copies(root: std::path::PathBuf) -> impl Fn(Request, UnixStream) + Send + Sync + 'static {
    move |request, mut stream| match request {
        Request::CopyOut(copy) => {
            let mut archive = Vec::new();
            let copied = archive_out(&root.join(copy.path.as_os_str()), &mut archive).unwrap();
            for piece in archive.chunks(100_000).chain([&b""[..]]) {
                let (kind, payload) = (Kind::Stdout, piece.to_vec());
                frame::write(&mut stream, &Frame { kind, payload }).unwrap();
            }
            control(
                &mut stream,
                &CopyEvent::Copied {
                    entries: copied.entries,
                    bytes: copied.bytes,
                    left_out: 0,
                },
            );
        }
        Request::CopyIn(copy) => {
            let mut archive = Vec::new();
            while let Some(frame) = frame::read(&mut stream).unwrap()
                && !frame.payload.is_empty()
            {
                archive.extend(frame.payload);
            }
            let parent = fs::File::open(root.join(copy.path.as_os_str())).unwrap();
            let to = Unpack {
                parent: parent.as_fd(),
                name: copy.name.as_os_str(),
                shown: "x".as_ref(),
                owner: Owner::Caller,
                only_directory: false,
            };
            let copied = unpack(&archive[..], &to).unwrap();
            control(
                &mut stream,
                &CopyEvent::Copied {
                    entries: copied.entries,
                    bytes: copied.bytes,
                    left_out: 0,
                },
            );
        }
        other => panic!("not a copy: {other:?}"),
    }
}

#[test]
fn files_and_trees_go_both_ways() {
    let guest = tempfile::tempdir().unwrap();
    let place = running(1, copies(guest.path().to_owned()));
    let here = place.path().join("tree");
    fs::create_dir_all(here.join("inner")).unwrap();
    fs::write(here.join("inner/file"), vec![7; 500_000]).unwrap();
    fs::write(here.join("small"), "x").unwrap();
    fs::create_dir(guest.path().join("srv")).unwrap();

    let output = place.run(&[
        "vm",
        "cp",
        here.to_str().unwrap(),
        "box:srv",
        "--output=json",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        report,
        json!({"entries": 4, "bytes": 500_001, "left_out": 0})
    );
    let there = guest.path().join("srv/tree/inner/file");
    assert_eq!(fs::read(there).unwrap(), vec![7; 500_000]);

    let back = place.path().join("back");
    let output = place.run(&["vm", "cp", "box:srv/tree", back.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
    assert_eq!(fs::read(back.join("inner/file")).unwrap(), vec![7; 500_000]);
    assert_eq!(fs::read(back.join("small")).unwrap(), b"x");
    // A file does not take the place of a directory.
    let output = place.run(&[
        "vm",
        "cp",
        "box:srv/tree/small",
        back.join("inner").to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(0), "into it: {output:?}");
    assert_eq!(fs::read(back.join("inner/small")).unwrap(), b"x");
}

#[test]
fn an_interrupted_copy_leaves_nothing_half_done() {
    let guest = tempfile::tempdir().unwrap();
    fs::write(guest.path().join("big"), vec![1; 3_000_000]).unwrap();
    let root = guest.path().to_owned();
    let place = running(1, move |_, mut stream| {
        let mut archive = Vec::new();
        archive_out(&root.join("big"), &mut archive).unwrap();
        // The first half, and then nothing for ever.
        for piece in archive[..archive.len() / 2].chunks(100_000) {
            let (kind, payload) = (Kind::Stdout, piece.to_vec());
            frame::write(&mut stream, &Frame { kind, payload }).ok();
        }
        stream.read_to_end(&mut Vec::new()).ok();
    });
    let to = place.path().join("to");
    fs::create_dir(&to).unwrap();
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, &to, inotify::WatchFlags::MODIFY).unwrap();
    let mut child = place
        .banger()
        .args(["vm", "cp", "box:big", to.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Until there is something that could be left.
    let told = fs::File::from(watch).read(&mut [0; 512]).unwrap();
    assert_ne!(told, 0);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    kill(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0, "something is left");
}

#[test]
fn the_ssh_proxy_pins_the_key_and_hands_bytes_through() {
    let place = running(1, echoes);
    let mut child = place
        .banger()
        .args(["ssh-proxy", "box.vm", "22"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let known_hosts = place
        .path()
        .join("home/.local/state/banger/ssh/known_hosts");
    let mut stdin = child.stdin.take().unwrap();
    let bytes = vec![5; 1_000_000];
    stdin.write_all(&bytes).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == [&bytes[..], b"bye"].concat());
    assert_eq!(
        fs::read_to_string(known_hosts).unwrap(),
        "box.vm ssh-ed25519 AAAA\n"
    );
    let output = place.run(&["ssh-proxy", "box.vm", "81"]);
    assert_eq!(output.status.code(), Some(255));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("cannot reach port 81 of `box`"), "{stderr}");
}
