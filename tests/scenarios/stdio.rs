//! Standard input, output and error: separate, byte-exact, with back-pressure.

use std::process::Stdio;

use banger_tests::World;
use sha2::{Digest, Sha256};

use banger_tests::scenario::{Scenario, pure};

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "stdio-binary",
        "input and output are byte-exact, megabytes of them",
        binary,
    ),
    pure(
        "stdio-is-separate",
        "output and errors stay apart",
        separate,
    )
    .with_plain_guests(),
    pure("stdio-ends", "the end of input reaches the command", ends).with_plain_guests(),
    pure(
        "stdio-closed-pipe",
        "a reader that goes away ends the command",
        closed_pipe,
    )
    .with_plain_guests(),
    pure(
        "stdio-many-at-once",
        "many sessions at once do not mix",
        many_at_once,
    )
    .with_plain_guests(),
];

/// Bytes that look random and are the same in every run (a 64-bit linear congruence).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn binary(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "pipe"]).ok();
    let sent = noise(24 << 20);
    let sum = w
        .banger_with_input(["vm", "exec", "pipe", "--", "sha256sum"], sent.clone())
        .ok();
    assert!(
        sum.out().starts_with(&hex(&sent)),
        "what arrived differs: {}",
        sum.out()
    );
    let back = w
        .banger_with_input(["vm", "exec", "pipe", "--", "cat"], sent.clone())
        .ok();
    assert!(
        back.stdout == sent,
        "what came back differs: {} of {} bytes",
        back.stdout.len(),
        sent.len()
    );
    assert_eq!(back.err(), "");
    w.banger(["vm", "delete", "pipe"]).ok();
}

fn separate(w: &World) {
    let script = "echo to-out; echo to-err >&2; printf no-newline";
    let done = w
        .banger(["vm", "run", "--rm", "-q", "--", "sh", "-c", script])
        .ok();
    assert_eq!(done.out(), "to-out\nno-newline");
    assert_eq!(done.err(), "to-err\n", "with -q nothing is added");
}

fn ends(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "ends"]).ok();
    // No input at all.
    assert_eq!(w.banger(["vm", "exec", "ends", "--", "cat"]).ok().out(), "");
    // A command that does not read its input, and more of it than any buffer holds.
    let done = w.banger_with_input(["vm", "exec", "ends", "--", "true"], noise(8 << 20));
    done.ok();
    // A grandchild that keeps the output open does not keep the session.
    let script = "sleep 600 & echo started";
    assert_eq!(
        w.banger(["vm", "exec", "ends", "--", "sh", "-c", script])
            .ok()
            .out(),
        "started\n"
    );
    w.banger(["vm", "delete", "ends"]).ok();
}

fn closed_pipe(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "yes"]).ok();
    // `banger … -- yes | head -n 1`: ends, quietly, as any program in a pipe does.
    let mut command = w.banger_command(["vm", "exec", "yes", "--", "yes"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run banger");
    let mut first = [0; 2];
    use std::io::Read;
    let mut out = child.stdout.take().expect("piped");
    out.read_exact(&mut first).expect("read one line");
    assert_eq!(&first, b"y\n");
    drop(out);
    assert!(
        banger_tests::process::ends_within(
            rustix::process::Pid::from_child(&child),
            banger_tests::process::limit()
        ),
        "banger goes on writing into a closed pipe"
    );
    let done = child.wait_with_output().expect("wait");
    use std::os::unix::process::ExitStatusExt;
    let code = done
        .status
        .code()
        .unwrap_or_else(|| 128 + done.status.signal().unwrap_or(0));
    assert_eq!(code, 141, "{}", String::from_utf8_lossy(&done.stderr));
    // The command in the guest is gone as well.
    w.banger([
        "vm",
        "exec",
        "yes",
        "--",
        "sh",
        "-c",
        "for i in $(seq 100); do pgrep -x yes >/dev/null || exit 0; sleep 0.1; done; exit 1",
    ])
    .ok();
    w.banger(["vm", "delete", "yes"]).ok();
}

fn many_at_once(w: &World) {
    w.banger(["vm", "run", "-d", "--name", "many"]).ok();
    std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..8)
            .map(|i| {
                scope.spawn(move || {
                    let sent = noise((1 << 20) + i);
                    let code = i.to_string();
                    let script = format!("cat; exit {code}");
                    let done = w
                        .banger_with_input(
                            ["vm", "exec", "many", "--", "sh", "-c", &script],
                            sent.clone(),
                        )
                        .expect_code(i as i32);
                    assert!(done.stdout == sent, "session {i} got bytes of another");
                })
            })
            .collect();
        for session in sessions {
            session.join().expect("a session");
        }
    });
    w.banger(["vm", "delete", "many"]).ok();
}
