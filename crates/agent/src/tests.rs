//! The real server and the real client: copies, ports, numbers, without a guest.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_guest_api::archive::{self, Owner, Unpack};
use banger_guest_api::client;
use banger_guest_api::frame::{self, Frame, Kind};
use banger_guest_api::{
    ByteString, Copied, CopyEvent, CopyIn, CopyOut, Dial, Open, PROTOCOL_VERSION, Reply, Request,
};
use banger_model::{Code, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

use crate::socket::Socket;
use crate::testing::{Agent, bounded, until};

macro_rules! agent_tests {
    ($($name:ident($agent:ident) $body:block)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            bounded(async {
                let $agent = Agent::start();
                $body
            }).await;
        }
    )*};
}

fn path(path: &Path) -> ByteString {
    ByteString::from(path.as_os_str().to_owned())
}

fn copy_to(destination: &Path, name: &str) -> CopyIn {
    CopyIn {
        path: path(destination),
        name: name.into(),
        owner: None,
        keep_owners: false,
        exact: false,
        replace: false,
    }
}

impl Agent {
    fn place(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn put(&self, source: &Path, copy: CopyIn) -> Result<Copied, Error> {
        let source = source.to_owned();
        let write = move |writer: &mut dyn Write| archive::archive_out(&source, writer);
        client::copy_in_with(&self.socket(), copy, write).await
    }

    async fn get(&self, source: &Path, name: &str) -> Result<Copied, Error> {
        let (parent, name) = (self.directory.path().to_owned(), name.to_owned());
        let read = move |reader: &mut dyn Read| {
            let directory = fs::File::open(&parent)?;
            let to = Unpack {
                parent: directory.as_fd(),
                name: name.as_ref(),
                shown: &parent.join(&name),
                owner: Owner::Caller,
                only_directory: false,
            };
            archive::unpack(reader, &to)
        };
        let copy = CopyOut { path: path(source) };
        client::copy_out_with(&self.socket(), copy, read).await
    }

    /// A connection whose first frame is this request.
    fn raw(&self, request: Request) -> UnixStream {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        self.server.admit(Socket::new(theirs)).unwrap();
        let open = Open {
            version: PROTOCOL_VERSION,
            request,
        };
        frame::write(&mut ours, &Frame::control(&open).unwrap()).unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        ours
    }
}

fn failure(stream: &mut UnixStream) -> (String, bool, bool) {
    match frame::read(stream).unwrap().unwrap().parse().unwrap() {
        CopyEvent::Failed {
            message,
            not_found,
            no_space,
        } => (message, not_found, no_space),
        other => panic!("{other:?}"),
    }
}

agent_tests! {
    a_tree_goes_in_and_comes_out(agent) {
        let source = agent.place("source");
        fs::create_dir(&source).unwrap();
        for number in 0..300 {
            fs::write(source.join(number.to_string()), vec![b'x'; number * 100]).unwrap();
        }
        fs::write(source.join("large"), vec![7; 10 << 20]).unwrap();
        fs::create_dir(agent.place("guest")).unwrap();
        let copied = agent.put(&source, copy_to(&agent.place("guest"), "tree")).await.unwrap();
        assert_eq!(copied.entries, 302);
        let back = agent.get(&agent.place("guest/tree/"), "back").await.unwrap();
        assert_eq!(back, copied);
        for name in ["0", "7", "299", "large"] {
            let content = |place: &str| fs::read(agent.place(place).join(name)).unwrap();
            assert_eq!(content("source"), content("back"), "{name}");
        }
    }

    a_copy_gets_its_name_as_with_cp(agent) {
        let at = |name: &str| agent.place(name);
        fs::write(at("file"), "new").unwrap();
        fs::create_dir(at("there")).unwrap();
        let copied = agent.put(&at("file"), copy_to(&at("there"), "file")).await.unwrap();
        assert_eq!((copied.entries, copied.bytes), (1, 3));
        assert_eq!(fs::read(at("there/file")).unwrap(), b"new");
        agent.put(&at("file"), copy_to(&at("there/other"), "file")).await.unwrap();
        assert_eq!(fs::read(at("there/other")).unwrap(), b"new");
        fs::write(at("there/old"), "old and longer").unwrap();
        agent.put(&at("file"), copy_to(&at("there/old"), "file")).await.unwrap();
        assert_eq!(fs::read(at("there/old")).unwrap(), b"new");

        let missing = agent.put(&at("file"), copy_to(&at("no/where"), "file")).await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound);
        let no = at("no").display().to_string();
        assert!(missing.message().contains(&format!("`{no}` does not exist")), "{missing:?}");
        let slash = agent.put(&at("file"), copy_to(&at("no/"), "file")).await.unwrap_err();
        assert_eq!(slash.code(), Code::NotFound);
        fs::create_dir(at("there/file2")).unwrap();
        let over = agent.put(&at("file"), copy_to(&at("there"), "file2")).await.unwrap_err();
        assert!(over.message().contains("exists and is a directory"), "{over:?}");

        let exact = |path: &str| CopyIn { exact: true, ..copy_to(&at(path), "ignored") };
        agent.put(&at("there"), exact("made/on/the/way")).await.unwrap();
        assert_eq!(fs::read(at("made/on/the/way/old")).unwrap(), b"new");
        agent.put(&at("there"), exact("made")).await.unwrap();
        assert_eq!(fs::read(at("made/old")).unwrap(), b"new");
        let over = agent.put(&at("file"), exact("made")).await.unwrap_err();
        assert!(over.message().contains("exists and is a directory"), "{over:?}");
        for bad in ["..", "a/b", ""] {
            let error = agent.put(&at("file"), copy_to(&at("there"), bad)).await.unwrap_err();
            assert!(error.message().contains("cannot be the name"), "{error:?}");
        }
    }

