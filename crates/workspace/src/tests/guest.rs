//! What was done in a guest comes out of it.

use super::*;

#[test]
fn skipped_and_assumed_files_count_in_exports() {
    let pair = Pair::filled();
    git(&pair.host(), "update-index --assume-unchanged README");
    git(&pair.host(), "update-index --skip-worktree empty");
    pair.write("README", b"local\n");
    pair.write("empty", b"local too\n");
    round_trip(&pair);
    put(&pair.guest().join("README"), b"work\n");
    let patch = pair.export(Base::Prepared);
    assert!(String::from_utf8_lossy(&patch).contains("+work"));
}

#[test]
fn filtered_files_come_as_they_are_and_stay_unchanged() {
    let pair = Pair::empty();
    git(&pair.host(), "config filter.lfs.clean true");
    let host = pair.host();
    let configure = |name: &str, value: &str| {
        let ended = git_in(&host)
            .args(["config", name, value])
            .status()
            .unwrap();
        assert!(ended.success());
    };
    configure("filter.lfs.clean", "printf 'pointer '; tr -d '\\n' | wc -c");
    configure("filter.lfs.smudge", "touch ../executed; cat");
    configure("filter.lfs.required", "true");
    pair.write(".gitattributes", b"*.big filter=lfs\n");
    pair.write("a.big", b"large content\n");
    // Not in the second of the index, or git would look into it.
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(100);
    let file = fs::File::options().write(true).open(host.join("a.big"));
    file.unwrap().set_modified(long_ago).unwrap();
    pair.fill();
    // A filter that tells when it runs.
    configure("filter.lfs.clean", "touch ../executed; cat");
    let (plan, summary) = pair.prepare(&Options::default());
    assert!(!pair.at("executed").exists());
    assert_eq!(
        fs::read(pair.guest().join("a.big")).unwrap(),
        b"large content\n"
    );
    put(&pair.guest().join("a.big"), b"large content\n");
    assert_eq!(text(&pair.guest(), "status --porcelain"), "");
    assert!(pair.export(Base::Recorded).is_empty());
    let mut patch = Vec::new();
    let base = summary.base.unwrap();
    export_from_tree(
        &plan,
        TreeBase::Commit(&base),
        &pair.guest(),
        &pair.at("temporary"),
        &mut patch,
    )
    .unwrap();
    assert_eq!(String::from_utf8_lossy(&patch), "");
    put(&pair.guest().join("a.big"), b"edited\n");
    assert!(String::from_utf8_lossy(&pair.export(Base::Recorded)).contains("+edited"));
    assert!(!pair.at("executed").exists());
}

#[test]
fn commits_in_the_guest_are_exported() {
    let pair = Pair::filled();
    pair.prepare(&Options::default());
    put(&pair.guest().join("README"), b"committed\n");
    git(&pair.guest(), "commit -qam work");
    put(&pair.guest().join("new/file"), b"not committed\n");
    put(&pair.guest().join("x.o"), b"ignored\n");
    let base = text(&pair.host(), "rev-parse HEAD");
    for recorded in [Base::Recorded, Base::Commit(base.clone()), Base::Prepared] {
        let patch = pair.export(recorded);
        assert_eq!(pair.applied(Some(&base), &patch), files(&pair.guest()));
    }
    let patch = String::from_utf8(pair.export(Base::Head)).unwrap();
    assert!(
        patch.contains("new/file") && !patch.contains("README"),
        "{patch}"
    );
    let names = Export {
        output: Output::Names,
        thorough: true,
        ..Export::default()
    };
    assert_eq!(pair.try_export(&names).stdout, b"M\0README\0A\0new/file\0");
}

