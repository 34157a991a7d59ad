//! Interactive sessions on a terminal.

use banger_tests::World;
use banger_tests::pty::Terminal;

use banger_tests::scenario::{Scenario, pure};

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "tty",
        "a shell on a terminal, with its size and colours",
        shell,
    ),
    pure(
        "tty-job-control",
        "Ctrl-Z and Ctrl-C on a terminal",
        job_control,
    )
    .with_plain_guests(),
    pure(
        "tty-restores-the-terminal",
        "the terminal is as before, however the session ends",
        restore,
    )
    .with_plain_guests(),
];

fn shell(w: &World) {
    let mut t = Terminal::start(w.banger_command(["vm", "run", "--rm", "--name", "shell"]));
    t.expect("root@shell");
    t.type_text("tty; echo $TERM; stty size\r");
    t.expect("/dev/pts/");
    t.expect("xterm");
    t.expect("24 80");
    t.resize(40, 132);
    // The resize travels on the same connection as the keys, before them.
    t.type_text("stty size\r");
    t.expect("40 132");
    t.type_text("exit 7\r");
    let (code, screen) = t.finish();
    assert_eq!(code, 7, "{screen}");
}

fn job_control(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "jobs"]).ok();
    let mut t =
        Terminal::start(w.banger_command(["vm", "exec", "jobs", "--", "bash", "--norc", "-i"]));
    t.expect("bash-");
    // What is typed before `cat` runs would be the shell's.
    t.type_text("printf 'cat-%s\\n' up; cat\r");
    t.expect("cat-up");
    t.type_text("echoed\r");
    t.expect("echoed");
    t.expect("echoed");
    t.type_text("\x1a");
    t.expect("Stopped");
    t.expect("bash-");
    t.type_text("jobs\r");
    t.expect("Stopped");
    t.expect("bash-");
    t.type_text("fg\r");
    t.expect("fg");
    t.expect("cat\r");
    t.type_text("again\r");
    t.expect("again");
    t.expect("again");
    t.type_text("\x03");
    t.expect("bash-");
    t.type_text("echo code=$?\r");
    t.expect("code=130");
    t.type_text("exit\r");
    let (code, screen) = t.finish();
    assert_eq!(code, 0, "{screen}");
    w.banger(["vm", "delete", "jobs"]).ok();
}

fn restore(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "raw"]).ok();
    // A shell on the host runs banger twice; in between and after, the terminal is as it was.
    let banger = w.root().join("bin/banger");
    let script = format!(
        "before=$(stty -g); {0} vm exec raw -- true; [ \"$(stty -g)\" = \"$before\" ] && echo same-1; \
         {0} vm exec raw -- sh -c 'kill -9 $$'; [ \"$(stty -g)\" = \"$before\" ] && echo same-2",
        banger.display()
    );
    let mut command = w.command("sh");
    command.args(["-c", &script]);
    let mut t = Terminal::start(command);
    t.expect("same-1");
    t.expect("same-2");
    t.finish();
    w.banger(["vm", "delete", "raw"]).ok();
}
