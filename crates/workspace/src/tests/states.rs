//! Every state a repository can be in goes into a guest and comes back.

use super::*;

#[test]
fn a_clean_repository() {
    let pair = Pair::filled();
    round_trip(&pair);
    assert_eq!(files(&pair.host()), files(&pair.guest()));
    assert!(!pair.guest().join("ignored").exists());
    assert_eq!(text(&pair.guest(), "log --oneline").lines().count(), 1);
    assert_eq!(text(&pair.guest(), "symbolic-ref HEAD"), "refs/heads/main");
    assert!(pair.export(Base::Recorded).is_empty());
}

#[test]
fn every_kind_of_edit() {
    let pair = Pair::filled();
    let host = pair.host();
    pair.write("README", b"staged\n");
    git(&host, "add README");
    pair.write("README", b"staged and then edited\n");
    pair.write("staged-new", b"new\n");
    git(&host, "add staged-new");
    pair.write("intended", b"not yet\n");
    git(&host, "add -N intended");
    git(&host, "rm -q --cached no-newline");
    fs::remove_file(host.join("crlf.txt")).unwrap();
    git(&host, "mv dir/a.txt dir/renamed.txt");
    pair.chmod("run.sh", 0o644);
    pair.chmod("empty", 0o755);
    fs::remove_file(host.join("link")).unwrap();
    pair.write("link", b"a file now\n");
    fs::remove_dir_all(host.join("dir/sub")).unwrap();
    symlink("..", host.join("dir/sub")).unwrap();
    pair.write("untracked", b"stays\n");
    let plan = pair.plan(&Options::default());
    // `no-newline`, `dir/sub` and `untracked`.
    assert_eq!(plan.untracked_left_out(), 3);
    let (_, summary) = pair.prepare(&Options::default());
    assert!(!pair.guest().join("untracked").exists());
    for question in ["diff --cached --binary", "ls-files -v --stage -z"] {
        assert_eq!(
            git(&host, question),
            git(&pair.guest(), question),
            "{question}"
        );
    }
    let known = ["status", "--porcelain=v2", "-z", "--untracked-files=no"];
    let status = |side| git_in(side).args(known).output().unwrap().stdout;
    assert_eq!(status(&host), status(&pair.guest()));
    back(&pair, summary.base.as_deref());

    let options = Options {
        include_untracked: true,
        ..Options::default()
    };
    let (_, summary) = pair.prepare(&options);
    pair.same_picture();
    back(&pair, summary.base.as_deref());
}

#[test]
fn an_edit_that_keeps_size_and_time_is_seen() {
    let pair = Pair::filled();
    let path = pair.host().join("README");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    pair.write("README", b"SECOND\n");
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(time)
        .unwrap();
    round_trip(&pair);
    assert!(!pair.export(Base::Recorded).is_empty());
}

#[test]
fn no_commits_at_all() {
    let pair = Pair::empty();
    round_trip(&pair);
    pair.write("staged", b"s\n");
    pair.write("nothing", b"");
    git(&pair.host(), "add staged nothing");
    pair.write("intended", b"i\n");
    git(&pair.host(), "add -N intended");
    round_trip(&pair);
    put(&pair.guest().join("made"), b"in the guest\n");
    git(&pair.guest(), "add -A");
    git(&pair.guest(), "commit -qm first");
    let patch = pair.export(Base::Recorded);
    assert_eq!(pair.applied(None, &patch), files(&pair.guest()));
    let saved = save_ref(
        &pair.repository(),
        "box",
        None,
        &pair.patch_file(&patch),
        &pair.at("temporary"),
    );
    let saved = saved.unwrap();
    assert!(
        text(
            &pair.host(),
            &format!("ls-tree -r --name-only {}", saved.reference)
        )
        .contains("made")
    );
}

#[test]
fn objects_named_by_sha256() {
    let pair = Pair::with("init -q -b main --object-format=sha256");
    pair.fill();
    pair.write("README", b"edited\n");
    round_trip(&pair);
    assert_eq!(text(&pair.guest(), "rev-parse HEAD").len(), 64);
}

