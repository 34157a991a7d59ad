//! `vm run`: the main job.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use banger_tests::{World, eventually, seconds};

use banger_tests::scenario::{Scenario, pure};

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "bare-run",
        "a command runs in a fresh VM, and its output arrives",
        bare_run,
    ),
    pure("exit-code", "the exit code is the command's own", exit_code).with_plain_guests(),
    pure("argv-exact", "arguments arrive byte for byte", argv_exact).with_plain_guests(),
    pure(
        "run-env-user-workdir",
        "variables, user and directory are as asked",
        env_user_workdir,
    ),
    pure(
        "detach-run",
        "a detached VM stays and prints its name",
        detached,
    ),
    pure(
        "run-waits-for-boot",
        "`--wait-for boot` waits for the init system",
        wait_for_boot,
    ),
    pure(
        "early-files-stay",
        "what commands leave in `/tmp` while the guest still boots stays there",
        early_files_stay,
    ),
    pure(
        "run-sizes-reach-the-guest",
        "processors, memory and disk are as asked",
        sizes,
    ),
    pure(
        "run-identity",
        "every VM has a name and keys of its own",
        identity,
    ),
];

fn bare_run(w: &World) {
    let done = w.banger(["vm", "run", "--rm", "--", "echo", "hello"]).ok();
    assert_eq!(done.out(), "hello\n");
    let err = done.err();
    let spec = err.find("spec:").expect("a spec line");
    let ready = err.find("ready in ").expect("a ready line");
    assert!(spec < ready, "the spec line comes first:\n{err}");
}

fn exit_code(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "codes"]).ok();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 42", 42),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
    ] {
        w.banger(["vm", "exec", "codes", "--", "sh", "-c", script])
            .expect_code(code);
    }
    let missing = w
        .banger(["vm", "exec", "codes", "--", "no-such-program"])
        .expect_code(127);
    assert!(
        missing.err().contains("no-such-program"),
        "{}",
        missing.err()
    );
    w.banger(["vm", "exec", "codes", "--", "/etc/passwd"])
        .expect_code(126);
    w.banger(["vm", "exec", "codes", "--", "/"])
        .expect_code(126);
    w.banger([
        "vm",
        "exec",
        "codes",
        "--workdir",
        "/no/such/dir",
        "--",
        "true",
    ])
    .expect_code(125);
    w.banger(["vm", "exec", "codes", "--user", "nobody-here", "--", "true"])
        .expect_code(125);
    w.banger(["vm", "delete", "codes"]).ok();
    // The code also survives the whole way of a throw-away machine.
    w.banger(["vm", "run", "--rm", "--", "sh", "-c", "exit 42"])
        .expect_code(42);
}

fn argv_exact(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "args"]).ok();
    let odd: Vec<OsString> = [
        &b"two words"[..],
        b"",
        b"'single' \"double\"",
        b"$HOME `id` $(id) ; & | > <",
        b"line\nbreak",
        b"-n",
        b"--",
        b"*?[a]",
        b"back\\slash",
        b"\xff\xfe not utf-8 \x01",
        "gr\u{fc}\u{df}e".as_bytes(),
    ]
    .into_iter()
    .map(|bytes| OsString::from_vec(bytes.to_vec()))
    .collect();
    let mut args: Vec<OsString> = ["vm", "exec", "args", "--", "printf", "[%s]\\0"]
        .into_iter()
        .map(Into::into)
        .collect();
    args.extend(odd.iter().cloned());
    let done = w.banger(args).ok();
    let want: Vec<u8> = odd
        .iter()
        .flat_map(|arg| [b"[", arg.clone().into_vec().as_slice(), b"]\0"].concat())
        .collect();
    assert_eq!(done.stdout, want, "{}", done.out());
    w.banger(["vm", "delete", "args"]).ok();
}

fn env_user_workdir(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "who"]).ok();
    let exec = |flags: &[&str], script: &str| {
        let mut args = vec!["vm", "exec", "who"];
        args.extend(flags);
        args.extend(["--", "sh", "-c", script]);
        w.banger(args).ok().out()
    };
    assert_eq!(exec(&[], "id -un; pwd; echo $HOME"), "root\n/root\n/root\n");
    assert_eq!(
        exec(&["--env", "A=b c", "--env", "E="], "echo \"$A|$E|\""),
        "b c||\n"
    );
    assert_eq!(exec(&["--workdir", "/tmp"], "pwd"), "/tmp\n");
    assert_eq!(exec(&["--user", "nobody"], "id -un"), "nobody\n");
    assert_eq!(
        exec(&["--user", "12345:23456"], "id -u; id -g; id -G"),
        "12345\n23456\n23456\n"
    );
    // A variable without a value is taken from the caller's environment.
    let mut command = w.banger_command([
        "vm",
        "exec",
        "who",
        "--env",
        "FROM_HOST",
        "--",
        "sh",
        "-c",
        "echo $FROM_HOST",
    ]);
    command.env("FROM_HOST", "yes");
    assert_eq!(
        banger_tests::Running::start(command, None)
            .finish()
            .ok()
            .out(),
        "yes\n"
    );
    // A usable environment, and nothing of the host's.
    assert_eq!(
        exec(&[], "echo $FROM_HOST$XDG_STATE_HOME; command -v sshd"),
        "\n/usr/sbin/sshd\n"
    );
    w.banger(["vm", "delete", "who"]).ok();
}

