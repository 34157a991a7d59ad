//! The client against agents that lie, flood, stall and hang up: always a clear error, in bounded
//! time, with nothing from the guest that a terminal would obey.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use banger_model::{Code, Error};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::archive::{Copied, Owner, Unpack, archive_out, unpack};
use crate::frame::{self, Kind, MAX_PAYLOAD};
use crate::{ByteString, CopyIn, CopyOut, Exec, MAX_LISTENERS};

/// An agent on a unix socket that does to each connection what it is told to.
struct Fake {
    directory: tempfile::TempDir,
    connections: Arc<AtomicUsize>,
}

impl Fake {
    /// `act` gets what was requested and the connection behind the request.
    fn start<F, A>(act: A) -> Fake
    where
        F: Future<Output = ()> + Send + 'static,
        A: Fn(Value, UnixStream) -> F + Send + Sync + 'static,
    {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("agent.sock")).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (act, open) = (Arc::new(act), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (act, open) = (Arc::clone(&act), Arc::clone(&open));
                open.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut line = [0; 13];
                    stream.read_exact(&mut line).await.unwrap();
                    assert_eq!(&line, b"CONNECT 1024\n");
                    stream.write_all(b"OK 1\n").await.unwrap();
                    let first = stream::read_one(&mut stream).await.unwrap();
                    let first: Value = first.parse().unwrap();
                    act(first["request"].clone(), stream).await;
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Fake {
            directory,
            connections,
        }
    }

    /// Answers everything with these bytes and hangs up.
    fn saying(bytes: Vec<u8>) -> Fake {
        Fake::start(move |_, mut stream| {
            let bytes = bytes.clone();
            async move { drop(stream.write_all(&bytes).await) }
        })
    }

    fn answering(answer: Value) -> Fake {
        Fake::saying(control(&answer))
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }
}

fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[..], &[kind], payload].concat()
}

fn control(value: &Value) -> Vec<u8> {
    framed(0, value.to_string().as_bytes())
}

const STDOUT: u8 = 2;
const EVIL: &str = "\x1b]0;owned\x07\x1b[31m\u{202e}evil\0\r\n";

fn is_tame(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || c == '\u{202e}')
}

fn copy_to(path: &str) -> CopyIn {
    CopyIn {
        path: path.into(),
        name: "name".into(),
        owner: None,
        keep_owners: false,
        exact: false,
        replace: false,
    }
}

fn copy_from(path: &str) -> CopyOut {
    CopyOut {
        path: ByteString::from(path),
    }
}

async fn drain(mut stream: CopyOutStream) -> Result<Copied> {
    while stream.next().await?.is_some() {}
    stream.finish().await
}

async fn run(socket: &Path) -> Result<ExecOutput> {
    let (_sender, mut receiver) = exec(socket, Exec::default()).await?;
    loop {
        match receiver.next().await? {
            ExecOutput::Started { .. } | ExecOutput::Stdout(_) | ExecOutput::Stderr(_) => {}
            last => return Ok(last),
        }
    }
}

/// What every kind of request comes to with this agent.
async fn everything(socket: &Path) -> Vec<(&'static str, Error)> {
    let archive = vec![b'x'; 3 << 20];
    let copied_out = async { drain(copy_out(socket, copy_from("/x")).await?).await };
    vec![
        ("info", info(socket).await.unwrap_err()),
        ("listeners", listeners(socket).await.unwrap_err()),
        ("stats", stats(socket).await.unwrap_err()),
        ("dial", dial(socket, 80, Duration::ZERO).await.unwrap_err()),
        ("shutdown", shutdown(socket).await.unwrap_err()),
        (
            "copy in",
            copy_in(socket, copy_to("/x"), archive.as_slice())
                .await
                .unwrap_err(),
        ),
        ("copy out", copied_out.await.unwrap_err()),
        ("exec", run(socket).await.unwrap_err()),
    ]
}

async fn all_fail(fake: Fake, what: &str) {
    for (request, error) in everything(&fake.socket()).await {
        assert_eq!(
            error.code(),
            Code::AgentFailed,
            "{what}, {request}: {error:?}"
        );
        assert!(
            is_tame(&error.chain()),
            "{what}, {request}: {:?}",
            error.chain()
        );
    }
}

