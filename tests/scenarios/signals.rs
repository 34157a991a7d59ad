//! Ctrl-C, SIGTERM, closed terminals: forwarded to the command, and `--rm` on every way out.

use banger_tests::pty::Terminal;
use banger_tests::{World, eventually};
use rustix::process::Signal;

use banger_tests::scenario::{Scenario, pure};
use banger_tests::seconds;

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "signals-reach-the-command",
        "signals are passed to the command",
        forwarded,
    ),
    pure(
        "signals-rm-on-every-way-out",
        "`--rm` holds on Ctrl-C, SIGTERM and SIGHUP",
        rm_on_signals,
    )
    .with_plain_guests(),
    pure(
        "signals-rm-on-sigkill",
        "`--rm` holds when the client is killed",
        rm_on_sigkill,
    )
    .with_plain_guests(),
    pure(
        "signals-rm-on-closed-terminal",
        "`--rm` holds when the terminal closes",
        rm_on_closed_terminal,
    )
    .with_plain_guests(),
    pure(
        "signals-rm-on-closed-pipe",
        "`--rm` holds when nobody reads the output",
        rm_on_closed_pipe,
    )
    .with_plain_guests(),
    pure(
        "signals-ctrl-c-during-boot",
        "Ctrl-C during the boot ends it",
        ctrl_c_during_boot,
    ),
];

const FOREVER: &str = "echo up >&2; while :; do sleep 0.1; done";

fn forwarded(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "sig"]).ok();
    for (signal, name) in [
        (Signal::INT, "INT"),
        (Signal::TERM, "TERM"),
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
    ] {
        let script = format!("trap 'echo caught-{name}; exit 9' {name}; {FOREVER}");
        let mut session = w.start(["vm", "exec", "sig", "--", "sh", "-c", &script]);
        session.wait_for_stderr("up");
        session.signal(signal);
        let done = session.finish().expect_code(9);
        assert_eq!(done.out(), format!("caught-{name}\n"));
    }
    w.banger(["vm", "delete", "sig"]).ok();
}

fn rm_on_signals(w: &World) {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut session = w.start(["vm", "run", "--rm", "--", "sh", "-c", FOREVER]);
        session.wait_for_stderr("up");
        session.signal(signal);
        session.finish().expect_code(code);
        assert_eq!(w.vms(), [], "left after {signal:?}");
    }
    // A command that will not end: TERM still ends banger within its bound, and the VM goes.
    let script = format!("trap '' TERM INT; {FOREVER}");
    let mut session = w.start(["vm", "run", "--rm", "--", "sh", "-c", &script]);
    session.wait_for_stderr("up");
    session.signal(Signal::TERM);
    session.finish().expect_code(143);
    assert_eq!(w.vms(), []);
}

fn rm_on_sigkill(w: &World) {
    let mut session = w.start(["vm", "run", "--rm", "--", "sh", "-c", FOREVER]);
    session.wait_for_stderr("up");
    session.signal(Signal::KILL);
    session.finish().expect_code(137);
    eventually(seconds(10), "the VM of a killed client is deleted", || {
        w.vms().is_empty()
    });
}

fn rm_on_closed_terminal(w: &World) {
    let mut t = Terminal::start(w.banger_command(["vm", "run", "--rm", "--name", "window"]));
    t.expect("root@window");
    t.close();
    eventually(seconds(10), "the VM is deleted", || w.vms().is_empty());
}

fn rm_on_closed_pipe(w: &World) {
    let banger = w.root().join("bin/banger");
    let mut command = w.command("bash");
    command.args([
        "-c",
        &format!(
            "{} vm run -q --rm -- yes | head -n 1; echo ${{PIPESTATUS[0]}}",
            banger.display()
        ),
    ]);
    let done = banger_tests::Running::start(command, None).finish().ok();
    assert_eq!(done.out(), "y\n141\n", "{}", done.err());
    assert_eq!(w.vms(), []);
}

fn ctrl_c_during_boot(w: &World) {
    for rm in [true, false] {
        let mut args = vec!["vm", "run", "--name", "early"];
        if rm {
            args.push("--rm");
        }
        args.extend(["--", "true"]);
        let mut session = w.start(args);
        session.wait_for_stderr("waiting for the guest");
        session.signal(Signal::INT);
        let done = session.finish().expect_code(130);
        assert!(
            done.err().contains("nothing is left behind"),
            "{}",
            done.err()
        );
        assert_eq!(w.vms(), []);
    }
}
