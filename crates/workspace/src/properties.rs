//! Any edits, made on the host and in the guest, come out as they are.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use crate::testing::{Pair, files, git, git_in};
use crate::{Base, Options, TreeBase, apply, export_from_tree};

const NAMES: [&[u8]; 14] = [
    b"README",
    b"dir",
    b"dir/a.txt",
    b"dir/sub",
    b"dir/sub/b.bin",
    b"empty",
    b"crlf.txt",
    b"-dash",
    b"a \"quoted\"\nname",
    b"latin-\xe9",
    b"link",
    b"run.sh",
    b"new\\\t\x01",
    b"deep/er/\xff \n/x/",
];

const CONTENTS: [&[u8]; 9] = [
    b"",
    b"\n",
    b"one\ntwo\n",
    b"one\r\ntwo\r\n",
    b"no end",
    b"\0\x01\x02binary\xff",
    b"a\rb\r",
    b"\xe9 latin\n",
    b"diff --git a/x b/x\n--- a/x\n",
];

#[derive(Clone, Debug)]
enum Edit {
    Write(usize, usize),
    Append(usize, usize),
    Remove(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Mode(usize, u32),
    Git(&'static str),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let name = || 0..NAMES.len();
    let content = || 0..CONTENTS.len();
    let edit = prop_oneof![
        4 => (name(), content()).prop_map(|(name, content)| Edit::Write(name, content)),
        2 => (name(), content()).prop_map(|(name, content)| Edit::Append(name, content)),
        2 => name().prop_map(Edit::Remove),
        2 => (name(), name()).prop_map(|(from, to)| Edit::Rename(from, to)),
        2 => (name(), name()).prop_map(|(name, to)| Edit::Link(name, to)),
        1 => (name(), prop_oneof![Just(0o644), Just(0o755)]).prop_map(|(name, mode)| Edit::Mode(name, mode)),
        2 => prop_oneof![Just("add -A"), Just("commit -qam work"), Just("add -N ."), Just("reset -q")]
            .prop_map(Edit::Git),
    ];
    prop::collection::vec(edit, 0..8)
}

/// Makes an edit; one that is not possible is none.
fn perform(top: &Path, edit: &Edit) {
    let at = |name: &usize| {
        let name = NAMES[*name];
        top.join(OsStr::from_bytes(name.strip_suffix(b"/").unwrap_or(name)))
    };
    // Never through a link that an edit before this one made.
    let inside = |path: &Path| {
        let parent = path.parent().unwrap();
        if fs::create_dir_all(parent).is_err()
            || !parent.canonicalize().is_ok_and(|real| real == parent)
        {
            return false;
        }
        true
    };
    let clear = |path: &Path| match fs::symlink_metadata(path) {
        Ok(stat) if stat.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    };
    let is_file = |path: &Path| fs::symlink_metadata(path).is_ok_and(|stat| stat.is_file());
    match edit {
        Edit::Write(name, content) if inside(&at(name)) => {
            clear(&at(name));
            fs::write(at(name), CONTENTS[*content]).unwrap();
        }
        Edit::Append(name, content) if inside(&at(name)) && is_file(&at(name)) => {
            let old = fs::read(at(name)).unwrap();
            fs::write(at(name), [&old, CONTENTS[*content]].concat()).unwrap();
        }
        Edit::Remove(name) if inside(&at(name)) => clear(&at(name)),
        Edit::Rename(from, to) if inside(&at(from)) && inside(&at(to)) => {
            // Not into itself, or onto something of another kind.
            let renamed = fs::rename(at(from), at(to));
            drop(renamed);
        }
        Edit::Link(name, to) if inside(&at(name)) => {
            clear(&at(name));
            symlink(OsStr::from_bytes(NAMES[*to]), at(name)).unwrap();
        }
        Edit::Mode(name, mode) if inside(&at(name)) && is_file(&at(name)) => {
            fs::set_permissions(at(name), fs::Permissions::from_mode(*mode)).unwrap();
        }
        Edit::Git(words) => {
            // There may be nothing to commit.
            let words: Vec<_> = words.split(' ').collect();
            git_in(top).args(words).output().unwrap();
        }
        _ => {}
    }
}

proptest! {
    // The same cases in every run: each runs git some fifty times, so they are few.
    #![proptest_config(ProptestConfig {
        cases: 20,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(4),
        ..ProptestConfig::default()
    })]

    #[test]
    fn edits_come_back_byte_for_byte(on_host in edits(), in_guest in edits()) {
        let pair = Pair::filled();
        let host = pair.host().canonicalize().unwrap();
        on_host.iter().for_each(|edit| perform(&host, edit));
        let options = Options { include_untracked: true, ..Options::default() };
        let (plan, summary) = pair.prepare(&options);
        pair.same_picture();
        prop_assert_eq!(files(&pair.host()), files(&pair.guest()));
        prop_assert_eq!(String::from_utf8_lossy(&pair.export(Base::Prepared)).into_owned(), "");

        let guest = pair.guest().canonicalize().unwrap();
        in_guest.iter().for_each(|edit| perform(&guest, edit));
        let after = files(&guest);
        let base = summary.base.unwrap();
        let patch = pair.export(Base::Recorded);
        prop_assert_eq!(&pair.applied(Some(&base), &patch), &after);
        let mut from_tree = Vec::new();
        let temporary = pair.at("temporary");
        export_from_tree(&plan, TreeBase::Commit(&base), &guest, &temporary, &mut from_tree).unwrap();
        prop_assert_eq!(String::from_utf8_lossy(&from_tree), String::from_utf8_lossy(&patch));

        let repository = pair.repository();
        let patch = pair.patch_file(&pair.export(Base::Prepared));
        apply(&repository, &patch, plan.fingerprint()).unwrap();
        prop_assert_eq!(files(&pair.host()), after);
        git(&pair.host(), "fsck --no-dangling");
    }
}
