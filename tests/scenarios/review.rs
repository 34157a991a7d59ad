//! The end of `vm run PATH`: what becomes of the guest's changes.

use std::fs;
use std::path::PathBuf;

use banger_tests::pty::Terminal;
use banger_tests::repository::HostRepository;
use banger_tests::{World, eventually, seconds};

use crate::workspace::path;
use banger_tests::scenario::{Scenario, pure};

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "review-view-and-keep",
        "changes are shown, and kept by default",
        keep,
    )
    .with_plain_guests(),
    pure(
        "review-applied",
        "changes are applied all or not at all",
        apply,
    ),
    pure(
        "review-apply-refused",
        "changes that do not fit are kept",
        refused,
    )
    .with_plain_guests(),
    pure(
        "review-discard",
        "changes are thrown away when that is asked for",
        discard,
    )
    .with_plain_guests(),
    pure(
        "review-answered-ahead",
        "the answer can be given with the command",
        ahead,
    )
    .with_plain_guests(),
    pure(
        "review-nobody-answers",
        "without an answer the changes are kept, and nothing is lost",
        nobody,
    )
    .with_plain_guests(),
];

const QUESTION: &str = "[d]iscard? [k] ";

/// An interactive machine with the repository in it, and an edit.
fn edited(w: &World, host: &HostRepository, more: &[&str]) -> Terminal {
    let words = ["vm", "run", path(host), "--name", "box"];
    let mut command = w.banger_command(words.iter().chain(more));
    command.env("PAGER", "sed 's/^/page /'");
    let mut t = Terminal::start(command);
    t.expect("root@box:~/repo");
    // Nothing that is typed ahead answers the question.
    t.type_text("printf 'one\\ntwo\\nth\\033[2Jree\\n' > a.txt; exit 3\rd\r");
    t
}

/// The patch files in the directory where commands are started.
fn patches(w: &World) -> Vec<PathBuf> {
    let entries = fs::read_dir(w.root()).expect("list the world");
    let paths = entries.map(|entry| entry.expect("entry").path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "patch"))
        .collect()
}

fn keep(w: &World) {
    let host = HostRepository::small(w, "repo");
    let before = host.fingerprint();
    let mut t = edited(w, &host, &["--rm"]);
    t.expect("1 file changed in `box`, +1 -0");
    t.expect("a.txt");
    t.expect(QUESTION);
    t.type_text("v\r");
    let viewed = t.expect("page ");
    assert!(!viewed.contains("banger:"), "{viewed}");
    let viewed = t.expect(QUESTION);
    assert!(
        viewed.contains("three") && !viewed.contains("\x1b[2J"),
        "{viewed:?}"
    );
    t.type_text("what?\r");
    t.expect(QUESTION);
    t.type_text("\r");
    t.expect("to apply them: git -C ");
    let (code, screen) = t.finish();
    assert_eq!(code, 3, "{screen}");
    assert_eq!(host.fingerprint(), before, "nothing is saved twice");
    let patches = patches(w);
    assert_eq!(patches.len(), 1, "{patches:?}");
    let patch = fs::read(&patches[0]).expect("read the patch");
    host.git_with(&["apply", "-"], Some(patch)).ok();
    assert_eq!(host.read("a.txt"), b"one\ntwo\nth\x1b[2Jree\n");
}

fn apply(w: &World) {
    let host = HostRepository::small(w, "repo");
    let index = host.read(".git/index");
    let mut t = edited(w, &host, &["--rm"]);
    t.expect(QUESTION);
    t.type_text("a\r");
    t.expect("nothing is staged");
    let (code, screen) = t.finish();
    assert_eq!(code, 3, "{screen}");
    assert_eq!(host.read("a.txt"), b"one\ntwo\nth\x1b[2Jree\n");
    assert_eq!(host.read(".git/index"), index);
    assert_eq!(host.git("for-each-ref refs/banger"), "");
    assert_eq!(patches(w), Vec::<PathBuf>::new());
}

