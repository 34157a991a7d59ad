//! A repository in, and the guest's edits out.

use banger_tests::World;
use banger_tests::repository::HostRepository;

use banger_tests::scenario::{Scenario, pure};

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "workspace-include-untracked",
        "files git does not know come along when asked, ignored ones never",
        untracked,
    )
    .with_plain_guests(),
    pure(
        "workspace-full-copy",
        "a full copy has the whole history, and one without files none of them",
        modes,
    )
    .with_plain_guests(),
    pure(
        "workspace-restart",
        "a workspace and its edits outlive a restart",
        restart,
    )
    .with_plain_guests(),
    pure(
        "workspace-run",
        "a repository is in the guest before the command",
        run,
    ),
    pure(
        "workspace-dryrun",
        "a dry run lists what would be copied, without a daemon",
        dry_run,
    ),
    pure(
        "workspace-export",
        "an export applied to a clean checkout gives the guest's tree",
        round_trip,
    )
    .with_plain_guests()
    .also(&["workspace-export-base-commit"]),
    pure(
        "vm-exec-drift",
        "exec says when the repository has moved on, and copies it again",
        drift,
    )
    .with_plain_guests(),
    pure(
        "workspace-refusals",
        "what cannot be copied is refused before anything is made",
        refusals,
    ),
];

/// Edits of every kind, as a person in the guest makes them.
const EDIT: &str = r#"
set -e
git config user.name Guest; git config user.email guest@localhost
printf 'committed\n' > committed; git add committed; git commit -qm 'in the guest'
printf 'one\nguest\n' > a.txt
printf '\0guest\377' > binary
printf 'three\r\n' >> crlf.txt
rm to-be-deleted; mkdir -p deep/er; mv to-be-moved deep/er/moved
chmod -x run.sh; chmod +x no-newline; rm link; ln -s a.txt link
printf 'n' > "new $(printf 'n\nl') \"q\""
printf 'l' > "$(printf 'latin-\350')"
: > empty-too; printf 'dash' > -- -dash
printf 'x' > ignored; printf 'staged' > staged; git add staged
"#;
/// The tree of all files in the guest, made beside its own index.
const TREE: &str = r#"cd /root/repo
GIT_INDEX_FILE=/tmp/index git add -A && GIT_INDEX_FILE=/tmp/index git write-tree; rm /tmp/index"#;
/// What an export must not change.
/// Of git's own directory only the files, as an export works in a place of its own there; of objects
/// not the time, as git touches those that it would write again.
const STATE: &str = r#"cd /root/repo; sha256sum .git/index .git/HEAD; git for-each-ref
find .git -type f ! -path '.git/objects/*' -printf '%p %m %s %T@\n' | sort
find .git/objects -type f -printf '%p %m %s\n' | sort
find . -path ./.git -prune -o -printf '%p %m %s %T@ %l\n' | sort"#;

pub(crate) fn guest(w: &World, name: &str, script: &str) -> String {
    w.banger(["vm", "exec", "-q", name, "--", "sh", "-c", script])
        .ok()
        .out()
}

pub(crate) fn path<'a>(repository: &'a HostRepository) -> &'a str {
    repository.path().to_str().expect("a path of ours")
}

fn run(w: &World) {
    let host = HostRepository::small(w, "repo");
    host.write("a.txt", b"edited\n");
    host.write("untracked", b"u\n");
    let before = host.fingerprint();
    let mut command = w.banger_command(["vm", "run", ".", "--rm", "--", "sh", "-c"]);
    command.arg("pwd; cat a.txt; ls; git log --format=%s; exit 7");
    command.current_dir(host.path());
    let done = banger_tests::Running::start(command, None)
        .finish()
        .expect_code(7);
    assert_eq!(done.out(), "/root/repo\nedited\na.txt\nsrc\nsecond\n");
    let err = done.err();
    assert_eq!(
        err.matches("1 untracked file is left out").count(),
        1,
        "{err}"
    );
    assert!(err.find("copied ") < err.find("ready in "), "{err}");
    assert_eq!(host.fingerprint(), before);

    let words = [
        "vm",
        "run",
        path(&host),
        "-d",
        "--name",
        "kept",
        "--guest-path",
        "/root/w",
    ];
    let more = ["--include-untracked", "--branch", "try", "--from", "HEAD~1"];
    let done = w.banger(words.into_iter().chain(more)).ok();
    assert_eq!(done.out(), "kept\n");
    assert_eq!(
        guest(
            w,
            "kept",
            "pwd; cat a.txt; git branch --show-current; git status --short"
        ),
        "/root/w\none\ntry\n"
    );
    assert_eq!(guest(w, "kept", "cd /; pwd"), "/\n");
    let done = w
        .banger(["vm", "exec", "-w", "/tmp", "kept", "--", "pwd"])
        .ok();
    assert_eq!(done.out(), "/tmp\n");
    w.banger(["vm", "delete", "kept"]).ok();
    assert_eq!(host.fingerprint(), before);
}

