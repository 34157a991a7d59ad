//! Archives of all kinds: what the image of each has in it, entry by entry, and that umoci makes
//! the same tree of it.

use crate::support::tarball::{gzip, item, tar, zstd};
use crate::support::{check, check_alone, flatten};

#[test]
fn plain_trees() {
    check(&[tar().end()], &[]);
    check(
        &[tar()
            .dir("./")
            .dir("a")
            .file("a/b", "one")
            .symlink("a/c", "../x")
            .hard_link("a/d", "a/b")
            .end()],
        &[
            "d 755 0:0 a",
            "f 644 0:0 a/b =one",
            "l 777 0:0 a/c -> ../x",
            "f 644 0:0 a/d same as a/b",
        ],
    );
    // The root itself has an owner and a mode.
    check(
        &[tar().add(item(b'5', "/").mode(0o1711).owner(5, 6)).end()],
        &["d 1711 5:6 "],
    );
    // Parents that no entry describes are root's.
    check(
        &[tar().add(item(b'0', "x/y/z").owner(7, 8)).end()],
        &["d 755 0:0 x", "d 755 0:0 x/y", "f 644 7:8 x/y/z ="],
    );
    // Old archives: a directory is a file with a slash, a file has type NUL.
    check(
        &[tar()
            .add(item(0, "dir/").mode(0o750))
            .add(item(0, "dir/file").data("x"))
            .end()],
        &["d 750 0:0 dir", "f 644 0:0 dir/file =x"],
    );
    check(&[], &[]);
}

#[test]
fn compression_is_found_out() {
    let plain = tar().file("a", "x").end();
    let second = tar().file("b", "y").end();
    let tree = ["f 644 0:0 a =x", "f 644 0:0 b =y"];
    check(&[gzip(&plain), second.clone()], &tree);
    check(&[plain.clone(), zstd(&second)], &tree);
    // Several members or frames, cut anywhere, are one stream.
    let (head, tail) = plain.split_at(700);
    let twice = [gzip(head), gzip(tail)].concat();
    check(&[twice, gzip(&second)], &tree);
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let twice = [&skippable[..], &zstd(head), &zstd(tail), &skippable].concat();
    // The helper that makes the digest for the test goes by the first bytes.
    let attempt = crate::support::flatten_with(&[twice, second], false, &crate::support::options());
    assert_eq!(crate::support::tree::describe(&attempt.tree()), tree);
}

#[test]
fn owners_and_modes() {
    let big = u64::from(u32::MAX) - 1;
    check(
        &[tar()
            .add(item(b'0', "suid").mode(0o4755).owner(1000, 1000))
            .add(item(b'0', "sgid").mode(0o2711).owner(0, 42))
            .add(item(b'0', "none").mode(0))
            .add(item(b'5', "sticky").mode(0o1777))
            .add(item(b'5', "closed").mode(0))
            .add(item(b'0', "closed/in").mode(0o400))
            .add(item(b'0', "typed").mode(0o100_644))
            .add(item(b'2', "link").link("x").owner(3, 4))
            .end()],
        &[
            "d 0 0:0 closed",
            "f 400 0:0 closed/in =",
            "l 777 3:4 link -> x",
            "f 0 0:0 none =",
            "f 2711 0:42 sgid =",
            "d 1777 0:0 sticky",
            "f 4755 1000:1000 suid =",
            "f 644 0:0 typed =",
        ],
    );
    check(
        &[tar()
            .add(item(b'0', "big").owner(big, 70_000).gnu())
            .pax(&[("uid", b"4294967294"), ("gid", b"3000000000")])
            .file("pax", "")
            .end()],
        &[
            "f 644 4294967294:70000 big =",
            "f 644 4294967294:3000000000 pax =",
        ],
    );
}

#[test]
fn devices_and_fifos() {
    check(
        &[tar()
            .add(item(b'3', "null").device(1, 3).mode(0o666))
            .add(item(b'3', "zero-zero").device(0, 0))
            .add(item(b'4', "disk").device(8, 255).owner(0, 6))
            .add(item(b'4', "large").device(4095, 1_048_575).gnu())
            .add(item(b'3', "middle").device(200, 256))
            .add(item(b'6', "pipe").mode(0o600).owner(9, 9))
            .hard_link("null-too", "null")
            .end()],
        &[
            "b 644 0:6 disk 8:255",
            "b 644 0:0 large 4095:1048575",
            "c 644 0:0 middle 200:256",
            "c 666 0:0 null 1:3",
            "c 666 0:0 null-too same as null",
            "p 600 9:9 pipe",
            "c 644 0:0 zero-zero 0:0",
        ],
    );
}

