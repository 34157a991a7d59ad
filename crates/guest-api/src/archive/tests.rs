//! Trees that survive, and archives that must not get anywhere.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::header::{self, Attributes, BLOCK, Header, Records};
use super::{BUFFER, Copied, MAX_DEPTH, Owner, Unpack, archive_out, unpack};

fn pack(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    archive_out(path, &mut bytes).map(|_| bytes)
}

fn unpack_into(bytes: &[u8], parent: &Path, name: &str) -> io::Result<Copied> {
    let directory = File::open(parent).unwrap();
    let shown = parent.join(name);
    unpack(
        bytes,
        &Unpack {
            parent: directory.as_fd(),
            name: OsStr::new(name),
            shown: &shown,
            owner: Owner::Caller,
            only_directory: false,
        },
    )
}

/// What is comparable about a tree: for each path its mode, time, kind and content.
fn describe(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            "directory".to_owned()
        } else if stat.is_symlink() {
            format!("link to {:?}", fs::read_link(&path).unwrap())
        } else {
            let sum = fs::read(&path).unwrap().iter().fold(7u64, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
            });
            format!("{} bytes, sum {sum}, {} names", stat.len(), stat.nlink())
        };
        let line = format!(
            "{:o} {}.{} {content}",
            stat.mode(),
            stat.mtime(),
            stat.mtime_nsec()
        );
        found.insert(path.strip_prefix(top).unwrap().to_owned(), line);
    }
    found
}

fn set_time(path: &Path, nanoseconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 0);
    let time = time + Duration::from_nanos(nanoseconds);
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// A tree with everything that is kept.
fn everything(top: &Path) {
    fs::create_dir_all(top.join("empty")).unwrap();
    fs::create_dir_all(top.join("closed")).unwrap();
    fs::write(top.join("closed/file"), "in a directory nobody may write").unwrap();
    fs::write(top.join("nothing"), "").unwrap();
    fs::write(top.join("script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(top.join("script"), fs::Permissions::from_mode(0o751)).unwrap();
    let raw = OsString::from_vec(b"not\xff utf-8\n".to_vec());
    fs::write(top.join(raw), "raw").unwrap();
    let long = top.join("d".repeat(200)).join("e".repeat(200));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("f".repeat(255)), "deep").unwrap();
    symlink("../does/not exist", top.join("dangling")).unwrap();
    symlink("x".repeat(300), top.join("long link")).unwrap();
    let large: Vec<u8> = (0..BUFFER * 5 + 77).map(|at| (at * at) as u8).collect();
    fs::write(top.join("large"), &large).unwrap();
    fs::write(top.join("exactly"), &large[..BUFFER]).unwrap();
    fs::hard_link(top.join("large"), top.join("empty/again")).unwrap();
    let holes = File::create(top.join("holes")).unwrap();
    holes.set_len(40 << 20).unwrap();
    holes.write_all_at(b"middle", 17 << 20).unwrap();
    set_time(&top.join("script"), 123_456_789);
    set_time(&top.join("empty"), 5);
    set_time(&top.join("closed"), 999_999_999);
    fs::set_permissions(top.join("closed"), fs::Permissions::from_mode(0o555)).unwrap();
}

#[test]
fn a_tree_survives() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    everything(&source);
    let listener = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    let mut bytes = Vec::new();
    let packed = archive_out(&source, &mut bytes).unwrap();
    assert_eq!(packed.left_out, 1, "the socket");
    assert!(bytes.len() < 4 << 20, "holes take no room: {}", bytes.len());
    drop(listener);
    fs::remove_file(source.join("socket")).unwrap();

    let unpacked = unpack_into(&bytes, place.path(), "copy").unwrap();
    assert_eq!(
        (unpacked.entries, unpacked.bytes),
        (packed.entries, packed.bytes)
    );
    let copy = place.path().join("copy");
    let (mut before, mut after) = (describe(&source), describe(&copy));
    // Removing the socket changed it.
    before.remove(Path::new(""));
    after.remove(Path::new(""));
    assert_eq!(before, after);
    let holes = fs::metadata(copy.join("holes")).unwrap();
    assert!(holes.blocks() * 512 < 1 << 20, "still mostly holes");

    // Once more over itself: it merges and replaces.
    fs::write(copy.join("script"), "changed").unwrap();
    fs::write(copy.join("mine"), "stays").unwrap();
    fs::set_permissions(copy.join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    unpack_into(&bytes, place.path(), "copy").unwrap();
    assert_eq!(fs::read(copy.join("script")).unwrap(), b"#!/bin/sh\n");
    assert_eq!(fs::read(copy.join("mine")).unwrap(), b"stays");
    assert_eq!(leftovers(place.path()), Vec::<PathBuf>::new());
    let merged = fs::metadata(copy.join("closed")).unwrap();
    assert_eq!(merged.mode() & 0o777, 0o755, "what is there keeps its mode");
    // So that it can be removed by anybody.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(source.join("closed"), open).unwrap();
}

fn leftovers(top: &Path) -> Vec<PathBuf> {
    let paths = describe(top).into_keys();
    paths
        .filter(|path| path.to_string_lossy().contains(".banger-"))
        .collect()
}

#[test]
fn attributes_survive() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, "x").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    if let Err(error) = rustix::fs::setxattr(&file, "user.banger", b"a\0=\n", flags) {
        eprintln!("skipped: this file system has no attributes: {error}");
        return;
    }
    unpack_into(&pack(&file).unwrap(), place.path(), "copy").unwrap();
    let mut value = [0; 10];
    let length =
        rustix::fs::getxattr(place.path().join("copy"), "user.banger", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"a\0=\n");
}