fn untracked(w: &World) {
    let host = HostRepository::small(w, "repo");
    host.write("untracked", b"u\n");
    host.write("ignored", b"i\n");
    let words = ["vm", "run", path(&host), "--rm", "--include-untracked"];
    let list = [
        "--",
        "sh",
        "-c",
        "cat untracked; test ! -e ignored; git status --short",
    ];
    let done = w.banger(words.iter().chain(&list)).ok();
    assert_eq!(done.out(), "u\n?? untracked\n");
}

fn restart(w: &World) {
    let host = HostRepository::small(w, "repo");
    let before = host.fingerprint();
    w.banger(["vm", "run", path(&host), "-d", "--name", "again"])
        .ok();
    guest(w, "again", "echo guest >> a.txt");
    w.banger(["vm", "restart", "again"]).ok();
    assert_eq!(
        guest(w, "again", "pwd; cat a.txt"),
        "/root/repo\none\ntwo\nguest\n"
    );
    let patch = w.banger(["vm", "workspace", "export", "again"]).ok();
    assert!(patch.out().contains("\n+guest\n"), "{}", patch.out());
    w.banger(["vm", "delete", "again"]).ok();
    // The work was exported, so nothing had to be saved.
    assert_eq!(host.fingerprint(), before);
}

fn dry_run(w: &World) {
    let host = HostRepository::motley(w, "repo");
    let before = host.fingerprint();
    let done = w.banger(["vm", "run", path(&host), "--dry-run"]).ok();
    let out = done.out();
    for name in ["a.txt", "src/lib.rs", "new\\nline", "-dash", "intended"] {
        assert!(
            out.lines().any(|line| line.ends_with(name)),
            "{name}: {out}"
        );
    }
    for name in ["untracked", "ignored", "staged-not-written"] {
        assert!(
            !out.lines().any(|line| line.ends_with(name)),
            "{name}: {out}"
        );
    }
    let words = [
        "vm",
        "workspace",
        "prepare",
        "none",
        path(&host),
        "--dry-run",
    ];
    let list = w
        .banger(
            words
                .into_iter()
                .chain(["--include-untracked", "--output", "json"]),
        )
        .ok()
        .json();
    let files = list["files"].as_array().expect("a list");
    let file = |name: &str| files.iter().find(|file| file["path"] == name);
    assert_eq!(file("run.sh").expect("there")["kind"], "executable");
    assert_eq!(file("link").expect("there")["kind"], "symlink");
    assert_eq!(file("empty").expect("there")["size"], 0);
    assert_eq!(
        file("latin-\u{fffd}").expect("there")["path_hex"],
        "6c6174696e2de9"
    );
    assert!(file("untracked").is_some() && file("ignored").is_none());
    let bytes: u64 = files.iter().filter_map(|file| file["size"].as_u64()).sum();
    assert_eq!(list["bytes"], bytes);
    assert_eq!(host.fingerprint(), before);
    assert!(!w.runtime().exists(), "neither a daemon nor a VM is needed");
}

