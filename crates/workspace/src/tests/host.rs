//! What the host refuses, applies and keeps.

use super::*;
use crate::testing::{assert_same, everything};

#[test]
fn a_patch_goes_into_an_unmoved_host_and_no_other() {
    let pair = Pair::filled();
    pair.write("README", b"host edit\n");
    git(&pair.host(), "add README");
    pair.write("dir/a.txt", b"a\nb\nc\nhost\n");
    let (plan, _) = pair.prepare(&Options::default());
    let text_of_print = plan.fingerprint().to_string();
    let print: Fingerprint = text_of_print.parse().unwrap();
    assert_eq!(&print, plan.fingerprint());
    put(&pair.guest().join("dir/a.txt"), b"guest\na\nb\nc\nhost\n");
    put(&pair.guest().join("new"), b"new\n");
    fs::remove_file(pair.guest().join("empty")).unwrap();
    let patch = pair.patch_file(&pair.export(Base::Prepared));
    let mut from_tree = Vec::new();
    export_from_tree(
        &plan,
        TreeBase::WorkingTree,
        &pair.guest(),
        &pair.at("temporary"),
        &mut from_tree,
    )
    .unwrap();
    assert_eq!(from_tree, fs::read(&patch).unwrap());
    let staged = git(&pair.host(), "diff --cached");

    pair.write("no-newline", b"moved");
    let before = everything(&pair.host());
    let error = apply(&pair.repository(), &patch, &print).unwrap_err();
    assert_eq!(error.code(), Code::Conflict);
    assert!(error.message().contains("has changed since"), "{error:?}");
    assert_eq!(everything(&pair.host()), before);
    git(&pair.host(), "checkout no-newline");
    let (plan, _) = (pair.plan(&Options::default()), ());

    // One that fits in part is not applied in part.
    pair.write("new", b"in the way\n");
    let error = apply(&pair.repository(), &patch, plan.fingerprint()).unwrap_err();
    assert!(error.chain().contains("already exists"), "{error:?}");
    assert!(pair.host().join("empty").exists());
    fs::remove_file(pair.host().join("new")).unwrap();

    apply(&pair.repository(), &patch, plan.fingerprint()).unwrap();
    assert_eq!(files(&pair.host()), files(&pair.guest()));
    assert_eq!(git(&pair.host(), "diff --cached"), staged);
}

#[test]
fn work_is_saved_under_a_reference_and_nothing_else_changes() {
    let pair = Pair::filled();
    let (_, summary) = pair.prepare(&Options::default());
    put(&pair.guest().join("README"), b"work\n");
    put(&pair.guest().join("new"), b"\0new\n");
    let patch = pair.patch_file(&pair.export(Base::Recorded));
    pair.write("dir/a.txt", b"moved on\n");
    let status = git(&pair.host(), "status --porcelain=v2 -z");
    let repository = Repository::find(&pair.host()).unwrap();
    let save = || {
        save_ref(
            &repository,
            "box",
            summary.base.as_deref(),
            &patch,
            &pair.at("temporary"),
        )
    };
    let (saved, again) = (save().unwrap(), save().unwrap());
    assert_ne!(saved.reference, again.reference);
    assert!(
        saved.reference.starts_with("refs/banger/box/2"),
        "{saved:?}"
    );
    assert_eq!(git(&pair.host(), "status --porcelain=v2 -z"), status);
    git(&pair.host(), "checkout dir/a.txt");
    let ended = Command::new("sh")
        .args(["-c", &saved.restore])
        .output()
        .unwrap();
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    assert_eq!(files(&pair.host()), files(&pair.guest()));
    let gone = save_ref(
        &repository,
        "box",
        Some(&"1".repeat(40)),
        &patch,
        &pair.at("temporary"),
    );
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);
}