    a_copy_belongs_to_whom_it_is_for(agent) {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may give files away");
            return;
        }
        let source = agent.place("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "x").unwrap();
        std::os::unix::fs::chown(source.join("file"), Some(5), Some(6)).unwrap();
        fs::set_permissions(source.join("file"), fs::Permissions::from_mode(0o4755)).unwrap();
        let copy = |name: &str| copy_to(agent.directory.path(), name);
        let kept = CopyIn { keep_owners: true, ..copy("kept") };
        let given = CopyIn { owner: Some("7:8".to_owned()), ..copy("given") };
        for (name, copy, expected) in [
            ("plain", copy("plain"), (0, 0, 0o755)),
            ("kept", kept, (5, 6, 0o4755)),
            ("given", given, (7, 8, 0o755)),
        ] {
            agent.put(&source, copy).await.unwrap();
            let stat = fs::metadata(agent.place(name).join("file")).unwrap();
            assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), expected, "{name}");
        }
        let nobody = CopyIn { owner: Some("no such user".to_owned()), ..copy("never") };
        let error = agent.put(&source, nobody).await.unwrap_err();
        assert!(error.message().contains("no user `no such user`"), "{error:?}");
    }

    a_copy_takes_the_place_of_a_tree_at_once(agent) {
        let at = |name: &str| agent.place(name);
        let replace = |path: &str| CopyIn { replace: true, ..copy_to(&at(path), "ignored") };
        fs::create_dir(at("source")).unwrap();
        fs::write(at("source/new"), "new").unwrap();
        let names = |path: &str| {
            let mut names: Vec<_> = fs::read_dir(at(path)).unwrap().flatten()
                .map(|entry| entry.file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        agent.put(&at("source"), replace("on/the/way/tree")).await.unwrap();
        assert_eq!(names("on/the/way"), ["tree"]);
        fs::write(at("on/the/way/tree/old"), "old").unwrap();
        agent.put(&at("source"), replace("on/the/way/tree")).await.unwrap();
        assert_eq!(names("on/the/way/tree"), ["new"]);
        // A file, a link to a directory and a file again.
        std::os::unix::fs::symlink(at("source"), at("link")).unwrap();
        agent.put(&at("source/new"), replace("on/the/way/tree")).await.unwrap();
        agent.put(&at("source/new"), replace("link")).await.unwrap();
        assert_eq!(fs::read(at("link")).unwrap(), b"new");
        assert_eq!(fs::read(at("on/the/way/tree")).unwrap(), b"new");
        assert_eq!(names("source"), ["new"]);
        assert_eq!(names("on/the/way"), ["tree"]);
        let root = CopyIn { replace: true, ..copy_to(Path::new("/"), "ignored") };
        let error = agent.put(&at("source"), root).await.unwrap_err();
        assert!(error.message().contains("`/` cannot be replaced"), "{error:?}");
    }

    a_replacement_that_is_cut_short_leaves_the_old_tree(agent) {
        let at = |name: &str| agent.place(name);
        fs::create_dir_all(at("source/sub")).unwrap();
        fs::write(at("source/sub/file"), vec![1; 100_000]).unwrap();
        fs::create_dir_all(at("guest/tree")).unwrap();
        fs::write(at("guest/tree/old"), "old").unwrap();
        let mut bytes = Vec::new();
        archive::archive_out(&at("source"), &mut bytes).unwrap();
        let copy = CopyIn { replace: true, ..copy_to(&at("guest/tree"), "ignored") };
        let mut stream = agent.raw(Request::CopyIn(copy.clone()));
        let payload = bytes[..50_000].to_vec();
        frame::write(&mut stream, &Frame { kind: Kind::Stdin, payload }).unwrap();
        until(|| fs::read_dir(at("guest")).unwrap().count() == 2).await;
        // Meanwhile nobody else replaces it, and what is there can be read.
        let error = agent.put(&at("source"), copy.clone()).await.unwrap_err();
        assert!(error.message().contains("another copy is replacing"), "{error:?}");
        assert_eq!(fs::read(at("guest/tree/old")).unwrap(), b"old");
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(failure(&mut stream).0.contains("ended"));
        until(|| fs::read_dir(at("guest")).unwrap().count() == 1).await;
        assert_eq!(fs::read(at("guest/tree/old")).unwrap(), b"old");
        agent.put(&at("source"), copy).await.unwrap();
        assert!(!at("guest/tree/old").exists() && at("guest/tree/sub/file").exists());
    }

    what_is_not_there_is_said(agent) {
        let error = agent.get(&agent.place("missing"), "copy").await.unwrap_err();
        assert_eq!(error.code(), Code::NotFound);
        assert!(error.message().contains("missing` does not exist"), "{error:?}");
        let error = agent.get(Path::new("/dev/zero"), "copy").await.unwrap_err();
        assert!(error.message().contains("/dev/zero"), "{error:?}");
        let error = agent.put(&agent.place("missing"), copy_to(&agent.place("x"), "x")).await;
        assert_eq!(error.unwrap_err().code(), Code::NotFound);
        assert!(!agent.place("copy").exists() && !agent.place("x").exists());
    }

    a_failed_copy_ends_a_host_that_still_sends(agent) {
        // An endless archive to where it cannot go.
        let copy = copy_to(&agent.place("no/where"), "x");
        let error = client::copy_in(&agent.socket(), copy, tokio::io::repeat(b'x')).await;
        assert_eq!(error.unwrap_err().code(), Code::NotFound);
        let copy = copy_to(&agent.place("x"), "x");
        let error = client::copy_in(&agent.socket(), copy, tokio::io::repeat(b'x')).await;
        assert!(error.unwrap_err().message().contains("not an archive"));
    }

    a_copy_that_was_cut_short_is_a_failure(agent) {
        fs::write(agent.place("file"), vec![1; 100_000]).unwrap();
        let mut bytes = Vec::new();
        archive::archive_out(&agent.place("file"), &mut bytes).unwrap();
        for (length, end) in [(50_000, true), (50_000, false), (bytes.len(), false)] {
            let target = agent.place("target");
            let mut stream = agent.raw(Request::CopyIn(copy_to(&target, "x")));
            let payload = bytes[..length].to_vec();
            frame::write(&mut stream, &Frame { kind: Kind::Stdin, payload }).unwrap();
            if end {
                let payload = Vec::new();
                frame::write(&mut stream, &Frame { kind: Kind::Stdin, payload }).unwrap();
            } else {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let (message, ..) = failure(&mut stream);
            assert!(message.contains("cut short") || message.contains("ended"), "{message}");
            if length < bytes.len() {
                assert!(!target.exists(), "half a file has no name");
            }
        }
        until(|| agent.server.connections() == 0).await;
        let left = fs::read_dir(agent.directory.path()).unwrap().flatten();
        let left = left.filter(|entry| entry.file_name().to_string_lossy().contains(".banger"));
        assert_eq!(left.count(), 0);
    }

    a_host_that_hangs_up_ends_a_copy(agent) {
        fs::write(agent.place("large"), vec![1; 20 << 20]).unwrap();
        let out = agent.raw(Request::CopyOut(CopyOut { path: path(&agent.place("large")) }));
        let inward = agent.raw(Request::CopyIn(copy_to(&agent.place("x"), "x")));
        until(|| agent.server.connections() == 2).await;
        drop((out, inward));
        until(|| agent.server.connections() == 0).await;
    }

    other_frames_do_not_belong_into_a_copy(agent) {
        let mut stream = agent.raw(Request::CopyIn(copy_to(&agent.place("x"), "x")));
        let payload = b"x".to_vec();
        frame::write(&mut stream, &Frame { kind: Kind::Stdout, payload }).unwrap();
        assert!(failure(&mut stream).0.contains("Stdout"));
        let mut stream = agent.raw(Request::CopyIn(copy_to(&agent.place("x"), "x")));
        stream.write_all(&[0xff; 5]).unwrap();
        assert!(failure(&mut stream).0.contains("too large"));
    }

    a_port_is_reached_in_both_directions(agent) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Each reads to the end, then answers, then ends: half-closing works both ways.
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).await.unwrap();
            stream.write_all(&asked).await.unwrap();
            asked.len()
        });
        let mut stream = client::dial(&agent.socket(), port, Duration::ZERO).await.unwrap();
        let question: Vec<u8> = (0..3_000_000usize).map(|at| (at * 7) as u8).collect();
        stream.write_all(&question).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer == question);
        assert_eq!(server.await.unwrap(), question.len());
        drop(stream);
        until(|| agent.server.connections() == 0).await;
    }

    what_the_server_says_first_is_not_lost(agent) {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-hello\r\n").await.unwrap();
        });
        let mut stream = client::dial(&agent.socket(), port, Duration::ZERO).await.unwrap();
        let mut greeting = String::new();
        stream.read_to_string(&mut greeting).await.unwrap();
        assert_eq!(greeting, "SSH-2.0-hello\r\n");
        server.await.unwrap();
        drop(stream);
        until(|| agent.server.connections() == 0).await;
    }

    both_directions_may_be_full(agent) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = stream.into_split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        let stream = client::dial(&agent.socket(), port, Duration::ZERO).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        const TOTAL: usize = 8 << 20;
        let sent = tokio::spawn(async move {
            for _ in 0..TOTAL / 4096 {
                write.write_all(&[9; 4096]).await.unwrap();
            }
            write.shutdown().await.unwrap();
        });
        let mut back = Vec::new();
        read.read_to_end(&mut back).await.unwrap();
        sent.await.unwrap();
        assert_eq!(back.len(), TOTAL);
    }

    a_host_that_hangs_up_ends_a_connection(agent) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = client::dial(&agent.socket(), port, Duration::ZERO).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        drop(stream);
        // The server sees the end, says nothing and stays: the agent lets go all the same.
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
        until(|| agent.server.connections() == 0).await;
    }

    a_server_that_breaks_off_ends_a_connection(agent) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut stream = client::dial(&agent.socket(), port, Duration::ZERO).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        server.set_zero_linger().unwrap();
        drop(server);
        // Not as if it had said all.
        let error = stream.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        until(|| agent.server.connections() == 0).await;
    }

    a_port_that_nobody_listens_on(agent) {
        let port = free_port();
        let start = std::time::Instant::now();
        for (wait, least) in [(0, 0), (200, 200)] {
            let wait = Duration::from_millis(wait);
            let error = client::dial(&agent.socket(), port, wait).await.unwrap_err();
            assert_eq!(error.code(), Code::NotFound);
            assert_eq!(error.message(), format!("nothing listens on port {port} in the guest"));
            assert!(start.elapsed() >= Duration::from_millis(least));
        }
        assert_eq!(
            client::dial(&agent.socket(), 0, Duration::ZERO).await.unwrap_err().code(),
            Code::NotFound
        );
        // A host that gives up while it waits gives its place back.
        let request = Request::Connect(Dial { port, wait_ms: u32::MAX });
        let waiting = agent.raw(request);
        until(|| agent.server.connections() == 1).await;
        drop(waiting);
        until(|| agent.server.connections() == 0).await;
    }

    a_port_is_waited_for(agent) {
        let port = free_port();
        let socket = agent.socket();
        let wait = Duration::from_secs(50);
        let dialled = tokio::spawn(async move { client::dial(&socket, port, wait).await });
        until(|| agent.server.connections() == 1).await;
        let server = TcpSocket::new_v4().unwrap();
        server.set_reuseaddr(true).unwrap();
        server.bind(([127, 0, 0, 1], port).into()).unwrap();
        let server = server.listen(1).unwrap();
        let (mut accepted, _) = server.accept().await.unwrap();
        accepted.write_all(b"x").await.unwrap();
        let mut stream = dialled.await.unwrap().unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }

    listeners_and_numbers(agent) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = client::listeners(&agent.socket()).await.unwrap();
        let ours = found.iter().find(|found| found.port == port).unwrap();
        assert_eq!((ours.address.as_str(), ours.pid), ("127.0.0.1", Some(std::process::id())));
        let stats = client::stats(&agent.socket()).await.unwrap();
        assert!(stats.memory_total > 0 && !stats.disks.is_empty());
    }

    an_agent_of_protocol_1_is_told_apart(agent) {
        let old = Agent::speaking(1);
        let error = client::stats(&old.socket()).await.unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
        let release = env!("CARGO_PKG_VERSION");
        let named = format!("the agent in this VM (release {release}, protocol 1) cannot");
        assert!(error.message().starts_with(&named), "{error:?}");
        let error = old.put(Path::new("/etc"), copy_to(Path::new("/"), "x")).await.unwrap_err();
        assert!(error.message().contains("cannot copy files"), "{error:?}");
        let error = old.get(Path::new("/etc"), "x").await.unwrap_err();
        assert!(error.message().contains("cannot copy files"), "{error:?}");
        assert_eq!(client::info(&old.socket()).await.unwrap().version, 1);
        client::wait_boot(&old.socket()).await.unwrap();
        assert_eq!(client::info(&agent.socket()).await.unwrap().version, PROTOCOL_VERSION);
        // One that copies but would merge: it never gets to see the archive.
        let merges = Agent::speaking(2);
        let target = agent.place("target");
        agent.put(Path::new("/etc/hostname"), copy_to(&target, "x")).await.unwrap();
        let replace = CopyIn { replace: true, ..copy_to(&target, "x") };
        let error = merges.put(Path::new("/etc/hostname"), replace).await.unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
        assert!(error.message().contains("protocol 2) cannot replace a tree at once"), "{error:?}");
    }

    a_newer_host_is_understood(agent) {
        for (request, tag) in [("info", "info"), ("stats", "stats"), ("listeners", "listeners")] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            agent.server.admit(Socket::new(theirs)).unwrap();
            let open = serde_json::json!({
                "version": 99,
                "request": {"type": request, "new": {"a": 1}},
                "more": true,
            });
            frame::write(&mut ours, &Frame::control(&open).unwrap()).unwrap();
            let reply: Reply = frame::read(&mut ours).unwrap().unwrap().parse().unwrap();
            let reply = serde_json::to_value(&reply).unwrap();
            assert_eq!(reply["type"], tag);
        }
    }
}