#[test]
fn extended_attributes() {
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let long = vec![b'x'; 3000];
    check(
        &[tar()
            .pax(&[
                ("SCHILY.xattr.user.a", b"1"),
                ("SCHILY.xattr.user.b", b"2\n3=4"),
                ("SCHILY.xattr.user.empty", b""),
            ])
            .file("some", "")
            .pax(&[("SCHILY.xattr.user.long", &long)])
            .file("long", "")
            .pax(&[("SCHILY.xattr.user.dir", b"d")])
            .dir("dir")
            .end()],
        &[
            "d 755 0:0 dir user.dir=d",
            &format!("f 644 0:0 long = user.long={}", "x".repeat(3000)),
            "f 644 0:0 some = user.a=1 user.b=2\\n3=4",
        ],
    );
    check(
        &[tar()
            .pax(&[("SCHILY.xattr.security.capability", &capability)])
            .file("ping", "")
            .pax(&[("SCHILY.xattr.trusted.x", b"t")])
            .file("trusted", "")
            .end()],
        &[
            &format!(
                "f 644 0:0 ping = security.capability={}",
                capability.escape_ascii()
            ),
            "f 644 0:0 trusted = trusted.x=t",
        ],
    );
    // A directory of a higher layer brings all its attributes and takes those below away.
    check(
        &[
            tar().pax(&[("SCHILY.xattr.user.a", b"1")]).dir("d").end(),
            tar().pax(&[("SCHILY.xattr.user.b", b"2")]).dir("d").end(),
        ],
        &["d 755 0:0 d user.b=2"],
    );
    // Go does not know libarchive's spelling, nor the attributes of macOS.
    check_alone(
        &[tar()
            .pax(&[
                ("LIBARCHIVE.xattr.user.a%3Db", b"eHl6"),
                ("LIBARCHIVE.xattr.com.apple.provenance", b"AAA="),
                ("SCHILY.xattr.com.apple.provenance", b"z"),
            ])
            .file("mac", "")
            .end()],
        &["f 644 0:0 mac = user.a=b=xyz"],
    );
    let acl = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 100, 0, 0, 0, 4, 0, 4, 0, 255, 255,
        255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
    ];
    check(
        &[tar()
            .pax(&[("SCHILY.xattr.system.posix_acl_access", &acl)])
            .file("acl", "")
            .end()],
        &[&format!(
            "f 644 0:0 acl = system.posix_acl_access={}",
            acl.escape_ascii()
        )],
    );
}

#[test]
fn names_of_all_kinds() {
    let long = "n".repeat(255);
    let path = format!("{}/{long}", "d".repeat(200));
    let target = "t".repeat(4000);
    check(
        &[tar()
            .pax(&[("path", path.as_bytes())])
            .file("short", "pax")
            .pax(&[("linkpath", target.as_bytes())])
            .symlink("link", "x")
            .symlink("59", "s".repeat(59))
            .symlink("60", "s".repeat(60))
            .end()],
        &[
            &format!("l 777 0:0 59 -> {}", "s".repeat(59)),
            &format!("l 777 0:0 60 -> {}", "s".repeat(60)),
            &format!("d 755 0:0 {}", "d".repeat(200)),
            &format!("f 644 0:0 {path} =pax"),
            &format!("l 777 0:0 link -> {target}"),
        ],
    );
    check(
        &[tar()
            .add(item(b'L', "././@LongLink").data(format!("{path}\0")).gnu())
            .add(item(b'0', "cut").data("gnu").gnu())
            .add(item(b'L', "././@LongLink").data("link\0").gnu())
            .add(item(b'K', "././@LongLink").data(format!("{path}\0")).gnu())
            .add(item(b'1', "x").link("y").gnu())
            .end()],
        &[
            &format!("d 755 0:0 {}", "d".repeat(200)),
            &format!("f 644 0:0 {path} =gnu"),
            &format!("f 644 0:0 link same as {path}"),
        ],
    );
    // The prefix of ustar.
    let mut header = item(b'0', "name").header();
    header[345..351].copy_from_slice(b"prefix");
    crate::support::tarball::sum(&mut header);
    check(
        &[tar().raw(&header).end()],
        &["d 755 0:0 prefix", "f 644 0:0 prefix/name ="],
    );
    // What shells and scripts stumble over, and what is not UTF-8.
    check(
        &[tar()
            .file("-rf", "")
            .file(" space ", "")
            .file("quote\"'`$(x)", "")
            .file("line\nbreak", "")
            .file("back\\slash", "")
            .file("*", "")
            .file("é", "")
            .file(b"\xff\x01", "")
            .symlink("l", "a\n\"b")
            .end()],
        &[
            "f 644 0:0  space  =",
            "f 644 0:0 * =",
            "f 644 0:0 -rf =",
            "f 644 0:0 back\\\\slash =",
            "l 777 0:0 l -> a\\n\\\"b",
            "f 644 0:0 line\\nbreak =",
            "f 644 0:0 quote\\\"\\'`$(x) =",
            "f 644 0:0 é =",
            "f 644 0:0 \u{fffd}\\u{1} =",
        ],
    );
    // Names that are the same in the end.
    check(
        &[tar()
            .file("/abs", "1")
            .file("./dot/./x", "2")
            .file("a/b/../c", "3")
            .file("//twice//x", "4")
            .end()],
        &[
            "d 755 0:0 a",
            "f 644 0:0 a/c =3",
            "f 644 0:0 abs =1",
            "d 755 0:0 dot",
            "f 644 0:0 dot/x =2",
            "d 755 0:0 twice",
            "f 644 0:0 twice/x =4",
        ],
    );
    // The directory that every ext4 has may be the image's own.
    check(
        &[tar()
            .add(item(b'5', "lost+found").mode(0o750).owner(1, 1))
            .file("lost+found/x", "y")
            .end()],
        &["d 750 1:1 lost+found", "f 644 0:0 lost+found/x =y"],
    );
}

