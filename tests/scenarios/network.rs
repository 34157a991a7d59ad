//! The guest's network: none, or the one of `--nat`.

use std::net::UdpSocket;

use banger_tests::scenario::{Need, Scenario, pure};
use banger_tests::{Running, World};

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "run-without-nat-has-no-network",
        "without `--nat` there is no network",
        no_network,
    ),
    pure(
        "run-with-nat-reaches-the-host",
        "with `--nat` the guest reaches out",
        nat,
    ),
    pure(
        "run-with-nat-resolves-names",
        "with `--nat` the guest's name server is the one this host asks",
        resolves_names,
    )
    .needs(&[Need::Root]),
];

fn no_network(w: &World) {
    let done = w
        .banger([
            "vm",
            "run",
            "--rm",
            "--",
            "sh",
            "-c",
            "ls /sys/class/net; ip route",
        ])
        .ok();
    assert_eq!(done.out(), "lo\n");
}

fn nat(w: &World) {
    // The user-mode network maps its gateway to the host's loopback.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("address").port();
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().expect("accept");
        let mut request = [0; 1024];
        let n = stream.read(&mut request).expect("read");
        assert!(request[..n].starts_with(b"GET /"));
        stream
            .write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nvisit\n")
            .expect("answer");
    });
    let url = format!("http://10.0.2.2:{port}/");
    let done = w
        .banger([
            "vm",
            "run",
            "--rm",
            "--nat",
            "--",
            "sh",
            "-c",
            &format!("grep nameserver /etc/resolv.conf; curl -sS --max-time 60 {url}"),
        ])
        .ok();
    server.join().expect("server");
    assert_eq!(done.out(), "nameserver 10.0.2.3\nvisit\n");
}

/// A name server of this host: on its loopback, so that it is nobody else's.
const SERVER: &str = "127.86.0.53";
/// What it says of every name, an address that is for documentation.
const ANSWER: [u8; 4] = [192, 0, 2, 77];

fn resolves_names(w: &World) {
    let server = UdpSocket::bind((SERVER, 53)).expect("listen for questions");
    let stop = UdpSocket::bind((SERVER, 0)).expect("make a socket");
    let answering = std::thread::spawn(move || serve(&server));

    // The daemon, which this command starts, and the VMM see another resolv.conf than the rest of
    // the machine.
    let file = w.root().join("resolv.conf");
    std::fs::write(&file, format!("nameserver {SERVER}\n")).expect("write resolv.conf");
    let script = "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    let guest = "getent ahostsv4 box.banger.test | cut -d ' ' -f 1 | sort -u";
    let mut command = w.command("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&file)
        .arg(w.root().join("bin/banger"))
        .args(["vm", "run", "--rm", "--nat", "--", "sh", "-c", guest]);
    let done = Running::start(command, None).finish();

    stop.send_to(&[], (SERVER, 53)).expect("stop the server");
    let asked = answering.join().expect("server");
    assert_eq!(done.ok().out(), "192.0.2.77\n");
    assert!(asked.contains(&"box.banger.test".to_owned()), "{asked:?}");
}

/// Answers questions for names until an empty packet comes; returns the names.
fn serve(server: &UdpSocket) -> Vec<String> {
    let mut asked = Vec::new();
    let mut packet = [0; 512];
    loop {
        let (length, from) = server.recv_from(&mut packet).expect("receive");
        // Twelve bytes of header; then one question: labels, an empty one, type and class.
        let Some(question) = packet[..length].get(12..) else {
            return asked;
        };
        let mut rest = question;
        let mut labels = Vec::new();
        while let [size, behind @ ..] = rest
            && *size > 0
        {
            let (label, behind) = behind.split_at(usize::from(*size));
            labels.push(String::from_utf8_lossy(label).into_owned());
            rest = behind;
        }
        asked.push(labels.join("."));
        let is_for_an_address = rest[1..3] == [0, 1];
        let question = &question[..question.len() - rest.len() + 5];
        let mut answer = packet[..2].to_vec();
        // A recursive answer without an error, to one question.
        answer.extend([0x81, 0x80, 0, 1, 0, is_for_an_address.into(), 0, 0, 0, 0]);
        answer.extend(question);
        if is_for_an_address {
            // For the name at byte 12: an address of the Internet, for a minute.
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(ANSWER);
        }
        server.send_to(&answer, from).expect("answer");
    }
}