#[test]
fn a_single_file_or_link_survives() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    fs::write(at("file"), "x").unwrap();
    fs::create_dir(at("directory")).unwrap();
    fs::write(at("directory/inside"), "y").unwrap();
    symlink("directory", at("link")).unwrap();
    symlink("file", at("link to file")).unwrap();
    symlink("nothing", at("dangling")).unwrap();
    for (source, copied) in [
        ("file", "file"),
        // What is named is meant, a link to nothing apart.
        ("link to file", "file"),
        ("link", "directory"),
        ("link/", "directory"),
        ("dangling", "dangling"),
    ] {
        let bytes = pack(&at(source)).unwrap();
        let copy = format!("copy of {}", source.replace('/', "+"));
        unpack_into(&bytes, place.path(), &copy).unwrap();
        assert_eq!(describe(&at(&copy)), describe(&at(copied)), "{source}");
    }
}

#[test]
fn what_cannot_be_copied_is_said() {
    let place = tempfile::tempdir().unwrap();
    let missing = pack(&place.path().join("missing\x1b[2J")).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    assert!(
        missing
            .to_string()
            .contains("missing\u{fffd}[2J` does not exist")
    );
    let device = pack(Path::new("/dev/null")).unwrap_err();
    assert!(
        device.to_string().contains("`/dev/null` is neither"),
        "{device}"
    );
    create_deep(place.path(), MAX_DEPTH);
    let error = pack(place.path()).unwrap_err();
    assert!(error.to_string().contains("too deep"), "{error}");
    assert!(pack(&place.path().join("d")).is_ok(), "one less is fine");
}

/// Step by step: the whole path is longer than a system call takes.
fn create_deep(top: &Path, depth: usize) {
    let mut here = rustix::fd::OwnedFd::from(File::open(top).unwrap());
    for _ in 0..depth {
        rustix::fs::mkdirat(&here, "d", 0o755.into()).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        here = rustix::fs::openat(&here, "d", flags, rustix::fs::Mode::empty()).unwrap();
    }
}

#[test]
fn made_up_files_have_their_content() {
    let place = tempfile::tempdir().unwrap();
    // Says that it is empty, and is not.
    let bytes = pack(Path::new("/proc/self/status")).unwrap();
    unpack_into(&bytes, place.path(), "status").unwrap();
    assert!(
        fs::read_to_string(place.path().join("status"))
            .unwrap()
            .starts_with("Name:")
    );
    let mut bytes = Vec::new();
    let copied = archive_out(Path::new("/proc/self/ns/"), &mut bytes).unwrap();
    assert!(copied.entries > 0, "asked for, it is copied");
}

/// Does something at the first write: everything has been opened by then.
struct Meanwhile<F: FnMut()>(Option<F>, Vec<u8>);