fn round_trip(w: &World) {
    let host = HostRepository::motley(w, "repo");
    let base = host.git("rev-parse HEAD");
    let before = host.fingerprint();
    w.banger(["vm", "run", path(&host), "-d", "--name", "trip"])
        .ok();
    assert_eq!(
        guest(w, "trip", "git status --short"),
        host.git("status --short")
            .lines()
            .filter(|line| !line.ends_with("untracked"))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    );
    guest(w, "trip", EDIT);
    let tree = guest(w, "trip", TREE);
    let state = guest(w, "trip", STATE);
    let export = |more: &[&str]| {
        let words = ["vm", "workspace", "export", "trip"];
        w.banger(words.iter().chain(more)).ok()
    };
    let patch = export(&[]);
    assert_eq!(guest(w, "trip", STATE), state, "an export changes nothing");
    let apply = ["apply", "--index", "-"];
    let clean = host.checkout(&base, "clean");
    clean.git_with(&apply, Some(patch.stdout.clone())).ok();
    assert_eq!(clean.git("write-tree"), tree.trim());

    // What the guest committed is not in a patch against its own commit.
    let head = guest(w, "trip", "git rev-parse HEAD");
    let done = export(&["--base-commit", head.trim()]).out();
    assert!(
        !done.contains("committed") && done.contains("+guest"),
        "{done}"
    );
    let done = w
        .banger([
            "vm",
            "workspace",
            "export",
            "trip",
            "--base-commit",
            &"0".repeat(40),
        ])
        .expect_code(1);
    assert!(done.err().contains("no commit"), "{}", done.err());

    // The same by the host, for a guest that has no git.
    guest(w, "trip", "mv /usr/bin/git /usr/bin/no-git");
    let without = export(&[]);
    let clean = host.checkout(&base, "clean-2");
    clean.git_with(&apply, Some(without.stdout)).ok();
    assert_eq!(clean.git("write-tree"), tree.trim());
    guest(w, "trip", "mv /usr/bin/no-git /usr/bin/git");
    assert_eq!(guest(w, "trip", STATE), state);
    assert_eq!(host.fingerprint(), before);
    w.banger(["vm", "delete", "trip"]).ok();
}

fn modes(w: &World) {
    let host = HostRepository::small(w, "repo");
    host.git("branch other HEAD~1");
    host.write("a.txt", b"edited\n");
    let before = host.fingerprint();
    w.banger(["vm", "run", "-d", "--name", "modes"]).ok();
    let prepare = |mode: &str| {
        let words = ["vm", "workspace", "prepare", "modes", path(&host)];
        let more = ["--mode", mode, "--discard"];
        w.banger(words.into_iter().chain(more)).ok();
        guest(
            w,
            "modes",
            "git log --format=%s; git branch --format='%(refname:short)'; ls; git status --short; \
             git fsck --strict; echo new > new",
        )
    };
    let export = |expected: &[&str]| {
        let done = w.banger(["vm", "workspace", "export", "modes"]).ok();
        for line in expected {
            assert!(done.out().contains(line), "{line}: {}", done.out());
        }
        done.out()
    };
    let history = "second\nfirst\nmain\nother\n";
    assert_eq!(
        prepare("full_copy"),
        format!("{history}a.txt\nsrc\n M a.txt\n")
    );
    export(&["+edited", "+new"]);
    // Files that were never there are not deleted ones.
    assert_eq!(prepare("metadata_only"), history);
    let patch = export(&["+new"]);
    assert!(!patch.contains("a.txt"), "{patch}");
    assert_eq!(host.fingerprint(), before);
    w.banger(["vm", "delete", "--discard", "modes"]).ok();
}