#[test]
fn sparse_checkouts() {
    let pair = Pair::filled();
    for cone in ["--no-cone", "--cone", "--cone --sparse-index"] {
        git(&pair.host(), &format!("sparse-checkout set {cone} dir"));
        pair.write("dir/a.txt", cone.as_bytes());
        pair.prepare(&Options::default());
        pair.same_picture();
        assert_eq!(pair.guest().join("README").exists(), cone != "--no-cone");
        assert!(pair.export(Base::Prepared).is_empty());
        // One that is not checked out is written all the same.
        put(&pair.guest().join("crlf.txt"), b"made\r\n");
        let names = Export {
            output: Output::Names,
            ..Export::default()
        };
        let changed = b"M\0crlf.txt\0M\0dir/a.txt\0";
        assert_eq!(pair.try_export(&names).stdout, changed);
        let plan = pair.plan(&Options::default());
        let (base, mut patch) = (text(&pair.host(), "rev-parse HEAD"), Vec::new());
        let base = TreeBase::Commit(&base);
        export_from_tree(
            &plan,
            base,
            &pair.guest(),
            &pair.at("temporary"),
            &mut patch,
        )
        .unwrap();
        assert_eq!(patch, pair.export(Base::Recorded));
        git(&pair.host(), "checkout dir/a.txt");
    }
}

#[test]
fn worktrees_and_split_indexes() {
    let pair = Pair::filled();
    git(&pair.host(), "config core.splitIndex true");
    git(&pair.host(), "update-index --split-index");
    pair.write("README", b"split\n");
    git(&pair.host(), "add README");
    round_trip(&pair);
    git(&pair.host(), "worktree add -q ../tree -b other");
    put(&pair.at("tree/README"), b"in the worktree\n");
    let mut archive = Vec::new();
    let plan = Repository::open(&pair.at("tree"))
        .unwrap()
        .plan(&Options::default())
        .unwrap();
    assert_eq!(plan.branch().as_deref(), Some("refs/heads/other"));
    plan.write_archive(&pair.at("temporary"), &mut archive)
        .unwrap();
}

#[test]
fn a_detached_head_and_a_shallow_clone() {
    let pair = Pair::filled();
    git(&pair.host(), "checkout -q --detach");
    round_trip(&pair);
    assert_eq!(text(&pair.guest(), "rev-parse --abbrev-ref HEAD"), "HEAD");
    let url = format!("file://{}", pair.host().display());
    git(&pair.at("."), &format!("clone -q --depth 1 {url} moved"));
    fs::remove_dir_all(pair.host()).unwrap();
    fs::rename(pair.at("moved"), pair.host()).unwrap();
    for mode in [Mode::Overlay, Mode::FullCopy, Mode::MetadataOnly] {
        pair.prepare(&Options {
            mode,
            ..Options::default()
        });
        assert_eq!(text(&pair.guest(), "log --oneline").lines().count(), 1);
    }
}

#[test]
fn packed_objects_alternates_and_partial_clones() {
    let pair = Pair::filled();
    git(&pair.host(), "gc -q");
    let url = format!("file://{}", pair.host().display());
    git(&pair.host(), "config uploadpack.allowFilter true");
    git(
        &pair.at("."),
        &format!("clone -q --filter=blob:none --no-checkout {url} partial"),
    );
    git(&pair.at("."), "clone -q --shared host shared");
    git(&pair.at("partial"), "read-tree HEAD");
    let repository = Repository::open(&pair.at("partial")).unwrap();
    let plan = repository.plan(&Options::default()).unwrap();
    let error = plan
        .write_archive(&pair.at("temporary"), std::io::sink())
        .unwrap_err();
    assert!(
        error.hint_text().unwrap().contains("partial clone"),
        "{error:?}"
    );

    fs::remove_dir_all(pair.at("partial")).unwrap();
    round_trip(&pair);
    fs::rename(pair.host(), pair.at("origin")).unwrap();
    fs::write(
        pair.at("shared/.git/objects/info/alternates"),
        format!("{}\n", pair.at("origin/.git/objects").display()),
    )
    .unwrap();
    fs::rename(pair.at("shared"), pair.host()).unwrap();
    pair.write("README", b"edited\n");
    round_trip(&pair);
}