#[test]
fn a_hostile_guest_configuration_changes_nothing() {
    let pair = Pair::filled();
    pair.prepare(&Options::default());
    put(&pair.guest().join("dir/a.txt"), b"work\n");
    let plain = pair.export(Base::Recorded);
    for (name, value) in [
        ("diff.external", "false"),
        ("diff.noprefix", "true"),
        ("color.ui", "always"),
        ("core.pager", "false"),
        ("diff.mnemonicPrefix", "true"),
        ("diff.evil.textconv", "false"),
        ("diff.evil.command", "false"),
        ("core.fsmonitor", "false"),
        ("diff.context", "0"),
        ("core.quotePath", "false"),
        ("diff.relative", "true"),
        ("diff.ignoreSubmodules", "all"),
        ("diff.suppressBlankEmpty", "true"),
        ("core.abbrev", "4"),
        ("diff.algorithm", "patience"),
        ("diff.interHunkContext", "50"),
        ("diff.orderFile", "/dev/null"),
        ("alias.diff-index", "!false"),
        ("add.ignoreErrors", "true"),
    ] {
        let status = git_in(&pair.guest())
            .args(["config", name, value])
            .status()
            .unwrap();
        assert!(status.success());
    }
    put(&pair.guest().join(".git/info/attributes"), b"* diff=evil\n");
    assert_eq!(
        String::from_utf8_lossy(&pair.export(Base::Recorded)),
        String::from_utf8_lossy(&plain)
    );
}

#[test]
fn conflicts_and_nested_repositories_in_the_guest() {
    let pair = Pair::filled();
    pair.prepare(&Options::default());
    let guest = pair.guest();
    git(&guest, "checkout -qb side");
    put(&guest.join("README"), b"side\n");
    git(&guest, "commit -qam side");
    git(&guest, "checkout -q main");
    put(&guest.join("README"), b"main\n");
    git(&guest, "commit -qam main");
    let merged = git_in(&guest)
        .args(["merge", "-q", "side"])
        .output()
        .unwrap();
    assert!(!merged.status.success());
    git(&guest, "init -q nested");
    put(&guest.join("nested/file"), b"n\n");
    let ended = pair.try_export(&Export::default());
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let patch = String::from_utf8_lossy(&ended.stdout);
    assert!(!patch.contains("Unmerged"), "{patch}");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("nested/"));
    let mut expected = files(&guest);
    expected.retain(|name, _| !name.starts_with(b"nested"));
    assert_eq!(pair.applied(Some("HEAD"), &ended.stdout), expected);
}

#[test]
fn files_seen_through_an_ignored_link_are_gone() {
    let pair = Pair::filled();
    pair.prepare(&Options::default());
    let guest = pair.guest();
    put(
        &guest.join(".gitignore"),
        b"ignored\n*.o\n/dir\n/elsewhere/\n",
    );
    fs::rename(guest.join("dir"), guest.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", guest.join("dir")).unwrap();
    for thorough in [false, true] {
        let names = Export {
            output: Output::Names,
            thorough,
            ..Export::default()
        };
        let said = pair.try_export(&names).stdout;
        assert_eq!(
            String::from_utf8_lossy(&said),
            "M\0.gitignore\0D\0dir/a.txt\0D\0dir/sub/b.bin\0"
        );
    }
}

#[test]
fn exports_that_cannot_be_made_are_explained() {
    let pair = Pair::filled();
    pair.prepare(&Options::default());
    let unknown = Export {
        base: Base::Commit("1".repeat(40)),
        ..Export::default()
    };
    let ended = pair.try_export(&unknown);
    let error = export_failure(ended.status.code().unwrap(), &ended.stderr);
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("has no commit 1111"), "{error:?}");
    let code = || {
        let ended = pair.try_export(&Export::default());
        export_failure(ended.status.code().unwrap(), &ended.stderr).code()
    };
    fs::remove_dir_all(pair.guest().join(".git")).unwrap();
    assert_eq!(code(), Code::Conflict);
    // The one around it is somebody else's.
    git(pair.guest().parent().unwrap(), "init -q");
    assert_eq!(code(), Code::Conflict);
    fs::remove_dir_all(pair.guest()).unwrap();
    let command = crate::export_script(pair.guest().as_os_str(), &Export::default()).unwrap();
    let ended = crate::testing::run(&command);
    let error = export_failure(ended.status.code().unwrap(), &ended.stderr);
    assert_eq!(error.code(), Code::NotFound);
    let bad = Export {
        base: Base::Commit("--all".to_owned()),
        ..Export::default()
    };
    assert!(crate::export_script("/x".as_ref(), &bad).is_err());
    assert_eq!(export_failure(65, b"").code(), Code::CommandNotFound);
}

