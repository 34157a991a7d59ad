//! Workspaces: a repository into a guest, and its changes out, beside tar and git.
//!
//! The floor of a copy is `tar c | banger vm exec -- tar x`: the same connection, the same guest,
//! and the same bytes, `.git` included, since a copy is a repository too. The floor of an export is
//! `git diff` of the same changes by the guest's own git, run through `vm exec` as well, so that
//! both come out through a process here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::stats::{Row, Series};
use crate::subject::Subject;

/// How many small files, of how many bytes.
const SMALL: (usize, usize) = (20_000, 1024);
/// The size of the files of the large tree, in bytes.
const LARGE_FILE: usize = 16 << 20;
/// How many files are changed for an export.
const CHANGED: usize = 10;

/// Every measurement of this module. `mib` is the size of the large tree.
pub(crate) fn measure(subject: &Subject, times: usize, mib: usize) -> Vec<Row> {
    let large = tree(subject, "large", (mib << 20) / LARGE_FILE, LARGE_FILE);
    let small = tree(subject, "small", SMALL.0, SMALL.1);
    let mut rows = vec![
        copies(subject, &large, &format!("prepare of {mib} MiB"), times),
        copies(subject, &small, "prepare of 20,000 small files", times),
    ];
    // One takes a second or two, so there can be more of them.
    rows.push(exports(subject, &small, times * 3));
    fs::remove_dir_all(large).expect("remove the large tree");
    fs::remove_dir_all(small).expect("remove the small tree");
    rows
}

/// A repository with so many files of this size, all different, in one pack as a clone has them.
fn tree(subject: &Subject, name: &str, count: usize, size: usize) -> PathBuf {
    let top = subject.ground().join(name);
    if top.exists() {
        fs::remove_dir_all(&top).expect("remove an earlier tree");
    }
    let mut state = 1u64;
    for number in 0..count {
        let directory = top.join(format!("d{}", number / 200));
        fs::create_dir_all(&directory).expect("make a directory");
        let words = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            format!("{:015x}\n", state >> 4)
        });
        let content: String = words.take(size / 16).collect();
        fs::write(directory.join(format!("f{number}.txt")), content).expect("write a file");
    }
    for words in [
        &["init", "-q"][..],
        &["add", "-A"],
        &["commit", "-q", "-m", "all"],
        &["repack", "-adq", "--window=0"],
    ] {
        git(&top, words);
    }
    top
}

fn git(top: &Path, words: &[&str]) {
    let done = Command::new("git")
        .current_dir(top)
        .args(["-c", "user.name=Bench", "-c", "user.email=bench@localhost"])
        .args(["-c", "gc.auto=0"])
        .args(words)
        .status()
        .expect("run git");
    assert!(done.success(), "git {words:?}");
}

fn seconds(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// Copies of the same tree by banger and by tar, each to a place of its own that is emptied before.
fn copies(subject: &Subject, top: &Path, what: &str, times: usize) -> Row {
    eprintln!("{what}, and by tar ({times} each)");
    subject.start("bench");
    subject.banger(&["vm", "exec", "bench", "-w", "/", "--", "sh", "-c", SETTLED]);
    let text = top.to_str().expect("a path of ours");
    let (mut prepare, mut tar) = (Series::default(), Series::default());
    for _ in 0..times {
        let clear = "rm -rf /root/repo /root/tar; mkdir /root/tar; sync";
        subject.banger(&["vm", "exec", "bench", "-w", "/", "--", "sh", "-c", clear]);
        tar.push(seconds(|| by_tar(subject, top)));
        prepare.push(seconds(|| {
            let words = ["vm", "workspace", "prepare", "bench", text, "--discard"];
            subject.banger(&words);
        }));
    }
    let row = Row::ratio(
        what,
        "tar c, vm exec -- tar x, with .git",
        "s",
        &prepare,
        &tar,
        1.0 / 0.7,
    );
    subject.banger(&["vm", "delete", "bench"]);
    row
}

/// Waits until the guest's own boot is over, so that it disturbs nobody.
const SETTLED: &str = "systemctl is-system-running --wait || true";

fn by_tar(subject: &Subject, top: &Path) {
    let mut from = Command::new("tar")
        .current_dir(top)
        .args(["-c", "-f", "-", "."])
        .stdout(Stdio::piped())
        .spawn()
        .expect("run tar");
    let archive = from.stdout.take().expect("piped");
    let done = subject
        .command(&["vm", "exec", "bench", "--", "tar", "-x", "-C", "/root/tar"])
        .stdin(archive)
        .status()
        .expect("run banger");
    assert!(done.success() && from.wait().expect("wait").success());
}

/// The changes of a few files among many, by banger and by the guest's git.
fn exports(subject: &Subject, top: &Path, times: usize) -> Row {
    eprintln!("export of {CHANGED} files in 20,000, and git diff in the guest ({times} each)");
    subject.start("bench");
    subject.banger(&["vm", "exec", "bench", "-w", "/", "--", "sh", "-c", SETTLED]);
    let text = top.to_str().expect("a path of ours");
    subject.banger(&["vm", "workspace", "prepare", "bench", text]);
    // With what git knows of the files brought up to date, as after a first look by anybody.
    let edit = format!(
        "for n in $(seq {CHANGED}); do echo edit >> d$n/f$((n * 200)).txt; done; git status -s"
    );
    subject.banger(&["vm", "exec", "bench", "--", "sh", "-c", &edit]);
    let (mut export, mut diff) = (Series::default(), Series::default());
    for _ in 0..times {
        diff.push(seconds(|| {
            let words = [
                "vm", "exec", "bench", "--", "git", "diff", "--binary", "HEAD",
            ];
            assert!(!subject.banger(&words).is_empty());
        }));
        export.push(seconds(|| {
            assert!(
                !subject
                    .banger(&["vm", "workspace", "export", "bench"])
                    .is_empty()
            );
        }));
    }
    subject.banger(&["vm", "delete", "bench"]);
    Row::ratio(
        "export of 10 files in 20,000",
        "git diff in the guest",
        "s",
        &export,
        &diff,
        2.0,
    )
}
