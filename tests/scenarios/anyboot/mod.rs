//! Images of every kind: without an init system, a shell, users or directories; with BusyBox,
//! musl, OpenRC. Each is made here, registered, and run as `docker run` would run it.

mod image;
mod openrc;

use std::fs;
use std::os::unix::fs::symlink;

use banger_tests::World;
use serde_json::json;

use banger_tests::scenario::{Need, Scenario, pure, shared};
use banger_tests::seconds;
use image::Tree;

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "oci-no-init",
        "an image of nothing but one program",
        nothing_but_a_program,
    )
    .needs(&[Need::Program("musl-gcc")]),
    pure(
        "anyboot-no-command-and-no-shell",
        "an image without a command or a shell says what it lacks",
        no_command_and_no_shell,
    )
    .needs(&[Need::Program("musl-gcc")]),
    pure(
        "anyboot-busybox-and-musl",
        "BusyBox and musl as the whole system",
        busybox_and_musl,
    )
    .needs(&[Need::Program("busybox")]),
    pure(
        "anyboot-oddities",
        "images whose directories are files, links or absent",
        oddities,
    )
    .needs(&[Need::Program("busybox")]),
    shared(
        "anyboot-openrc",
        "a system with OpenRC comes up and goes down",
        openrc::boots_and_goes_down,
    )
    .needs(&[Need::PackageArchive]),
];

/// The lines of an output that begin with this word, without it.
fn lines<'a>(output: &'a str, word: &str) -> Vec<&'a str> {
    let lines = output.lines();
    lines
        .filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '))
        .collect()
}