/// A port nobody listens on: one that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// On a file system of a few kilobytes, in a mount namespace of this thread's own.
#[test]
fn a_full_disk_is_named_and_leaves_no_half_file() {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    let place = tempfile::tempdir().unwrap();
    // SAFETY: this thread ends with the test, and shares no descriptors it gives away.
    let private = unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) };
    let mounted = private.and_then(|()| {
        mount_change(
            "/",
            MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
        )?;
        mount(
            "tmpfs",
            place.path(),
            "tmpfs",
            MountFlags::empty(),
            c"size=64k",
        )
    });
    if let Err(error) = mounted {
        eprintln!("skipped: only root may mount: {error}");
        return;
    }
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("a small one"), "fits").unwrap();
    fs::write(source.path().join("large"), vec![1; 1 << 20]).unwrap();
    let mut bytes = Vec::new();
    archive::archive_out(source.path(), &mut bytes).unwrap();
    let directory = fs::File::open(place.path()).unwrap();
    let to = Unpack {
        parent: directory.as_fd(),
        name: "copy".as_ref(),
        shown: Path::new("/root/copy"),
        owner: Owner::Given(0, 0),
        only_directory: false,
    };
    let error = archive::unpack(bytes.as_slice(), &to).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(
        error.to_string(),
        "cannot write `/root/copy/large`: No space left on device"
    );
    let left: Vec<_> = fs::read_dir(place.path().join("copy"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["a small one"]);
    drop(directory);
    rustix::mount::unmount(place.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}
