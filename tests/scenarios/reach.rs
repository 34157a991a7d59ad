//! Reaching into a machine: files, ports and ssh.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use banger_tests::{Running, World};

use banger_tests::scenario::{Scenario, pure};
use banger_tests::seconds;

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure("cp", "files are copied in and out, byte for byte", cp_files),
    pure(
        "reach-cp-trees",
        "trees keep their modes, times and links",
        cp_trees,
    )
    .with_plain_guests(),
    pure(
        "reach-cp-refusals",
        "a copy that cannot be is refused with its reason",
        cp_refusals,
    )
    .with_plain_guests(),
    pure(
        "forward",
        "a port of the host leads into the guest",
        forward,
    ),
    pure(
        "ssh",
        "ssh works with a host key that is known beforehand",
        ssh,
    ),
    pure(
        "ssh-config",
        "scp, sftp, rsync and git work over the ssh configuration",
        ssh_config,
    ),
];

fn exec(w: &World, vm: &str, script: &str) -> String {
    w.banger(["vm", "exec", vm, "--", "sh", "-c", script])
        .ok()
        .out()
}

/// Bytes in which every value occurs, and no two pieces are alike.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn cp_files(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "box"]).ok();
    let here = w.root().join("here");
    fs::create_dir(&here).expect("mkdir");
    for (name, len) in [("empty", 0), ("small", 5), ("big", 9 << 20)] {
        let (source, back) = (here.join(name), here.join(format!("{name}.back")));
        fs::write(&source, noise(len)).expect("write");
        fs::set_permissions(&source, fs::Permissions::from_mode(0o751)).expect("chmod");
        let to = format!("box:/srv/{name}.copy");
        w.banger(["vm", "cp", &text(&source), &to]).ok();
        let found = exec(w, "box", &format!("stat -c '%U %G %a %s' /srv/{name}.copy"));
        assert_eq!(found, format!("root root 751 {len}\n"));
        w.banger(["vm", "cp", &to, &text(&back)]).ok();
        assert!(fs::read(&back).expect("read") == noise(len), "{name}");
        let mode = fs::metadata(&back).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o751);
    }
    // Into a directory, under its own name; over a file, whole.
    w.banger(["vm", "cp", &text(&here.join("small")), "box:/srv"])
        .ok();
    w.banger(["vm", "cp", &text(&here.join("big")), "box:/srv/small"])
        .ok();
    assert_eq!(
        exec(w, "box", "stat -c %s /srv/small"),
        format!("{}\n", 9 << 20)
    );
    w.banger(["vm", "cp", "box:/srv/small", &text(&here)]).ok();
    assert_eq!(
        fs::metadata(here.join("small")).expect("stat").len(),
        9 << 20
    );
    // What is named is meant, also when it is a link.
    let release = here.join("release");
    w.banger(["vm", "cp", "box:/etc/os-release", &text(&release)])
        .ok();
    assert!(
        fs::read_to_string(&release)
            .expect("a file")
            .contains("Debian")
    );
    // A relative path in the guest starts at home.
    w.banger(["vm", "cp", &text(&here.join("empty")), "box:note"])
        .ok();
    exec(w, "box", "test -e /root/note");
    w.banger(["vm", "delete", "box"]).ok();
}

fn cp_trees(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "box"]).ok();
    let tree = w.root().join("tree");
    fs::create_dir_all(tree.join("a/b/c")).expect("mkdir");
    fs::create_dir(tree.join("empty dir")).expect("mkdir");
    for name in [
        "plain",
        "with space",
        "-dash",
        "new\nline",
        "quote\"'",
        "ünï",
    ] {
        fs::write(tree.join("a/b").join(name), name).expect("write");
    }
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"not-\xff-utf8");
    fs::write(tree.join(odd), "odd").expect("write");
    fs::write(tree.join("n".repeat(200)), "long").expect("write");
    fs::hard_link(tree.join("a/b/plain"), tree.join("linked")).expect("link");
    symlink("a/b/plain", tree.join("link")).expect("link");
    symlink("/nonexistent/\u{e9}", tree.join("dangling")).expect("link");
    symlink("..", tree.join("a/up")).expect("link");
    fs::write(tree.join("script"), "#!/bin/sh\n").expect("write");
    fs::set_permissions(tree.join("script"), fs::Permissions::from_mode(0o755)).expect("chmod");
    // 10,000 small files, which must survive a stop right after the copy.
    fs::create_dir(tree.join("many")).expect("mkdir");
    for number in 0..10_000 {
        fs::write(
            tree.join(format!("many/{number}")),
            format!("file {number}"),
        )
        .expect("write");
    }
    w.banger(["vm", "cp", &text(&tree), "box:/root/copy"]).ok();
    w.banger(["vm", "stop", "box"]).ok();
    w.banger(["vm", "start", "box"]).ok();
    let back = w.root().join("back");
    w.banger(["vm", "cp", "box:/root/copy", &text(&back)]).ok();
    let same = Command::new("diff")
        .args(["--recursive", "--no-dereference"])
        .args([&tree, &back])
        .output()
        .expect("run diff");
    assert!(
        same.status.success(),
        "{}",
        String::from_utf8_lossy(&same.stdout)
    );
    assert_eq!(
        fs::read_link(back.join("a/up")).expect("a link"),
        Path::new("..")
    );
    let mode = fs::metadata(back.join("script"))
        .expect("stat")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
    // A tree over a tree merges.
    let more = w.root().join("more");
    fs::create_dir(&more).expect("mkdir");
    fs::write(more.join("extra"), "extra").expect("write");
    w.banger(["vm", "cp", &text(&more), "box:/root/copy"]).ok();
    exec(
        w,
        "box",
        "test -e /root/copy/more/extra && test -e /root/copy/script",
    );
    w.banger(["vm", "delete", "box"]).ok();
}