fn nothing_but_a_program(w: &World) {
    let tree = Tree::new(w);
    tree.probe("probe");
    tree.register(
        "scratch",
        json!({
            "Entrypoint": ["/probe"], "Cmd": ["show"], "User": "1234:5678",
            "WorkingDir": "/srv/app", "Env": ["A=image", "B=image"],
        }),
    );
    let run = ["vm", "run", "--name", "box", "--image", "scratch"];

    // The image's own command, in every respect.
    let done = w.banger([&run[..], &["--env", "B=mine"]].concat()).ok();
    let out = done.out();
    assert_eq!(lines(&out, "uid"), ["1234 gid 5678 groups 5678"]);
    assert_eq!(lines(&out, "cwd"), ["/srv/app"], "made, as it was missing");
    assert_eq!(lines(&out, "word"), ["show"]);
    let env = lines(&out, "env");
    for variable in ["A=image", "B=mine", "HOME=/", "HOSTNAME=box"] {
        assert!(env.contains(&variable), "{variable}: {env:?}");
    }

    let exec = |words: &[&str]| w.banger([&["vm", "exec", "box"], words].concat());
    let probe = |words: &[&str]| {
        exec(&[&["--user", "0", "--", "/probe"], words].concat())
            .ok()
            .out()
    };
    assert_eq!(lines(&probe(&["show"]), "uid"), ["0 gid 0 groups 0"]);
    assert!(lines(&probe(&["show"]), "env").contains(&"HOME=/root"));
    let places = [
        "/", "/proc", "/sys", "/dev", "/tmp", "/root", "/run", "/etc", "/srv/app",
    ];
    assert_eq!(
        probe(&[&["modes"], &places[..]].concat())
            .lines()
            .collect::<Vec<_>>(),
        [
            "/ 40755",
            "/proc 40555",
            "/sys 40555",
            "/dev 40755",
            "/tmp 41777",
            "/root 40755",
            "/run 40755",
            "/etc 40755",
            "/srv/app 40755",
        ]
    );
    let files = [
        "/etc/hosts",
        "/etc/hostname",
        "/etc/mtab",
        "/etc/machine-id",
        "/dev/pts/ptmx",
    ];
    assert_eq!(
        probe(&[&["modes"], &files[..]].concat())
            .lines()
            .collect::<Vec<_>>(),
        [
            "/etc/hosts 100644",
            "/etc/hostname 100644",
            "/etc/mtab 120777",
            "/etc/machine-id 0",
            "/dev/pts/ptmx 20666",
        ],
        "what every system has, and nothing for what the image has not"
    );
    assert!(probe(&["print", "/etc/hosts"]).contains("127.0.1.1\tbox\n"));

    // Codes are docker's.
    exec(&["--", "/probe", "exit", "7"]).expect_code(7);
    exec(&["--", "nothing"]).expect_code(127);
    exec(&["--", "/etc/hosts"]).expect_code(126);
    exec(&["--", "/etc"]).expect_code(126);
    let shell = exec(&["--", "sh", "-c", "true"]).expect_code(127);
    assert!(
        shell.err().contains("no such program in PATH: `sh`"),
        "{}",
        shell.err()
    );
    exec(&["--workdir", "/no/where", "--", "/probe"]).expect_code(125);
    exec(&["--user", "app", "--", "/probe"]).expect_code(125);

    // The user's own streams, opened by name; a large environment; orphans.
    assert_eq!(exec(&["--", "/probe", "by-name"]).ok().out(), "by name\n");
    let variables = w.root().join("variables");
    let text: String = (0..3000).map(|n| format!("V{n}={n:040}\n")).collect();
    fs::write(&variables, text).expect("write variables");
    let many = exec(&[
        "--env-file",
        variables.to_str().expect("text"),
        "--",
        "/probe",
    ])
    .ok();
    assert_eq!(
        lines(&many.out(), "env")
            .iter()
            .filter(|v| v.starts_with('V'))
            .count(),
        3000
    );
    probe(&["orphans"]);
    banger_tests::eventually(seconds(10), "orphans are reaped", || {
        probe(&["zombies"]).trim() == "0"
    });

    // No ssh server, which is said at once although the machine is young.
    let ssh = w.banger(["vm", "ssh", "box"]).expect_code(255);
    let err = ssh.err();
    assert!(err.contains("there is no ssh server in it"), "{err}");
    assert!(err.contains("banger vm exec box -- COMMAND"), "{err}");
    assert!(ssh.took < seconds(30), "{:?}", ssh.took);

    // Processes get time to end, and what they write then is there.
    probe(&["serve", "/srv/app/end"]);
    w.banger(["vm", "stop", "box"]).ok();
    w.banger(["vm", "start", "box"]).ok();
    assert_eq!(probe(&["print", "/srv/app/end"]), "orderly\n");
    w.banger(["vm", "delete", "box"]).ok();
}

fn no_command_and_no_shell(w: &World) {
    let tree = Tree::new(w);
    tree.probe("probe");
    tree.register("bare", json!({}));
    let done = w
        .banger(["vm", "run", "--rm", "--image", "bare"])
        .expect_code(127);
    let err = done.err();
    assert!(err.contains("no command was given"), "{err}");
    assert!(err.contains("it has no shell"), "{err}");
}

/// As in Alpine's container image: the table of an init system that is not there.
const ALPINE_INITTAB: &str = "::sysinit:/sbin/openrc sysinit\n::wait:/sbin/openrc default\n\
    tty1::respawn:/sbin/getty 38400 tty1\n::ctrlaltdel:/sbin/reboot\n";