fn refused(w: &World) {
    let host = HostRepository::small(w, "repo");
    let mut t = edited(w, &host, &["--rm"]);
    t.expect(QUESTION);
    host.write("src/lib.rs", b"moved\n");
    let before = host.fingerprint();
    t.type_text("a\r");
    t.expect("has changed since it was copied");
    t.expect("to apply them: git -C ");
    let (code, screen) = t.finish();
    assert_eq!(code, 3, "{screen}");
    assert_eq!(host.fingerprint(), before);
    assert_eq!(patches(w).len(), 1);
}

fn discard(w: &World) {
    let host = HostRepository::small(w, "repo");
    let before = host.fingerprint();
    let mut t = edited(w, &host, &["--rm"]);
    t.expect(QUESTION);
    t.type_text("d\r");
    t.expect("are not kept");
    let (code, screen) = t.finish();
    assert_eq!(code, 3, "{screen}");
    assert_eq!(host.fingerprint(), before);
    assert_eq!(patches(w), Vec::<PathBuf>::new());

    // Nothing is asked where nothing was changed.
    let words = ["vm", "run", path(&host), "--rm", "--", "true"];
    let (code, screen) = Terminal::start(w.banger_command(words)).finish();
    assert_eq!(code, 0, "{screen}");
    assert!(!screen.contains("[d]iscard"), "{screen}");
}

fn ahead(w: &World) {
    let host = HostRepository::small(w, "repo");
    let edit = ["--", "sh", "-c", "echo three >> a.txt"];
    let run = |more: &[&str]| {
        let words = ["vm", "run", path(&host), "--rm"];
        w.banger(words.iter().chain(more).chain(&edit)).ok()
    };
    let done = run(&["--on-exit", "keep"]);
    assert!(done.err().contains("to apply them: "), "{}", done.err());
    assert_eq!(patches(w).len(), 1);
    assert_eq!(host.read("a.txt"), b"one\ntwo\n");
    run(&["--on-exit", "apply"]);
    assert_eq!(host.read("a.txt"), b"one\ntwo\nthree\n");
    run(&["--on-exit", "discard"]);
    assert_eq!(host.git("for-each-ref refs/banger"), "");
    let words = ["vm", "run", path(&host), "--on-exit", "ask", "--", "true"];
    let done = w.banger(words).expect_code(2);
    assert!(done.err().contains("no terminal"), "{}", done.err());

    // Without a terminal and an answer nothing is asked, and the work stays where it is.
    let words = ["vm", "run", path(&host), "--name", "stays"];
    let done = w.banger(words.iter().chain(&edit)).ok();
    assert!(!done.err().contains("[d]iscard"), "{}", done.err());
    let done = w.banger(["vm", "workspace", "export", "stays"]).ok();
    assert!(done.out().contains("+three"), "{}", done.out());
    w.banger(["vm", "delete", "stays"]).ok();
}

fn nobody(w: &World) {
    let host = HostRepository::small(w, "repo");
    let before = host.fingerprint();
    // Ctrl-C, and the end of the input.
    for (number, key) in ["\x03", "\x04"].into_iter().enumerate() {
        let mut t = edited(w, &host, &["--rm"]);
        t.expect(QUESTION);
        t.type_text(key);
        t.expect("to apply them: git -C ");
        let (code, screen) = t.finish();
        assert_eq!(code, 3, "{screen}");
        assert_eq!(patches(w).len(), number + 1, "{key:?}");
        assert_eq!(host.fingerprint(), before, "nothing is saved twice");
    }
    // A window that is closed is the end of the input and a signal at once: whichever is seen
    // first, the work is in a patch or where a deletion saves it.
    let mut t = edited(w, &host, &["--rm"]);
    t.expect(QUESTION);
    let code = t.close();
    assert!([3, 129].contains(&code), "{code}");
    eventually(seconds(120), "it is gone", || w.vms().is_empty());
    match host.saved().first() {
        Some(saved) => {
            let saved = host.git(&format!("show {saved}:a.txt"));
            assert!(saved.ends_with("ree"), "{saved:?}");
        }
        None => assert_eq!(patches(w).len(), 3),
    }
}