impl<F: FnMut()> Write for Meanwhile<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(mut act) = self.0.take() {
            act();
        }
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_changes_meanwhile() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("file");
    let write = |size: usize| fs::write(&path, vec![b'x'; size]).unwrap();
    write(BUFFER * 8);
    let resize = |size: usize| {
        let path = path.clone();
        let act = move || {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(size as u64).unwrap();
        };
        Meanwhile(Some(act), Vec::new())
    };
    let error = archive_out(&path, resize(10)).unwrap_err();
    assert!(error.to_string().contains("became shorter"), "{error}");
    write(BUFFER * 8);
    let mut grown = resize(BUFFER * 9);
    archive_out(&path, &mut grown).unwrap();
    unpack_into(&grown.1, place.path(), "copy").unwrap();
    let copy = fs::metadata(place.path().join("copy")).unwrap();
    assert_eq!(
        copy.len(),
        BUFFER as u64 * 8,
        "as it was when it was opened"
    );
}

#[test]
fn an_archive_cut_short_leaves_no_half_file() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("one"), vec![b'1'; 3000]).unwrap();
    fs::write(source.join("two"), vec![b'2'; 3000]).unwrap();
    let bytes = pack(&source).unwrap();
    for length in (0..bytes.len()).step_by(BLOCK / 2) {
        let target = tempfile::tempdir().unwrap();
        let error = unpack_into(&bytes[..length], target.path(), "copy").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}");
        for name in ["one", "two"] {
            if let Ok(content) = fs::read(target.path().join("copy").join(name)) {
                assert_eq!(content.len(), 3000, "{length}");
            }
        }
        assert_eq!(leftovers(target.path()), Vec::<PathBuf>::new(), "{length}");
    }
}