/// Git renews the time of an object that it would write again: here of those that the guest's
/// edits bring back, loose and packed.
#[test]
fn not_even_a_time_changes_on_the_host() {
    for packed in [false, true] {
        let pair = Pair::filled();
        let base = text(&pair.host(), "rev-parse HEAD");
        pair.write(".gitattributes", b"*.win text=auto\n");
        pair.write("kept.win", b"as it is\r\n");
        git(&pair.host(), "add -A");
        git(&pair.host(), "commit -qm later");
        let later = text(&pair.host(), "rev-parse HEAD");
        if packed {
            git(&pair.host(), "repack -qad");
        }
        pair.write("README", b"not committed\n");
        let (plan, _) = pair.prepare(&Options::default());
        // Both are objects of the host's, as are their trees.
        put(&pair.guest().join("README"), b"first\n");
        fs::rename(pair.guest().join("empty"), pair.guest().join("moved")).unwrap();
        fs::rename(
            pair.guest().join("no-newline"),
            pair.guest().join("dir/moved"),
        )
        .unwrap();
        fs::remove_file(pair.guest().join("kept.win")).unwrap();

        let before = everything(&pair.host());
        for base in [
            TreeBase::Commit(&base),
            TreeBase::Commit(&later),
            TreeBase::WorkingTree,
            TreeBase::Empty,
        ] {
            let mut patch = Vec::new();
            let temporary = pair.at("temporary");
            export_from_tree(&plan, base, &pair.guest(), &temporary, &mut patch).unwrap();
            assert!(!patch.is_empty());
            assert_same(&before, &everything(&pair.host()), "an export wrote");
        }

        let patch = pair.patch_file(&pair.export(Base::Recorded));
        let repository = Repository::find(&pair.host()).unwrap();
        let temporary = pair.at("temporary");
        for _ in 0..2 {
            let saved = save_ref(&repository, "box", Some(&later), &patch, &temporary).unwrap();
            git(&pair.host(), "fsck --strict --no-dangling");
            let clone = pair.at("clone");
            git(
                &pair.at("."),
                &format!("clone -q {} clone", pair.host().display()),
            );
            git(&clone, &format!("fetch -q origin {}", saved.reference));
            git(&clone, "checkout -q FETCH_HEAD");
            assert_eq!(files(&clone), files(&pair.guest()));
            fs::remove_dir_all(clone).unwrap();
        }
        let mut after = everything(&pair.host());
        // It may add, and directories have other times for it.
        let is_directory = |mode: u32| mode & 0o170_000 == 0o040_000;
        after.retain(|name, _| before.contains_key(name));
        let only_files = |all: &mut crate::testing::Everything| {
            all.retain(|_, (mode, _, _)| !is_directory(*mode));
        };
        let mut before = before;
        only_files(&mut before);
        only_files(&mut after);
        assert_same(&before, &after, "a save changed what was there");
    }
}

#[test]
fn what_cannot_be_copied_is_refused_with_a_way_out() {
    let pair = Pair::filled();
    let refused = |path: &std::path::Path, code: Code, words: &str| {
        let error = Repository::open(path).unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
        assert!(error.message().contains(words), "{error:?}");
        assert!(
            error.hint_text().is_some() || code == Code::NotFound,
            "{error:?}"
        );
    };
    refused(&pair.at("none"), Code::NotFound, "does not exist");
    refused(
        &pair.at("temporary"),
        Code::InvalidArgument,
        "is not a git repository",
    );
    refused(
        &pair.host().join("README"),
        Code::InvalidArgument,
        "is not a directory",
    );
    refused(
        &pair.host().join("dir"),
        Code::InvalidArgument,
        "is inside the repository at",
    );
    refused(
        &pair.host().join(".git"),
        Code::InvalidArgument,
        "inside a `.git`",
    );
    git(&pair.at("."), "init -q --bare bare");
    refused(&pair.at("bare"), Code::InvalidArgument, "a bare repository");
    let id = text(&pair.host(), "rev-parse HEAD");
    git(
        &pair.host(),
        &format!("update-index --add --cacheinfo 160000,{id},libs/sub"),
    );
    refused(&pair.host(), Code::Conflict, "`libs/sub`");
    git(&pair.host(), "reset -q --hard");
    git(&pair.host(), "checkout -qb side HEAD~1");
    pair.write("README", b"side\n");
    git(&pair.host(), "commit -qam side");
    assert!(
        !git_in(&pair.host())
            .args(["merge", "-q", "main"])
            .output()
            .unwrap()
            .status
            .success()
    );
    refused(&pair.host(), Code::Conflict, "unfinished merge: `README`");
}