#[test]
fn whatever_attributes_call_text_comes_back_byte_for_byte() {
    let pair = Pair::filled();
    git(&pair.host(), "config diff.evil.textconv false");
    pair.write(
        ".gitattributes",
        b"*.txt -diff\n*.bin diff\nREADME diff=evil\nempty binary\n",
    );
    git(&pair.host(), "add -A");
    git(&pair.host(), "commit -qm attributes");
    for case in ["known", "gone", "new", "own"] {
        pair.prepare(&Options::default());
        let guest = pair.guest();
        for (name, content) in [
            ("dir/a.txt", b"a\nwork\n".as_slice()),
            ("dir/sub/b.bin", b"\0\x01\xff\r\n\0work\r\n\0"),
            ("README", b"work\n"),
            ("empty", b"not\nany more\n"),
        ] {
            put(&guest.join(name), content);
        }
        match case {
            "gone" => fs::remove_file(guest.join(".gitattributes")).unwrap(),
            "new" => put(&guest.join("dir/.gitattributes"), b"* -diff\n*.bin -text\n"),
            "own" => put(&guest.join(".git/info/attributes"), b"* diff\n"),
            _ => {}
        }
        for thorough in [false, true] {
            let ended = pair.try_export(&Export {
                thorough,
                ..Export::default()
            });
            let applied = pair.applied(Some("HEAD"), &ended.stdout);
            assert_eq!(applied, files(&guest), "{case}");
        }
    }
}

#[test]
fn a_file_that_was_only_touched_is_not_changed() {
    let pair = Pair::filled();
    pair.prepare(&Options::default());
    let index = pair.guest().join(".git/index");
    let before = fs::read(&index).unwrap();
    let file = fs::File::options()
        .write(true)
        .open(pair.guest().join("dir/a.txt"));
    file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let touched = text(&pair.guest(), "diff-files --name-only");
    assert!(touched.contains("dir/a.txt"), "{touched}");
    assert!(pair.export(Base::Recorded).is_empty());
    assert_eq!(fs::read(&index).unwrap(), before);
}

/// Runs an export with these programs in front of the others.
fn export_with(pair: &Pair, programs: &std::path::Path, shell: &[&str]) -> std::process::Output {
    let mut command = crate::export_script(pair.guest().as_os_str(), &Export::default()).unwrap();
    command.splice(..1, shell.iter().map(Into::into));
    let others = std::env::var_os("PATH").unwrap();
    let mut path = programs.as_os_str().to_owned();
    path.push(":");
    path.push(others);
    let mut process = std::process::Command::new(&command[0]);
    process.args(&command[1..]).env("PATH", path);
    process.output().unwrap()
}

#[test]
fn busybox_is_enough() {
    let pair = Pair::filled();
    let programs = pair.at("programs");
    fs::create_dir(&programs).unwrap();
    let found = std::process::Command::new("sh")
        .args(["-c", "command -v busybox"])
        .output();
    let found = String::from_utf8(found.unwrap().stdout).unwrap();
    assert!(!found.is_empty(), "install busybox, or run `make deps`");
    for name in ["grep", "sed", "cp", "mkdir", "rm", "sort", "comm", "printf"] {
        std::os::unix::fs::symlink(found.trim(), programs.join(name)).unwrap();
    }
    git(&pair.host(), "update-index --assume-unchanged run.sh");
    git(&pair.host(), "update-index --skip-worktree empty");
    for hidden in [false, true] {
        if !hidden {
            git(&pair.host(), "update-index --no-assume-unchanged run.sh");
            git(&pair.host(), "update-index --no-skip-worktree empty");
        }
        pair.prepare(&Options::default());
        let guest = pair.guest();
        put(&guest.join("README"), b"work\n");
        for new in [false, true] {
            if new {
                put(&guest.join("new \"and\" odd\n"), b"new\n");
                put(&guest.join("run.sh"), b"hidden\n");
                put(&guest.join("empty"), b"skipped\n");
                git(&guest, "init -q nested");
                put(&guest.join("nested/file"), b"n\n");
            }
            let ended = export_with(&pair, &programs, &["busybox", "sh"]);
            let said = String::from_utf8_lossy(&ended.stderr);
            assert!(ended.status.success(), "{said}");
            assert_eq!(said.contains(": nested/"), new, "{said}");
            assert!(!said.contains("busybox"), "{said}");
            assert_eq!(
                String::from_utf8_lossy(&ended.stdout),
                String::from_utf8_lossy(&pair.export(Base::Recorded))
            );
        }
    }
}