#[test]
fn times_keep_their_nanoseconds() {
    let layer = tar()
        .pax(&[("mtime", b"1700000000.123456789")])
        .file("now", "")
        .pax(&[("mtime", b"-1.5")])
        .file("before", "")
        .pax(&[("mtime", b"5000000000.25")])
        .dir("later")
        .pax(&[("mtime", b"2.000000001")])
        .symlink("link", "x")
        .end();
    let tree = check_alone(
        std::slice::from_ref(&layer),
        &[
            "f 644 0:0 before =",
            "d 755 0:0 later",
            "l 777 0:0 link -> x",
            "f 644 0:0 now =",
        ],
    );
    let times: Vec<_> = tree.values().map(|node| node.mtime).collect();
    assert_eq!(
        times[1..],
        [
            (-2, 500_000_000),
            (5_000_000_000, 250_000_000),
            (2, 1),
            (0, 0),
            (1_700_000_000, 123_456_789),
        ]
    );
    crate::support::tree::assert_same(tree, crate::support::second::unpack(&[layer]));
    // Beyond what ext4 stores, the nearest there is.
    let tree = check_alone(
        &[tar()
            .pax(&[("mtime", b"99999999999999")])
            .file("far", "")
            .end()],
        &["f 644 0:0 far ="],
    );
    assert_eq!(tree[&b"far"[..]].mtime, ((1 << 34) - (1 << 31) - 1, 0));
}

#[test]
fn files_of_all_sizes() {
    let sizes = [
        1,
        511,
        512,
        4095,
        4096,
        4097,
        300_000,
        1 << 20,
        (1 << 20) + 1,
    ];
    let bytes = |size: usize| -> Vec<u8> { (0..size).map(|at| ((at * 31) >> 3) as u8).collect() };
    let layer = sizes.iter().fold(tar(), |tar, size| {
        tar.file(format!("{size:07}"), bytes(*size))
    });
    let attempt = flatten(&[layer.clone().end()]);
    let tree = attempt.tree();
    for size in sizes {
        let node = &tree[format!("{size:07}").as_bytes()];
        assert_eq!(node.hash, crate::support::digest(&bytes(size)).as_str());
    }
    // Of files that a higher layer hides there is nothing in the image.
    let hidden = sizes
        .iter()
        .fold(tar(), |tar, size| tar.whiteout(&format!("{size:07}")));
    let second = flatten(&[layer.clone().end(), hidden.file("x", "y").end()]);
    assert!(second.outcome.as_ref().unwrap().size < 1 << 20);
    crate::support::tree::assert_same(tree, crate::support::second::unpack(&[layer.end()]));
}

#[test]
fn many_names_in_one_directory() {
    let mut layer = tar();
    for number in 0..3_000 {
        layer = layer.add(item(b'0', format!("d/{number:090}")));
    }
    let attempt = flatten(&[gzip(&layer.end())]);
    assert_eq!(attempt.outcome.as_ref().unwrap().layer_entries, 3_000);
    assert_eq!(attempt.tree().len(), 3_003);
}