#[test]
fn branches_that_cannot_be_are_refused() {
    let pair = Pair::filled();
    let repository = pair.repository();
    let plan = |branch: Option<&str>, from: Option<&str>| {
        let (branch, from) = (branch.map(str::to_owned), from.map(str::to_owned));
        let error = repository
            .plan(&Options {
                branch,
                from,
                ..Options::default()
            })
            .unwrap_err();
        assert!(error.hint_text().is_some(), "{error:?}");
        error.code()
    };
    assert_eq!(plan(None, Some("HEAD")), Code::InvalidArgument);
    assert_eq!(plan(Some("main"), None), Code::AlreadyExists);
    assert_eq!(plan(Some("main/below"), None), Code::AlreadyExists);
    for bad in ["", "-x", "a b", "a..b", "HEAD", "x.lock", "@{-1}"] {
        assert_eq!(plan(Some(bad), None), Code::InvalidArgument, "{bad}");
    }
    for bad in ["", "--all", "nowhere", "HEAD~99", "HEAD:README"] {
        assert_eq!(plan(Some("new"), Some(bad)), Code::InvalidArgument, "{bad}");
    }
}

#[test]
fn a_file_that_changes_after_the_plan_is_named() {
    let pair = Pair::filled();
    for change in [b"another size\n".as_slice(), b"SECOND\n"] {
        let plan = pair.plan(&Options::default());
        assert!(pair.repository().is_unchanged(plan.fingerprint()).unwrap());
        pair.write("README", change);
        assert!(!pair.repository().is_unchanged(plan.fingerprint()).unwrap());
        let error = plan
            .write_archive(&pair.at("temporary"), std::io::sink())
            .unwrap_err();
        assert_eq!(error.code(), Code::Conflict);
        assert!(
            error.message().contains("`README` changed while"),
            "{error:?}"
        );
    }
    let plan = pair.plan(&Options::default());
    git(&pair.host(), "add README");
    let error = plan
        .write_archive(&pair.at("temporary"), std::io::sink())
        .unwrap_err();
    assert!(error.message().contains("the index changed"), "{error:?}");
    let plan = pair.plan(&Options::default());
    // What git does to its own records is no change.
    git(&pair.host(), "status");
    assert!(pair.repository().is_unchanged(plan.fingerprint()).unwrap());
}

#[test]
fn a_writer_that_takes_no_more_ends_it() {
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let pair = Pair::filled();
    let plan = pair.plan(&Options::default());
    let error = plan.write_archive(&pair.at("temporary"), Full).unwrap_err();
    assert_eq!(error.code(), Code::Cancelled);
    assert_eq!(fs::read_dir(pair.at("temporary")).unwrap().count(), 0);
}

#[test]
fn a_head_that_moves_after_the_plan_leaves_the_copy_on_the_old_one() {
    let pair = Pair::filled();
    pair.write("README", b"staged\n");
    git(&pair.host(), "add README");
    let plan = pair.plan(&Options::default());
    let base = text(&pair.host(), "rev-parse HEAD");
    // The index says the same afterwards.
    git(&pair.host(), "commit -qm moved");
    let mut archive = Vec::new();
    let temporary = pair.at("temporary");
    let summary = plan.write_archive(&temporary, &mut archive).unwrap();
    assert_eq!(summary.base.as_deref(), Some(base.as_str()));
    assert!(!pair.repository().is_unchanged(plan.fingerprint()).unwrap());
    // Where it does not, there is no copy.
    let plan = pair.plan(&Options::default());
    pair.write("run.sh", b"later\n");
    git(&pair.host(), "commit -qam later");
    let error = plan.write_archive(&temporary, std::io::sink()).unwrap_err();
    assert_eq!(error.code(), Code::Conflict, "{error:?}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn an_index_that_somebody_has_locked_is_read_and_left_alone() {
    let pair = Pair::filled();
    pair.write("README", b"edited\n");
    let lock = pair.host().join(".git/index.lock");
    fs::write(&lock, b"somebody's").unwrap();
    pair.prepare(&Options::default());
    assert_eq!(fs::read(&lock).unwrap(), b"somebody's");
    fs::remove_file(&lock).unwrap();
    pair.same_picture();
}