#[tokio::test]
async fn whatever_is_no_protocol_is_said_to_be_none() {
    let half = &control(&json!({"type": "done"}))[..9];
    let unfinished = control(&json!({"type": "listeners", "listeners": [1, 2]}));
    for (what, bytes) in [
        (
            "garbage",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ),
        ("escapes", EVIL.repeat(20).into_bytes()),
        ("a length that lies", vec![0xff, 0xff, 0xff, 0xff, 0]),
        (
            "a length just over",
            framed(0, &vec![b' '; MAX_PAYLOAD + 1]),
        ),
        ("an unknown kind", framed(200, b"{}")),
        ("the end inside a header", vec![0, 0]),
        ("the end inside a frame", half.to_vec()),
        ("the end at once", Vec::new()),
        ("no JSON", framed(0, b"\xff\xfe{")),
        ("deep JSON", framed(0, "[".repeat(200_000).as_bytes())),
        ("another JSON", unfinished),
        ("input", framed(1, b"x")),
        (
            "errors",
            framed(
                0,
                json!({"type": "error", "message": EVIL})
                    .to_string()
                    .as_bytes(),
            ),
        ),
        (
            "an answer to nothing",
            control(&json!({"type": EVIL, "x": EVIL})),
        ),
    ] {
        all_fail(Fake::saying(bytes), what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stalls_is_not_waited_for() {
    let stalling = || {
        Fake::start(|_, stream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        })
    };
    let start = tokio::time::Instant::now();
    let (fake, archive) = (stalling(), vec![0; 30 << 20]);
    let socket = fake.socket();
    let copied = copy_in(&socket, copy_to("/x"), archive.as_slice()).await;
    let errors = [
        info(&socket).await.unwrap_err(),
        listeners(&socket).await.unwrap_err(),
        stats(&socket).await.unwrap_err(),
        dial(&socket, 80, Duration::from_secs(60))
            .await
            .unwrap_err(),
        copied.unwrap_err(),
        drain(copy_out(&socket, copy_from("/x")).await.unwrap())
            .await
            .unwrap_err(),
        run(&socket).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.code(), Code::AgentFailed, "{error:?}");
    }
    assert!(
        start.elapsed() < Duration::from_secs(600),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_takes_everything_and_says_nothing() {
    let fake = Fake::start(|_, mut stream| async move {
        drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
    });
    let archive = vec![0; 3 << 20];
    let error = copy_in(&fake.socket(), copy_to("/x"), archive.as_slice())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::AgentFailed);
    assert!(error.message().contains("does not go on"), "{error:?}");
}

#[tokio::test]
async fn a_flood_is_taken_in_bounded_pieces_and_ends_with_the_listener() {
    let fake = Fake::start(|request, mut stream| async move {
        let event = match request["type"].as_str() {
            Some("exec") => control(&json!({"type": "started", "pid": 1})),
            _ => Vec::new(),
        };
        drop(stream.write_all(&event).await);
        let piece = framed(STDOUT, &vec![b'y'; MAX_PAYLOAD]);
        while stream.write_all(&piece).await.is_ok() {}
    });
    let (sender, mut receiver) = exec(&fake.socket(), Exec::default()).await.unwrap();
    let mut stream = copy_out(&fake.socket(), copy_from("/x")).await.unwrap();
    for _ in 0..200 {
        if let ExecOutput::Stdout(bytes) = receiver.next().await.unwrap() {
            assert!(bytes.len() <= MAX_PAYLOAD);
        }
        assert!(stream.next().await.unwrap().unwrap().len() <= MAX_PAYLOAD);
    }
    drop((sender, receiver, stream));
    while fake.connections.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn ends_that_no_command_has() {
    for end in [
        json!({"type": "exited", "code": 256}),
        json!({"type": "exited", "code": -1}),
        json!({"type": "exited", "code": i64::MAX}),
        json!({"type": "signalled", "signal": 0}),
        json!({"type": "signalled", "signal": 65}),
        json!({"type": "refused", "code": 0, "message": "fine"}),
    ] {
        let fake = Fake::answering(end.clone());
        let error = run(&fake.socket()).await.unwrap_err();
        assert_eq!(error.code(), Code::AgentFailed, "{end}");
    }
    let fake = Fake::answering(json!({"type": "exited", "code": 255}));
    assert_eq!(run(&fake.socket()).await.unwrap(), ExecOutput::Exited(255));
}

#[tokio::test]
async fn words_of_the_guest_are_tamed() {
    let fake = Fake::answering(json!({"type": "refused", "code": 127, "message": EVIL}));
    match run(&fake.socket()).await.unwrap() {
        ExecOutput::Refused { message, .. } => assert!(is_tame(&message)),
        other => panic!("{other:?}"),
    }
    let fake = Fake::answering(json!({
        "type": "info", "version": 7, "agent_release": EVIL, "boot_id": EVIL, "kernel": EVIL,
        "init": EVIL.repeat(1000),
    }));
    let told = info(&fake.socket()).await.unwrap();
    let init = told.init.unwrap();
    assert!(init.chars().count() <= 500);
    for text in [told.agent_release, told.boot_id, told.kernel, init] {
        assert!(is_tame(&text), "{text:?}");
    }
    let listener = json!({
        "transport": "tcp", "address": EVIL, "port": 1, "process": EVIL, "pid": 1, "more": [],
    });
    let many: Vec<_> = std::iter::repeat_n(listener, MAX_LISTENERS + 1).collect();
    let fake = Fake::answering(json!({"type": "listeners", "listeners": many}));
    let found = listeners(&fake.socket()).await.unwrap();
    assert_eq!(found.len(), MAX_LISTENERS);
    assert!(found.iter().all(|one| is_tame(&one.address)));
    assert!(
        found
            .iter()
            .all(|one| is_tame(one.process.as_deref().unwrap()))
    );
}

#[tokio::test]
async fn numbers_of_the_guest_can_be_calculated_with() {
    let disk = json!({"path": EVIL, "total": 1, "used": u64::MAX});
    let fake = Fake::answering(json!({
        "type": "stats", "uptime_seconds": -1e300, "memory_total": 1, "memory_available": 2,
        "load_1": 1e308, "tasks": 4, "network_received": u64::MAX, "network_sent": 0,
        "disks": vec![disk; 500],
    }));
    let stats = stats(&fake.socket()).await.unwrap();
    assert_eq!((stats.uptime_seconds, stats.load_1), (0.0, 1e12));
    assert_eq!((stats.memory_available, stats.disks.len()), (1, 16));
    let disk = &stats.disks[0];
    assert!(is_tame(&disk.path) && disk.used <= disk.total);
}

#[tokio::test]
async fn failures_of_a_copy_keep_their_meaning() {
    for (flag, code) in [
        ("not_found", Code::NotFound),
        ("no_space", Code::NoSpace),
        ("", Code::Io),
    ] {
        let message = format!("cannot write `/root/{EVIL}`");
        let mut event = json!({"type": "failed", "message": message});
        event[flag] = true.into();
        // Before, and without, taking anything: the host still sends.
        let endless = tokio::io::repeat(0);
        let fake = Fake::start(move |_, mut stream| {
            let event = event.clone();
            async move {
                stream.write_all(&control(&event)).await.unwrap();
                // Stays until the host has gone.
                drop(stream.readable().await);
                std::future::pending::<()>().await;
            }
        });
        let inward = copy_in(&fake.socket(), copy_to("/x"), endless)
            .await
            .unwrap_err();
        let outward = copy_out(&fake.socket(), copy_from("/x")).await.unwrap();
        let outward = drain(outward).await.unwrap_err();
        for error in [inward, outward] {
            assert_eq!(error.code(), code, "{flag}");
            assert!(error.message().contains("/root/"), "{error:?}");
            assert!(is_tame(error.message()), "{error:?}");
        }
    }
}

#[tokio::test]
async fn success_is_not_believed_before_its_time() {
    let copied = json!({"type": "copied", "entries": 1, "bytes": 1});
    let fake = Fake::answering(copied.clone());
    let error = copy_in(&fake.socket(), copy_to("/x"), tokio::io::repeat(0))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::AgentFailed);
    let out = copy_out(&fake.socket(), copy_from("/x")).await.unwrap();
    assert_eq!(drain(out).await.unwrap_err().code(), Code::AgentFailed);
    // An end without the last word, and the reverse.
    let fake = Fake::saying([framed(STDOUT, b"x"), framed(STDOUT, b"")].concat());
    let out = copy_out(&fake.socket(), copy_from("/x")).await.unwrap();
    assert!(drain(out).await.is_err());
    let fake = Fake::saying([framed(STDOUT, b"x"), control(&copied)].concat());
    let out = copy_out(&fake.socket(), copy_from("/x")).await.unwrap();
    assert!(drain(out).await.is_err());
    let fake = Fake::saying([framed(STDOUT, b""), control(&copied)].concat());
    let out = copy_out(&fake.socket(), copy_from("/x")).await.unwrap();
    assert_eq!(drain(out).await.unwrap().entries, 1);
}

#[tokio::test]
async fn our_own_archive_may_fail() {
    let broken = |_: &mut dyn Write| Err(io::Error::other("cannot read `x`: broken"));
    let agent = Fake::answering(json!({"type": "failed", "message": "the archive was cut short"}));
    let error = copy_in_with(&agent.socket(), copy_to("/x"), broken)
        .await
        .unwrap_err();
    assert_eq!(error.message(), "cannot read `x`: broken");
}

/// Unpacks from an agent that sends this archive; what it left beside the destination.
async fn unpacked(archive: Vec<u8>) -> (Result<Copied>, Vec<String>) {
    let mut bytes = Vec::new();
    for piece in archive.chunks(1000) {
        bytes.extend(framed(STDOUT, piece));
    }
    bytes.extend(framed(STDOUT, b""));
    bytes.extend(control(
        &json!({"type": "copied", "entries": 1, "bytes": 1}),
    ));
    let fake = Fake::saying(bytes);
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("target");
    fs::create_dir(&target).unwrap();
    let read = move |reader: &mut dyn Read| {
        let parent = fs::File::open(&target)?;
        let to = Unpack {
            parent: parent.as_fd(),
            name: "copy".as_ref(),
            shown: &target.join("copy"),
            owner: Owner::Caller,
            only_directory: false,
        };
        unpack(reader, &to)
    };
    let result = copy_out_with(&fake.socket(), copy_from("/x"), read).await;
    let names = fs::read_dir(place.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    (result, names.collect())
}

#[tokio::test]
async fn archives_from_the_guest_stay_where_they_belong() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("file"), "x").unwrap();
    let mut honest = Vec::new();
    archive_out(source.path(), &mut honest).unwrap();
    let (result, _) = unpacked(honest.clone()).await;
    assert_eq!(result.unwrap().entries, 2);

    let mut upwards = honest.clone();
    let at = upwards
        .windows(9)
        .position(|name| name == b"root/file")
        .unwrap();
    upwards[at..at + 9].copy_from_slice(b"root/../e");
    resum(&mut upwards[at..at + 512]);
    for (archive, says) in [
        (upwards, "unsafe name"),
        (b"garbage".repeat(1000), "not an archive"),
        (honest[..1000].to_vec(), "cut short"),
        ([honest, b"more".repeat(200)].concat(), "after its end"),
    ] {
        let (result, names) = unpacked(archive).await;
        let error = result.unwrap_err();
        assert_eq!(error.code(), Code::AgentFailed, "{error:?}");
        assert!(error.message().contains(says), "{says}: {error:?}");
        assert_eq!(names, ["target"]);
    }
}

fn resum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[tokio::test]
async fn an_older_agent_is_named_with_what_it_cannot_do() {
    let fake = Fake::start(|request, mut stream| async move {
        let answer = match request["type"].as_str() {
            Some("info") => json!({
                "type": "info", "version": 1, "agent_release": "0.1.0", "boot_id": "b",
                "kernel": "6.1", "init": null,
            }),
            Some("exec") => json!({"type": "exited", "code": 3}),
            Some("wait_boot" | "shutdown") => json!({"type": "done"}),
            _ => json!({
                "type": "error",
                "message": "agent 0.1.0 (protocol 1) does not know this request",
            }),
        };
        stream.write_all(&control(&answer)).await.unwrap();
        // It lingers until the host hangs up.
        drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
    });
    let socket = fake.socket();
    assert_eq!(run(&socket).await.unwrap(), ExecOutput::Exited(3));
    wait_boot(&socket).await.unwrap();
    shutdown(&socket).await.unwrap();
    let out = drain(copy_out(&socket, copy_from("/x")).await.unwrap()).await;
    let endless = tokio::io::repeat(0);
    for (error, cannot, since) in [
        (
            copy_in(&socket, copy_to("/x"), endless).await.unwrap_err(),
            "copy files",
            2,
        ),
        (out.unwrap_err(), "copy files", 2),
        (
            dial(&socket, 80, Duration::ZERO).await.unwrap_err(),
            "forward ports",
            4,
        ),
        (
            listeners(&socket).await.unwrap_err(),
            "list what it listens on",
            2,
        ),
        (stats(&socket).await.unwrap_err(), "say what it uses", 2),
    ] {
        assert_eq!(error.code(), Code::Conflict, "{error:?}");
        assert_eq!(
            error.message(),
            format!(
                "the agent in this VM (release 0.1.0, protocol 1) cannot {cannot}; protocol \
                 {since} is needed"
            )
        );
        assert!(
            error
                .hint_text()
                .unwrap()
                .starts_with("stop and start the VM")
        );
    }
}

#[tokio::test]
async fn a_connection_begins_after_the_answer_and_ends_half_by_half() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let fake = Fake::start(move |_, stream| serve(stream, tell.clone()));
    async fn serve(mut stream: UnixStream, tell: tokio::sync::mpsc::UnboundedSender<Vec<u8>>) {
        let mut bytes = control(&json!({"type": "done"}));
        for part in [&b"SSH"[..], b"-2.0", b""] {
            bytes.extend(frame::header(Kind::Stdout, part.len()));
            bytes.extend(part);
        }
        // In the smallest pieces there are.
        for byte in bytes {
            stream.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        // Its end is not the end of the other direction.
        let mut frames = Vec::new();
        stream.read_to_end(&mut frames).await.unwrap();
        tell.send(frames).unwrap();
    }
    let mut stream = dial(&fake.socket(), 22, Duration::ZERO).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "SSH-2.0");
    stream.write_all(b"hello").await.unwrap();
    stream.write_all(b"").await.unwrap();
    stream.shutdown().await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    let mut decoder = frame::Decoder::default();
    decoder.push(&told.recv().await.unwrap());
    let mut sent = || {
        decoder
            .next_frame()
            .unwrap()
            .map(|frame| (frame.kind, frame.payload))
    };
    assert_eq!(sent(), Some((Kind::Stdin, b"hello".to_vec())));
    assert_eq!(sent(), Some((Kind::Stdin, Vec::new())), "the end, once");
    assert_eq!(sent(), None);
    for (bytes, kind) in [
        (vec![], io::ErrorKind::UnexpectedEof),
        (
            frame::header(Kind::Stdout, 9).to_vec(),
            io::ErrorKind::UnexpectedEof,
        ),
        (
            frame::header(Kind::Stderr, 9).to_vec(),
            io::ErrorKind::InvalidData,
        ),
        (vec![0xff; 5], io::ErrorKind::InvalidData),
    ] {
        let fake = Fake::start(move |_, mut stream| {
            let bytes = [control(&json!({"type": "done"})), bytes.clone()].concat();
            async move { stream.write_all(&bytes).await.unwrap() }
        });
        let mut stream = dial(&fake.socket(), 22, Duration::ZERO).await.unwrap();
        let error = stream.read(&mut [0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
    let fake = Fake::answering(json!({"type": "nothing_listens"}));
    let error = dial(&fake.socket(), 22, Duration::ZERO).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert_eq!(error.message(), "nothing listens on port 22 in the guest");
}