fn detached(w: &World) {
    for args in [&["-d", "--rm"][..], &["-d", "--", "true"]] {
        let refused = w.banger([&["vm", "run"], args].concat()).expect_code(2);
        assert!(refused.err().contains("-d"), "{}", refused.err());
    }
    assert!(w.vms().is_empty());
    let done = w.banger(["vm", "run", "-d", "--name", "stays"]).ok();
    assert_eq!(done.out(), "stays\n", "only the name is data");
    assert_eq!(w.vms(), [("stays".into(), "running".into())]);
    assert_eq!(
        w.banger(["vm", "exec", "stays", "--", "hostname"])
            .ok()
            .out(),
        "stays\n"
    );
    // Without --name a valid one is made up, and it is all that is printed.
    let name = w.banger(["vm", "run", "-d"]).ok().out();
    let name = name.trim_end();
    assert!(w.vms().iter().any(|(vm, _)| vm == name), "{name:?}");
    w.banger(["vm", "delete", "stays", name]).ok();
}

fn wait_for_boot(w: &World) {
    // Nobody has asked for D-Bus and logind, and they come when somebody does.
    let script = "systemctl is-system-running; systemctl --failed --no-legend --plain
        systemctl is-active dbus systemd-logind
        loginctl > /dev/null; systemctl is-active dbus systemd-logind";
    let done = w
        .banger([
            "vm",
            "run",
            "--rm",
            "--wait-for",
            "boot",
            "--",
            "sh",
            "-c",
            script,
        ])
        .ok();
    assert_eq!(
        done.out(),
        "running\ninactive\ninactive\nactive\nactive\n",
        "the default image boots without a failed unit, and without what may wait"
    );
}

fn early_files_stay(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "box"]).ok();
    let run = |script: &str| {
        w.banger(["vm", "exec", "box", "--", "sh", "-c", script])
            .ok()
            .out()
    };
    run("echo kept > /tmp/early; echo kept > /var/tmp/early");
    eventually(seconds(60), "systemd has started everything", || {
        run("systemctl is-system-running --wait; true") == "running\n"
    });
    assert_eq!(run("cat /tmp/early /var/tmp/early"), "kept\nkept\n");
    let mode = run("stat -c '%a %U' /tmp /var/tmp");
    assert_eq!(mode, "1777 root\n1777 root\n");
    w.banger(["vm", "delete", "box"]).ok();
}

fn sizes(w: &World) {
    let script = "nproc; grep MemTotal /proc/meminfo; df -B1 --output=size /root / | tail -n 2";
    let done = w
        .banger([
            "vm",
            "run",
            "--rm",
            "--vcpu",
            "2",
            "--memory",
            "640M",
            "--disk-size",
            "3G",
            "--",
            "sh",
            "-c",
            script,
        ])
        .ok();
    let out = done.out();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "2", "{out}");
    let kib: u64 = lines[1]
        .split_whitespace()
        .nth(1)
        .expect("what the guest printed")
        .parse()
        .expect("what the guest printed");
    assert!((540 * 1024..=640 * 1024).contains(&kib), "{out}");
    let root: u64 = lines[2].trim().parse().expect("what the guest printed");
    assert!(
        root > (2 << 30) && root <= (3 << 30),
        "/root is the work disk: {out}"
    );
}

fn identity(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "me"]).ok();
    let script = "hostname; cat /etc/hostname; getent hosts me | awk '{print $2}'; cat /etc/machine-id; \
                  stat -c '%a %U:%G' /root /root/.ssh /root/.ssh/authorized_keys /etc/ssh/ssh_host_ed25519_key; \
                  test -s /root/.bashrc && echo dotfiles; date +%s";
    let out = w
        .banger(["vm", "exec", "me", "--", "sh", "-c", script])
        .ok()
        .out();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(&lines[..3], ["me", "me", "me"], "{out}");
    assert!(
        lines[3].len() == 32 && lines[3].bytes().all(|b| b.is_ascii_hexdigit()),
        "{out}"
    );
    assert_eq!(
        &lines[4..9],
        [
            "755 root:root",
            "700 root:root",
            "600 root:root",
            "600 root:root",
            "dotfiles"
        ],
        "{out}"
    );
    let guest: i64 = lines[9].parse().expect("what the guest printed");
    let host = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("what the guest printed")
        .as_secs();
    assert!(
        (guest - host as i64).abs() < 30,
        "the guest's clock: {guest} against {host}"
    );
    // Identity is the VM's, not the boot's.
    w.banger(["vm", "stop", "me"]).ok();
    w.banger(["vm", "start", "me"]).ok();
    let again = w
        .banger([
            "vm",
            "exec",
            "me",
            "--",
            "cat",
            "/etc/machine-id",
            "/etc/ssh/ssh_host_ed25519_key.pub",
        ])
        .ok()
        .out();
    assert!(again.starts_with(lines[3]), "{again}");
    w.banger(["vm", "delete", "me"]).ok();
}