fn busybox_and_musl(w: &World) {
    let tree = Tree::new(w);
    tree.busybox();
    tree.dynamic_musl_probe("usr/bin/probe");
    tree.file("etc/inittab", ALPINE_INITTAB);
    symlink("/bin/busybox", tree.path("sbin/init")).expect("link");
    tree.file(
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/sbin/nologin\n",
    );
    tree.file("etc/group", "root:x:0:\napp:x:1000:\ndata:x:2000:app\n");
    tree.program("sbin/nologin", "#!/bin/sh\necho go away\nexit 1\n");
    tree.program("run/server/start", "#!/bin/sh\necho started \"$@\"\n");
    tree.register(
        "alpine",
        json!({"User": "app", "WorkingDir": "/work", "Entrypoint": ["/run/server/start", "fast"]}),
    );

    let run = |words: &[&str]| w.banger([&["vm", "run", "--image", "alpine"], words].concat());
    // What the image has below /run is there, and the entry point gets the command.
    let done = run(&["--name", "box", "--", "now"]).ok();
    assert_eq!(done.out(), "started fast now\n");

    let exec = |words: &[&str]| w.banger([&["vm", "exec", "box"], words].concat());
    let sh = |script: &str| exec(&["--", "sh", "-c", script]).ok().out();
    assert_eq!(
        sh("id -un; id -G; pwd; echo $HOME $SHELL"),
        "app\n1000 2000\n/work\n/home/app /bin/sh\n"
    );
    // BusyBox' init would be trying again and again.
    assert!(!sh("cat /proc/1/cmdline").contains("/sbin/init"));
    let probe = exec(&["--", "probe"]).ok().out();
    assert_eq!(
        lines(&probe, "uid"),
        ["1000 gid 1000 groups 1000 2000"],
        "linked to musl"
    );
    let other = exec(&[
        "--user",
        "root:data",
        "--workdir",
        "/etc",
        "--",
        "sh",
        "-c",
        "id -u; id -g; pwd",
    ]);
    assert_eq!(other.ok().out(), "0\n2000\n/etc\n");
    exec(&["--", "sh", "-c", "kill -9 $$"]).expect_code(137);
    w.banger(["vm", "stop", "box"]).ok();
    w.banger(["vm", "delete", "box"]).ok();
}

fn oddities(w: &World) {
    let tree = Tree::new(w);
    tree.busybox();
    // Whatever a mount point may be but a directory, and an init that is none.
    tree.file("proc", "a file");
    for (target, name) in [
        ("/bin", "dev"),
        ("/no/where", "sys"),
        ("/no/where", "run"),
        ("/no/where", "tmp"),
        ("/no/where", "root"),
        ("no/where", "etc"),
    ] {
        symlink(target, tree.path(name)).expect("link");
    }
    tree.program("sbin/init", "#!/bin/sh\necho this is no init\n");
    tree.program("bin/lost", "#!/no/such/interpreter\n");
    // A program for another machine: the machine's number is 183, ARM's.
    let mut foreign = fs::read(tree.path("bin/busybox")).expect("read");
    foreign[18] = 183;
    tree.program_bytes("bin/foreign", &foreign);
    tree.mode("", 0o700);
    tree.register("odd", json!({"User": "65534"}));

    let run = [
        "vm",
        "run",
        "--name",
        "box",
        "--image",
        "odd",
        "--workdir",
        "/made/here",
    ];
    let done = w.banger([&run[..], &["--", "sh", "-c", "id -u; pwd; echo x > /dev/stdout; ls -d /proc/1 /sys/kernel /dev/null; cat /etc/hostname"]].concat());
    assert_eq!(
        done.ok().out(),
        "65534\n/made/here\nx\n/dev/null\n/proc/1\n/sys/kernel\nbox\n"
    );
    let exec = |words: &[&str]| w.banger([&["vm", "exec", "box", "--"], words].concat());
    let lost = exec(&["lost"]).expect_code(126).err();
    assert!(
        lost.contains("the interpreter or loader it asks for is missing"),
        "{lost}"
    );
    let foreign = exec(&["foreign"]).expect_code(126).err();
    assert!(foreign.contains("no program for this machine"), "{foreign}");
    assert_eq!(
        exec(&["stat", "-c", "%a", "/", "/tmp"]).ok().out(),
        "755\n1777\n"
    );
    w.banger(["vm", "restart", "box"]).ok();
    assert_eq!(exec(&["cat", "/etc/hostname"]).ok().out(), "box\n");
    w.banger(["vm", "delete", "box"]).ok();
}