#[test]
fn the_whole_history() {
    let pair = Pair::filled();
    git(&pair.host(), "tag -a v1 -m one HEAD~1");
    git(&pair.host(), "branch side HEAD~1");
    git(&pair.host(), "update-ref refs/banger/old/1 HEAD");
    pair.write("README", b"stashed\n");
    git(&pair.host(), "stash -q");
    pair.write("README", b"edited\n");
    let (_, summary) = pair.prepare(&Options {
        mode: Mode::FullCopy,
        ..Options::default()
    });
    pair.same_picture();
    back(&pair, summary.base.as_deref());
    assert_eq!(text(&pair.guest(), "log --oneline").lines().count(), 2);
    assert_eq!(text(&pair.guest(), "cat-file -t v1"), "tag");
    let names = text(&pair.guest(), "for-each-ref --format=%(refname)");
    assert!(names.contains("refs/heads/side"), "{names}");
    assert!(
        !names.contains("stash") && !names.contains("old"),
        "{names}"
    );
}

#[test]
fn history_without_files() {
    let pair = Pair::filled();
    let (plan, _) = pair.prepare(&Options {
        mode: Mode::MetadataOnly,
        ..Options::default()
    });
    assert!(plan.entries().is_empty());
    assert!(files(&pair.guest()).is_empty());
    assert_eq!(text(&pair.guest(), "status --porcelain"), "");
    assert_eq!(text(&pair.guest(), "log --oneline").lines().count(), 2);
    assert!(pair.export(Base::Recorded).is_empty());
    put(&pair.guest().join("new"), b"new\n");
    assert!(!pair.export(Base::Recorded).is_empty());
    git(&pair.guest(), "sparse-checkout disable");
    assert!(pair.guest().join("README").exists());
}

#[test]
fn a_branch_from_a_commit() {
    let pair = Pair::filled();
    pair.write("README", b"dirty\n");
    let options = Options {
        branch: Some("topic/new".to_owned()),
        from: Some("HEAD~1".to_owned()),
        ..Options::default()
    };
    for mode in [Mode::Overlay, Mode::FullCopy] {
        let (plan, summary) = pair.prepare(&Options {
            mode,
            ..options.clone()
        });
        assert_eq!(
            text(&pair.guest(), "symbolic-ref HEAD"),
            "refs/heads/topic/new"
        );
        assert_eq!(text(&pair.guest(), "status --porcelain"), "");
        assert_eq!(fs::read(pair.guest().join("README")).unwrap(), b"first\n");
        assert_eq!(
            summary.base.unwrap(),
            text(&pair.host(), "rev-parse HEAD~1")
        );
        assert!(plan.fingerprint().is_of_commit());
        put(&pair.guest().join("README"), b"work\n");
        let patch = pair.export(Base::Recorded);
        assert_eq!(
            pair.applied(Some(&text(&pair.host(), "rev-parse HEAD~1")), &patch),
            files(&pair.guest())
        );
    }
    let (_, summary) = pair.prepare(&Options {
        from: None,
        ..options
    });
    assert_eq!(fs::read(pair.guest().join("README")).unwrap(), b"dirty\n");
    back(&pair, summary.base.as_deref());
}

#[test]
fn line_ends_are_converted_as_on_the_host() {
    let pair = Pair::empty();
    git(&pair.host(), "config core.autocrlf true");
    pair.write(
        ".gitattributes",
        b"*.sh eol=lf\n*.bin -text diff\n*.txt diff=upper\n",
    );
    git(&pair.host(), "config diff.upper.textconv false");
    pair.fill();
    pair.write("x.sh", b"lf\n");
    pair.write("x.bin", b"\0\r\n\n");
    git(&pair.host(), "add -A");
    git(&pair.host(), "commit -qm more");
    git(&pair.host(), "rm -rq --cached .");
    git(&pair.host(), "reset -q --hard");
    round_trip(&pair);
    put(&pair.guest().join("x.bin"), b"\0\r\n\nmore\0");
    put(&pair.guest().join("crlf.txt"), b"one\r\nand two\r\n");
    let patch = pair.export(Base::Recorded);
    assert_eq!(pair.applied(Some("HEAD"), &patch), files(&pair.guest()));
}