fn drift(w: &World) {
    let host = HostRepository::small(w, "repo");
    w.banger(["vm", "run", path(&host), "-d", "--name", "drift"])
        .ok();
    let exec = |more: &[&str]| {
        let words = ["vm", "exec", "drift"].iter();
        w.banger(words.chain(more).chain(&["--", "cat", "a.txt"]))
            .ok()
    };
    assert_eq!(exec(&[]).err(), "");
    host.write("a.txt", b"moved on\n");
    let before = host.fingerprint();
    let done = exec(&[]);
    assert_eq!(done.out(), "one\ntwo\n");
    assert!(
        done.err().contains("has changed since it was copied"),
        "{}",
        done.err()
    );
    let side = "git checkout -q -b side; echo side > side; git add side; \
                git -c user.name=t -c user.email=t@t commit -q -m side; git checkout -q main";
    guest(w, "drift", side);
    guest(w, "drift", "echo work > work; printf x >> a.txt");
    assert_eq!(host.fingerprint(), before);

    // Copied again; what was done in the guest is kept first.
    let done = exec(&["--auto-prepare"]);
    assert_eq!(done.out(), "moved on\n");
    let saved = host.git("for-each-ref --format=%(refname) refs/banger/drift");
    assert!(
        done.err().contains(&saved) && !saved.is_empty(),
        "{}",
        done.err()
    );
    assert_eq!(host.git(&format!("show {saved}:work")), "work");
    let err = done.err();
    let bundle = err.lines().find_map(|line| line.split_once("are now in `"));
    let (_, bundle) = bundle.expect("commits on another branch are kept, too");
    let bundle = bundle.trim_end_matches('`');
    assert!(
        host.git(&format!("bundle list-heads {bundle}"))
            .ends_with(" refs/heads/side")
    );
    assert_eq!(exec(&["--auto-prepare"]).err(), "");
    let err = exec(&[]).err();
    assert_eq!(err, "", "nothing has changed since");

    // What was exported, and what may be lost, is not kept.
    guest(w, "drift", "echo more > more");
    w.banger(["vm", "workspace", "export", "drift"]).ok();
    w.banger(["vm", "workspace", "prepare", "drift", path(&host)])
        .ok();
    guest(w, "drift", "test ! -e more; echo more > more");
    w.banger([
        "vm",
        "workspace",
        "prepare",
        "drift",
        path(&host),
        "--discard",
    ])
    .ok();
    let refs = host.git("for-each-ref --format=%(refname) refs/banger");
    assert_eq!(refs, saved);

    // Not without asking over something else of the guest's.
    guest(w, "drift", "mkdir /root/other; touch /root/other/x");
    let words = [
        "vm",
        "workspace",
        "prepare",
        "drift",
        path(&host),
        "--guest-path",
        "/root/other",
    ];
    let done = w.banger(words).expect_code(1);
    assert!(
        done.err().contains("that is no workspace"),
        "{}",
        done.err()
    );
    guest(w, "drift", "test -e /root/other/x");

    // A repository that is gone is a warning, and an error only where it is needed.
    std::fs::rename(host.path(), w.root().join("gone")).expect("move the repository");
    let done = exec(&[]);
    assert!(done.err().contains("is not known"), "{}", done.err());
    let words = ["vm", "exec", "--auto-prepare", "drift", "--", "true"];
    let done = w.banger(words).expect_code(125);
    assert!(done.err().contains("does not exist"), "{}", done.err());
    w.banger(["vm", "delete", "drift"]).ok();
}

fn refusals(w: &World) {
    let host = HostRepository::small(w, "repo");
    let top = path(&host);
    let empty = HostRepository::empty(w, "empty");
    empty.git_words(&[
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "add",
        "-q",
        top,
        "sub",
    ]);
    host.git_words(&["clone", "-q", "--bare", ".", "../bare"]);
    let before = host.fingerprint();
    let refused = |words: &[&str], code: i32, expected: &str| {
        let done = w
            .banger(["vm", "run"].iter().chain(words))
            .expect_code(code);
        let err = done.err();
        assert!(
            err.contains(expected) && err.contains("hint: "),
            "{words:?}: {err}"
        );
    };
    refused(&["absent"], 125, "banger vm run -- absent");
    refused(&["ls", "src"], 2, "banger vm run -- ls");
    // A world may lie in a repository, that of the project; this does not.
    refused(&["/usr", "--", "true"], 125, "is not a git repository");
    refused(&["bare", "--", "true"], 125, "is a bare repository");
    refused(&["repo/src", "--", "true"], 125, "is inside the repository");
    refused(&["empty", "--", "true"], 125, "has submodules");
    refused(&[top, "--branch", "main"], 125, "the branch `main` exists");
    refused(
        &[top, "--branch", "x", "--from", "nope"],
        125,
        "there is no commit `nope`",
    );
    refused(&[top, "--from", "HEAD"], 2, "--from");
    refused(&[top, "--guest-path", "/etc/repo"], 2, "not below");
    refused(&["--include-untracked", "--", "true"], 2, "none is given");
    assert_eq!(w.vms(), []);

    // Nothing is copied into a machine that does not run, and nothing taken for copied.
    w.banger(["vm", "create", "--no-start", "--name", "rest"])
        .ok();
    let prepare = ["vm", "workspace", "prepare", "rest", top];
    let done = w.banger(prepare).expect_code(1);
    assert!(done.err().contains("not running"), "{}", done.err());
    let done = w
        .banger(["vm", "workspace", "export", "rest"])
        .expect_code(1);
    assert!(
        done.err().contains("no repository was copied"),
        "{}",
        done.err()
    );
    assert_eq!(done.out(), "");
    let done = w
        .banger(["vm", "exec", "--auto-prepare", "rest", "--", "true"])
        .expect_code(125);
    assert!(done.err().contains("not running"), "{}", done.err());
    assert!(w.vm("rest").get("workspace").is_none());
    assert_eq!(host.fingerprint(), before);
    w.banger(["vm", "delete", "rest"]).ok();
}