/// An entry as an attacker writes it.
fn entry(path: &[u8], kind: u8, link: &[u8], data: &[u8], mode: u32) -> Vec<u8> {
    let attributes = Attributes {
        mode,
        ..Attributes::default()
    };
    let header = Header {
        path,
        link,
        kind,
        size: data.len() as u64,
        attributes,
    };
    let mut bytes = header::encode(&header, Records::default()).unwrap();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn end(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend_from_slice(&[0; 2 * BLOCK]);
    bytes
}

fn file(path: &str, data: &str) -> Vec<u8> {
    entry(path.as_bytes(), header::FILE, b"", data.as_bytes(), 0o644)
}

fn directory(path: &str) -> Vec<u8> {
    entry(path.as_bytes(), header::DIRECTORY, b"", b"", 0o755)
}

fn link(path: &str, kind: u8, target: &str) -> Vec<u8> {
    entry(path.as_bytes(), kind, target.as_bytes(), b"", 0o777)
}

/// A destination with something precious beside it that nothing may touch.
struct Scene {
    place: tempfile::TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Scene {
    fn new() -> Scene {
        let place = tempfile::tempdir().unwrap();
        let outside = place.path().join("outside");
        fs::create_dir_all(outside.join("a/b")).unwrap();
        fs::write(outside.join("precious"), "precious").unwrap();
        fs::write(outside.join("a/precious"), "precious").unwrap();
        fs::create_dir(place.path().join("inside")).unwrap();
        let before = describe(&outside);
        Scene { place, before }
    }

    fn inside(&self) -> PathBuf {
        self.place.path().join("inside")
    }

    fn unpack(&self, bytes: &[u8]) -> io::Result<Copied> {
        let result = unpack_into(bytes, &self.inside(), "copy");
        assert_eq!(self.before, describe(&self.place.path().join("outside")));
        let names: Vec<_> = fs::read_dir(self.place.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
        for entry in fs::read_dir(self.inside()).unwrap() {
            assert_eq!(entry.unwrap().file_name(), "copy");
        }
        result
    }
}

#[test]
fn no_archive_gets_out() {
    let outside = "../../outside";
    let attacks: Vec<(&str, Vec<Vec<u8>>)> = vec![
        (
            "upwards",
            vec![directory("root"), file("root/../../outside/x", "x")],
        ),
        ("upwards at once", vec![file("../outside/precious", "x")]),
        ("absolute", vec![file("/tmp/banger-must-not-exist", "x")]),
        ("beside", vec![file("rootx", "x")]),
        ("dots", vec![directory("root"), file("root/./x", "x")]),
        ("empty parts", vec![directory("root"), file("root//x", "x")]),
        ("nothing", vec![file("", "x")]),
        ("no top", vec![file("root/x", "x")]),
        ("the parent", vec![directory("..")]),
        (
            "through a link",
            vec![
                directory("root"),
                link("root/l", header::SYMLINK, outside),
                file("root/l/precious", "x"),
            ],
        ),
        (
            "through a top link",
            vec![
                link("root", header::SYMLINK, "../outside"),
                file("root/precious", "x"),
            ],
        ),
        (
            "a directory that is a link",
            vec![
                directory("root"),
                link("root/l", header::SYMLINK, outside),
                directory("root/l"),
            ],
        ),
        (
            "a hard link outside",
            vec![
                directory("root"),
                link("root/h", header::HARD_LINK, "root/../../outside/precious"),
            ],
        ),
        (
            "a hard link through a link",
            vec![
                directory("root"),
                link("root/l", header::SYMLINK, outside),
                link("root/h", header::HARD_LINK, "root/l/precious"),
            ],
        ),
        (
            "a hard link to a link",
            vec![
                directory("root"),
                link("root/l", header::SYMLINK, "../../outside/precious"),
                link("root/h", header::HARD_LINK, "root/l"),
            ],
        ),
        (
            "a hard link to the top",
            vec![directory("root"), link("root/h", header::HARD_LINK, "root")],
        ),
        ("a link to nothing", vec![link("root", header::SYMLINK, "")]),
        (
            "a file over a directory",
            vec![directory("root"), directory("root/d"), file("root/d", "x")],
        ),
        (
            "a directory over a file",
            vec![directory("root"), file("root/f", "x"), directory("root/f")],
        ),
        ("nothing at all", vec![]),
        (
            "a link with data",
            vec![entry(b"root", header::SYMLINK, b"a", b"data", 0)],
        ),
        ("an unknown kind", vec![entry(b"root", b'L', b"", b"", 0)]),
        (
            "a long name",
            vec![
                directory("root"),
                file(&format!("root/{}", "n".repeat(4096)), "x"),
            ],
        ),
        (
            "a deep name",
            vec![
                directory("root"),
                file(&format!("root{}", "/d".repeat(1024)), "x"),
            ],
        ),
        (
            "two descriptions",
            vec![
                entry(b"x", b'x', b"", b"", 0),
                entry(b"x", b'x', b"", b"", 0),
            ],
        ),
    ];
    for (name, entries) in attacks {
        let scene = Scene::new();
        assert!(scene.unpack(&end(entries.concat())).is_err(), "{name}");
    }
}

#[test]
fn names_with_nul_get_nowhere() {
    // Only a record can say one: a header's field ends there.
    let mut records = Records::default();
    records.add(header::KEY_PATH, b"root/a\0b");
    let header = Header {
        path: b"root/a",
        link: b"",
        kind: header::FILE,
        size: 0,
        attributes: Attributes::default(),
    };
    let bytes = [directory("root"), header::encode(&header, records).unwrap()].concat();
    let error = Scene::new().unpack(&end(bytes)).unwrap_err();
    assert!(error.to_string().contains("unsafe name"), "{error}");
    assert!(!error.to_string().contains('\0'));
}

#[test]
fn existing_files_are_replaced_and_not_written_through() {
    let scene = Scene::new();
    let copy = scene.inside().join("copy");
    fs::create_dir(&copy).unwrap();
    symlink("../../outside/precious", copy.join("link")).unwrap();
    fs::hard_link(
        scene.inside().join("../outside/a/precious"),
        copy.join("hard"),
    )
    .unwrap();
    // The number of names is part of the description.
    let scene = Scene {
        before: describe(&scene.place.path().join("outside")),
        ..scene
    };
    let bytes = [directory("root"), file("root/link", "new")].concat();
    scene.unpack(&end(bytes)).unwrap();
    assert_eq!(fs::read(copy.join("link")).unwrap(), b"new");
    assert!(fs::symlink_metadata(copy.join("link")).unwrap().is_file());
    let bytes = [directory("root"), file("root/hard", "new")].concat();
    unpack_into(&end(bytes), &scene.inside(), "copy").unwrap();
    let outside = scene.place.path().join("outside/a/precious");
    assert_eq!(fs::read(outside).unwrap(), b"precious");
}

#[test]
fn rights_are_not_given_away() {
    let place = tempfile::tempdir().unwrap();
    let bytes = [
        directory("root"),
        entry(b"root/su", header::FILE, b"", b"x", 0o6755),
        entry(b"root/dir", header::DIRECTORY, b"", b"", 0o2755),
    ]
    .concat();
    unpack_into(&end(bytes), place.path(), "copy").unwrap();
    for name in ["su", "dir"] {
        let mode = fs::metadata(place.path().join("copy").join(name))
            .unwrap()
            .mode();
        assert_eq!(mode & 0o7777, 0o755, "{name}");
    }
}

#[test]
fn devices_are_left_out() {
    let place = tempfile::tempdir().unwrap();
    let bytes = [
        directory("root"),
        entry(b"root/null", b'3', b"", b"", 0o666),
        entry(b"root/pipe", b'6', b"", b"", 0o666),
    ]
    .concat();
    let copied = unpack_into(&end(bytes), place.path(), "copy").unwrap();
    assert_eq!((copied.entries, copied.left_out), (1, 2));
    assert_eq!(describe(&place.path().join("copy")).len(), 1);
}

#[test]
fn lying_sizes_cost_nothing() {
    let lie = |size: u64, records: Records| {
        let header = Header {
            path: b"root",
            link: b"",
            kind: header::FILE,
            size,
            attributes: Attributes::default(),
        };
        header::encode(&header, records).unwrap()
    };
    let scene = Scene::new();
    let error = scene
        .unpack(&lie(u64::MAX, Records::default()))
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    // Eight exbibytes of hole.
    let mut records = Records::default();
    records.add(header::KEY_SPARSE_MAJOR, b"1");
    records.add(header::KEY_SPARSE_MINOR, b"0");
    records.add(header::KEY_SPARSE_SIZE, u64::MAX.to_string().as_bytes());
    let mut bytes = lie(BLOCK as u64, records);
    bytes.extend_from_slice(b"0\n");
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    assert!(scene.unpack(&end(bytes)).is_err());
    // Records of four gibibytes.
    let header = Header {
        path: b"x",
        link: b"",
        kind: header::EXTENDED,
        size: 4 << 30,
        attributes: Attributes::default(),
    };
    let bytes = header::encode(&header, Records::default()).unwrap();
    let error = scene.unpack(&bytes).unwrap_err();
    assert!(error.to_string().contains("too much"), "{error}");
    assert_eq!(fs::read_dir(scene.inside()).unwrap().count(), 0);
}

#[test]
fn the_tar_program_agrees() {
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    everything(&source);
    let archive = place.path().join("archive.tar");
    fs::write(&archive, pack(&source).unwrap()).unwrap();
    let tar = |arguments: &[&OsStr]| {
        Command::new("tar")
            .args(arguments)
            .current_dir(place.path())
            .status()
    };
    let extract = ["-xpf".as_ref(), archive.as_os_str()];
    match tar(&extract) {
        Ok(status) => assert!(status.success()),
        Err(error) => {
            eprintln!("skipped: no tar program: {error}");
            return;
        }
    }
    assert_eq!(describe(&source), describe(&place.path().join("root")));
    // And its archives are ours.
    let theirs = place.path().join("theirs.tar");
    let create = ["--format=posix", "--sparse", "-cf"].map(OsStr::new);
    let create = [&create[..], &[theirs.as_os_str(), "root".as_ref()]].concat();
    assert!(tar(&create).unwrap().success());
    unpack_into(&fs::read(&theirs).unwrap(), place.path(), "back").unwrap();
    assert_eq!(describe(&source), describe(&place.path().join("back")));
    for tree in ["source", "root", "back"] {
        let closed = place.path().join(tree).join("closed");
        fs::set_permissions(closed, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Names made of the parts that hurt.
fn hostile_name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a", "a", "a", "a", "b", "precious", "precious", "..", ".", "",
    ]);
    let top = prop::sample::select(vec![
        "root", "root", "root", "root", "root", "root", "root", "..", "", "copy",
    ]);
    (top, prop::collection::vec(part, 0..4)).prop_map(|(top, parts)| {
        let mut name = top.to_owned();
        for part in parts {
            name.push('/');
            name.push_str(part);
        }
        name
    })
}

fn hostile_target() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "../../outside",
        "../../outside",
        "../../outside",
        "../outside",
        "../../outside/precious",
        "/",
        "/tmp",
        ".",
        "..",
        "a",
        "root/a",
        "root/b",
        "root/a/b",
        "root/../outside/precious",
    ])
    .prop_map(str::to_owned)
}