fn cp_refusals(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "box", "--disk-size", "64M"])
        .ok();
    let here = w.root().join("here");
    fs::create_dir(&here).expect("mkdir");
    fs::write(here.join("file"), "file").expect("write");
    for (from, to, code) in [
        (text(&here.join("file")), text(&here.join("other")), 2),
        ("box:/a".to_owned(), "box:/b".to_owned(), 2),
        (text(&here.join("nothing")), "box:/srv/x".to_owned(), 1),
        ("box:/nothing".to_owned(), text(&here), 1),
        (text(&here.join("file")), "box:/no/such/dir/x".to_owned(), 1),
        // A file never replaces a directory, nor a directory a file.
        (text(&here), "box:/etc/hostname".to_owned(), 1),
    ] {
        let refused = w.banger(["vm", "cp", &from, &to]).expect_code(code);
        assert!(!refused.err().is_empty());
    }
    assert_eq!(
        exec(w, "box", "test -f /etc/hostname && echo file"),
        "file\n"
    );
    // A full disk is named, and leaves nothing under the final name.
    fs::write(here.join("huge"), noise(100 << 20)).expect("write");
    let full = w
        .banger([
            "vm",
            "--output",
            "json",
            "cp",
            &text(&here.join("huge")),
            "box:/root/huge",
        ])
        .expect_code(1);
    let text_of = if full.stdout.is_empty() {
        full.err()
    } else {
        full.out()
    };
    assert!(
        text_of.contains("no_space") && text_of.contains("/root/huge"),
        "{text_of}"
    );
    exec(
        w,
        "box",
        "! test -e /root/huge && test $(ls -A /root | grep -c huge) = 0",
    );
    w.banger(["vm", "delete", "box"]).ok();
}

/// A server in the guest that answers each connection with what it got, in capitals, after the
/// other side has ended its half.
const SERVER: &str = "import socket,threading\n\
    s=socket.create_server(('127.0.0.1',8123),backlog=64)\n\
    print('up',flush=True)\n\
    def serve(c):\n\
    \x20 data=b''\n\
    \x20 while True:\n\
    \x20   piece=c.recv(65536)\n\
    \x20   if not piece: break\n\
    \x20   data+=piece\n\
    \x20 c.sendall(data.upper()); c.close()\n\
    while True:\n\
    \x20 c,_=s.accept(); threading.Thread(target=serve,args=(c,)).start()\n";

fn ask(port: u16, question: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream
        .set_read_timeout(Some(seconds(60)))
        .expect("a timeout");
    stream.write_all(question).expect("ask");
    stream.shutdown(std::net::Shutdown::Write).expect("end");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answer");
    answer
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("an address").port()
}

fn forward(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "box"]).ok();
    let mut serving = w.start(["vm", "exec", "box", "--", "python3", "-c", SERVER]);
    serving.wait_for_stdout("up");
    let port = free_port();
    let mut forward = w.start(["vm", "forward", "box", &format!("{port}:8123")]);
    forward.wait_for_output(&format!("127.0.0.1:{port}"));
    assert_eq!(ask(port, b"hello"), b"HELLO");
    let many: Vec<_> = (0..20)
        .map(|number| {
            std::thread::spawn(move || {
                let question = format!("question {number} ").repeat(2000);
                (ask(port, question.as_bytes()), question)
            })
        })
        .collect();
    for asked in many {
        let (answer, question) = asked.join().expect("asked");
        assert!(answer == question.to_uppercase().into_bytes());
    }
    // A port that is taken is refused before anything starts.
    let taken = w
        .banger(["vm", "forward", "box", &format!("{port}:8123")])
        .expect_code(1);
    assert!(taken.err().contains(&port.to_string()), "{}", taken.err());
    // Nobody listens there: the connection ends, the forward goes on.
    let silent = free_port();
    let mut other = w.start(["vm", "forward", "box", &format!("{silent}:9")]);
    other.wait_for_output(&silent.to_string());
    let mut stream = TcpStream::connect(("127.0.0.1", silent)).expect("connect");
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
    other.interrupt().finish().ok();
    assert_eq!(ask(port, b"still"), b"STILL");
    // The machine goes: so does the forward.
    w.banger(["vm", "delete", "box"]).ok();
    forward.finish().expect_code(1);
    serving.finish();
}

