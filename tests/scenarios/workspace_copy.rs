//! What comes between a repository and its copy: other copies, full disks, impatient people.

use std::fs;
use std::time::{Duration, Instant};

use banger_tests::repository::HostRepository;
use banger_tests::{Running, World};
use rustix::process::Signal;

use crate::workspace::{guest, path};
use banger_tests::scenario::{Scenario, pure};
use banger_tests::seconds;

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure("copy-takes-turns", "copies into one VM take turns", turns).with_plain_guests(),
    pure(
        "copy-disk-full",
        "a copy that does not fit leaves the old one",
        disk_full,
    )
    .with_plain_guests(),
    pure(
        "copy-given-up",
        "a copy that is given up leaves the old one",
        given_up,
    )
    .with_plain_guests(),
];

/// More than a socket and its buffers hold, in bytes.
const LARGE: usize = 64 << 20;
/// How long a copy may go on that nobody waits for any more, on a machine that is busy.
fn prompt() -> Duration {
    seconds(10)
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
        (state >> 24).to_le_bytes()
    });
    words.take(length.div_ceil(8)).flatten().collect()
}

fn turns(w: &World) {
    let host = HostRepository::small(w, "repo");
    host.write("large", &noise(LARGE / 4));
    host.commit("large");
    w.banger(["vm", "run", "-d", "--name", "turns"]).ok();
    let prepare = || w.start(["vm", "workspace", "prepare", "turns", path(&host)]);
    let (one, other) = (prepare(), prepare());
    let (one, other) = (one.finish().ok(), other.finish().ok());
    let waited = [&one, &other].map(|done| done.err().contains("waiting for another copy"));
    assert!(waited != [true, true], "one of them goes first");
    let script = "git status --short; git fsck --full >&2; wc -c < large";
    assert_eq!(guest(w, "turns", script), format!("{}\n", LARGE / 4));
    assert_eq!(w.vm("turns")["workspace"]["complete"], true);
    w.banger(["vm", "delete", "turns"]).ok();
    no_scratch(w);
}

fn disk_full(w: &World) {
    let host = HostRepository::small(w, "repo");
    let words = [
        "vm",
        "run",
        path(&host),
        "-d",
        "--name",
        "full",
        "--disk-size",
        "64M",
    ];
    w.banger(words).ok();
    guest(w, "full", "echo work > work");
    let record = w.vm("full")["workspace"].clone();
    host.write("large", &noise(LARGE));
    host.commit("large");
    let words = ["vm", "workspace", "prepare", "full", path(&host)];
    let done = w.banger(words).expect_code(1);
    assert!(done.err().contains("No space left"), "{}", done.err());
    assert!(done.err().contains("hint: "), "{}", done.err());
    assert_eq!(
        guest(w, "full", "cat work; git log --format=%s"),
        "work\nsecond\n"
    );
    assert_eq!(
        w.vm("full")["workspace"],
        record,
        "the old copy is the one there is"
    );
    // Nothing half-done takes the room.
    guest(
        w,
        "full",
        "dd if=/dev/zero of=/root/fill bs=1M count=20 2>&1; rm /root/fill",
    );
    w.banger(["vm", "delete", "full"]).ok();
    no_scratch(w);
}

fn given_up(w: &World) {
    let host = HostRepository::small(w, "repo");
    w.banger(["vm", "run", path(&host), "-d", "--name", "torn"])
        .ok();
    host.write("large", &noise(LARGE));
    host.commit("large");
    let prepare = || {
        let mut copy = w.start(["vm", "workspace", "prepare", "torn", path(&host)]);
        copy.wait_for_stderr("copying ");
        copy
    };
    let gave_up = |copy: Running, why: &[&str]| {
        let begun = Instant::now();
        let done = copy.finish().expect_code(1);
        let took = begun.elapsed();
        assert!(took < prompt(), "it went on for {took:?}");
        let err = done.err();
        assert!(why.iter().any(|why| err.contains(why)), "{err}");
        assert!(err.contains("while the repository was copied"), "{err}");
        no_scratch(w);
    };

    // By Ctrl-C.
    let done = prepare().interrupt().finish().expect_code(130);
    assert!(done.err().contains("as it was"), "{}", done.err());
    assert_eq!(guest(w, "torn", "ls"), "a.txt\nsrc\n");
    assert_eq!(w.vm("torn")["workspace"]["complete"], true);
    no_scratch(w);

    // By a stop, which does not wait for it: this copy does not go on until the stop is done.
    let copy = prepare();
    copy.signal(Signal::STOP);
    w.banger(["vm", "list"]).ok();
    w.banger(["vm", "stop", "torn"]).ok();
    copy.signal(Signal::CONT);
    gave_up(copy, &["`torn` is stopped now"]);
    w.banger(["vm", "start", "torn"]).ok();
    assert_eq!(guest(w, "torn", "ls"), "a.txt\nsrc\n");

    // By a deletion, while it goes on.
    let copy = prepare();
    w.banger(["vm", "delete", "torn"]).ok();
    gave_up(copy, &["`torn` was deleted", "`torn` is being deleted"]);
}

/// Nothing of what was made on the way is left on the host.
fn no_scratch(w: &World) {
    let left: Vec<_> = fs::read_dir(w.state().join("scratch"))
        .expect("list the scratch directory")
        .map(|entry| entry.expect("entry").path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