fn hostile_entry() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop::sample::select(vec![
        header::FILE,
        header::FILE,
        header::DIRECTORY,
        header::DIRECTORY,
        header::SYMLINK,
        header::SYMLINK,
        header::HARD_LINK,
        b'3',
    ]);
    (hostile_name(), kind, hostile_target()).prop_map(|(name, kind, target)| match kind {
        header::FILE => entry(name.as_bytes(), kind, b"", b"evil", 0o4777),
        _ => entry(name.as_bytes(), kind, target.as_bytes(), b"", 0o4777),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn hostile_entries_stay_inside(entries in prop::collection::vec(hostile_entry(), 0..12)) {
        let scene = Scene::new();
        let bytes = [directory("root"), entries.concat()].concat();
        drop(scene.unpack(&end(bytes)));
        prop_assert!(leftovers(&scene.inside()).is_empty());
    }

    #[test]
    fn damaged_archives_stay_inside(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut records = Records::default();
        records.add(header::KEY_SPARSE_MAJOR, b"1");
        records.add(header::KEY_SPARSE_MINOR, b"0");
        records.add(header::KEY_SPARSE_SIZE, b"5000");
        records.add(header::KEY_PATH, b"root/sparse");
        let attributes = Attributes { mode: 0o644, ..Attributes::default() };
        let header = Header {
            path: b"", link: b"", kind: header::FILE, size: 516, attributes,
        };
        let mut sparse = header::encode(&header, records).unwrap();
        sparse.extend_from_slice(b"1\n4000\n4\n");
        sparse.resize(sparse.len().next_multiple_of(BLOCK), 0);
        sparse.extend_from_slice(b"data");
        sparse.resize(sparse.len().next_multiple_of(BLOCK), 0);
        let mut bytes = end([
            directory("root"),
            file("root/a", "a"),
            sparse,
            link("root/l", header::SYMLINK, "../../outside"),
            link("root/h", header::HARD_LINK, "root/a"),
        ].concat());
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // Right sums let the damage get further.
        for block in bytes.chunks_exact_mut(BLOCK) {
            if &block[257..262] == b"ustar" {
                let sum = block[..148].iter().chain(&block[156..]).map(|byte| u32::from(*byte));
                let sum = sum.sum::<u32>() + 8 * u32::from(b' ');
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let scene = Scene::new();
        drop(scene.unpack(&bytes));
        drop(scene.unpack(&bytes[..cut.index(bytes.len())]));
        prop_assert!(leftovers(&scene.inside()).is_empty());
    }

    #[test]
    fn garbage_never_panics(bytes: Vec<u8>) {
        prop_assert!(Scene::new().unpack(&bytes).is_err());
    }
}

#[test]
fn ten_thousand_files_are_quick() {
    let place = tempfile::tempdir().unwrap();
    let mut bytes = directory("root");
    for number in 0..10_000 {
        if number % 100 == 0 {
            bytes.extend(directory(&format!("root/{}", number / 100)));
        }
        bytes.extend(file(&format!("root/{}/{number}", number / 100), "small"));
    }
    let bytes = end(bytes);
    let start = std::time::Instant::now();
    let copied = unpack_into(&bytes, place.path(), "copy").unwrap();
    assert_eq!(copied.entries, 10_101);
    let packed = pack(&place.path().join("copy")).unwrap();
    let took = start.elapsed();
    assert!(packed.len() >= bytes.len());
    // A flush for each would take minutes on a disk.
    assert!(took < Duration::from_secs(20), "{took:?}");
    println!("{took:?}");
}