fn ssh(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "box"]).ok();
    // It waits for the guest's ssh server, which starts later than the agent.
    let done = w
        .banger([
            "vm", "ssh", "box", "--", "printf", "%s\\n", "a b", "$HOME", "it's", "",
        ])
        .ok();
    assert_eq!(done.out(), "a b\n$HOME\nit's\n\n");
    w.banger(["vm", "ssh", "box", "--", "sh", "-c", "exit 42"])
        .expect_code(42);
    // No question about the host key, nothing in the user's own files.
    assert!(!w.root().join("home/.ssh").exists());
    // Another host key is a hard error.
    exec(
        w,
        "box",
        "rm /etc/ssh/ssh_host_ed25519_key* /run/banger/ssh_host* 2>/dev/null; \
         ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; systemctl restart ssh",
    );
    let refused = w.banger(["vm", "ssh", "box", "--", "true"]);
    assert_ne!(refused.code(), 0);
    let said = refused.err().to_lowercase();
    assert!(
        said.contains("host key") || said.contains("identification"),
        "{said}"
    );
    w.banger(["vm", "delete", "box"]).ok();
}

fn ssh_config(w: &World) {
    let home = w.root().join("home");
    let config = home.join(".ssh/config");
    fs::create_dir(home.join(".ssh")).expect("mkdir");
    let own = "Host mine\n  User me";
    fs::write(&config, own).expect("write");
    w.banger(["vm", "run", "-d", "--name", "box"]).ok();
    assert_eq!(
        fs::read_to_string(&config).expect("read"),
        own,
        "never by itself"
    );
    // OpenSSH goes by the account's home and not by `HOME`, so the file is named.
    let file = text(&config);
    let install = ["ssh-config", "--install", "--file", &file];
    w.banger(install).ok();
    let installed = fs::read_to_string(&config).expect("read");
    assert!(installed.contains("Include") && installed.contains(own));
    w.banger(install).ok();
    assert_eq!(fs::read_to_string(&config).expect("read"), installed);

    // Whatever speaks ssh.
    let run = |program: &str, args: &[&str]| {
        let mut command = w.command(program);
        command.env("PATH", path_with_banger(w)).args(args);
        Running::start(command, None).finish()
    };
    let done = run("ssh", &["-F", &file, "box.vm", "echo", "over ssh"]).ok();
    assert_eq!(done.out(), "over ssh\n");
    let data = w.root().join("data");
    fs::write(&data, noise(1 << 20)).expect("write");
    run(
        "scp",
        &["-q", "-F", &file, &text(&data), "box.vm:/root/scp"],
    )
    .ok();
    let batch = w.root().join("batch");
    fs::write(&batch, format!("put {} /root/sftp\n", data.display())).expect("write");
    run("sftp", &["-q", "-F", &file, "-b", &text(&batch), "box.vm"]).ok();
    let rsh = format!("ssh -F {file}");
    run("rsync", &["-e", &rsh, &text(&data), "box.vm:/root/rsync"]).ok();
    exec(
        w,
        "box",
        "cmp /root/scp /root/sftp && cmp /root/scp /root/rsync",
    );
    exec(w, "box", "git init -q --bare /root/repo.git");
    let repo = w.root().join("repo");
    let git = |args: &[&str]| {
        let mut command = w.command("git");
        command
            .env("PATH", path_with_banger(w))
            .env("GIT_SSH_COMMAND", &rsh)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .args(["-c", "user.name=T", "-c", "user.email=t@example.org"])
            .args(args);
        Running::start(command, None).finish().ok()
    };
    git(&["init", "-q", &text(&repo)]);
    let here = text(&repo);
    git(&["-C", &here, "commit", "-q", "--allow-empty", "-m", "first"]);
    git(&[
        "-C",
        &here,
        "push",
        "-q",
        "box.vm:/root/repo.git",
        "HEAD:refs/heads/main",
    ]);
    assert_eq!(
        exec(w, "box", "git -C /root/repo.git log --format=%s main"),
        "first\n"
    );

    let uninstall = ["ssh-config", "--uninstall", "--file", &file];
    for _ in 0..2 {
        w.banger(uninstall).ok();
        assert_eq!(fs::read_to_string(&config).expect("read"), own);
    }
    w.banger(["vm", "delete", "box"]).ok();
}

/// The search path of the scenario, on which its own `banger` comes first.
fn path_with_banger(w: &World) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", w.root().join("bin").display())
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}