#[test]
fn a_git_that_is_too_old_is_none() {
    let pair = Pair::filled();
    pair.prepare(&Options::default());
    let programs = pair.at("programs");
    let git = programs.join("git");
    fs::create_dir(&programs).unwrap();
    banger_testing::write_program(
        &git,
        b"#!/bin/sh\ncase $* in *diff-index*) exit 129 ;; esac\nPATH=${PATH#*:}\nexec git \"$@\"\n",
    );
    let status = export_with(&pair, &programs, &["sh"])
        .status
        .code()
        .unwrap();
    assert_eq!(export_failure(status, b"").code(), Code::CommandNotFound);
    // Before 2.13 it says what it does not understand.
    let echoes = b"#!/bin/sh\ncase $* in *--absolute-git-dir*) ;; *) exit 128 ;; esac\n\
        printf '%s\\n' true --absolute-git-dir \"$PWD\" .git/index .git/objects\n";
    banger_testing::write_program(&git, echoes);
    let status = export_with(&pair, &programs, &["sh"])
        .status
        .code()
        .unwrap();
    assert_eq!(status, 65);
}

/// The files themselves are not there, as in a sparse checkout, or this would take a minute.
#[test]
fn a_hundred_thousand_files() {
    const COUNT: usize = 100_000;
    let pair = Pair::filled();
    let host = pair.host();
    let blob = text(&host, "rev-parse HEAD:README");
    let name = |number: usize| format!("d{}/f{number}", number / 500);
    let feed = |arguments: &[&str], line: &dyn Fn(usize) -> String| {
        let lines: String = (0..COUNT).map(line).collect();
        let file = pair.at("lines");
        fs::write(&file, lines).unwrap();
        let ended = git_in(&host)
            .args(arguments)
            .stdin(fs::File::open(file).unwrap())
            .status();
        assert!(ended.unwrap().success());
    };
    feed(&["update-index", "--index-info"], &|number| {
        format!("100644 {blob}\t{}\n", name(number))
    });
    git(&host, "commit -qm many");
    feed(&["update-index", "--skip-worktree", "--stdin"], &|number| {
        name(number) + "\n"
    });
    pair.prepare(&Options::default());
    let listed = git(&pair.guest(), "ls-files");
    assert!(listed.split(|byte| *byte == b'\n').count() > COUNT);
    assert!(pair.export(Base::Recorded).is_empty());
    // Some are made, one of them as it is in git; and one that git does not know.
    for (number, content) in [(0, "made\n"), (1, "second\n"), (COUNT - 1, "made\n")] {
        put(&pair.guest().join(name(number)), content.as_bytes());
    }
    put(&pair.guest().join("d7/new"), b"new\n");
    let names = Export {
        output: Output::Names,
        ..Export::default()
    };
    let said = pair.try_export(&names).stdout;
    let expected = format!("M\0d0/f0\0M\0{}\0A\0d7/new\0", name(COUNT - 1));
    let mut said: Vec<_> = said.split_inclusive(|byte| *byte == 0).collect();
    said.sort_unstable();
    let mut expected: Vec<_> = expected
        .as_bytes()
        .split_inclusive(|byte| *byte == 0)
        .collect();
    expected.sort_unstable();
    assert_eq!(said, expected);
}
