//! Sparse files stay sparse, in every way in which archives store them.

use std::process::Command;

use crate::support::tarball::{Tar, item, sum, tar};
use crate::support::{check, check_alone, flatten, refuse, scratch};

/// What programs write: GNU tar, in all its formats.
#[test]
fn gnu_tar_makes_them() {
    let directory = scratch();
    let file = std::fs::File::create(directory.path().join("holes")).unwrap();
    use std::os::unix::fs::FileExt;
    for number in 0..40_u64 {
        file.write_all_at(format!("piece {number}").as_bytes(), number << 18)
            .unwrap();
    }
    file.set_len(50 << 18).unwrap();
    drop(file);
    let plain = std::fs::read(directory.path().join("holes")).unwrap();
    let formats: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ];
    for format in formats {
        let output = Command::new("tar")
            .args(["--sparse", "--owner=0:0", "--group=0:0", "--mode=0644"])
            .args(format)
            .arg("-C")
            .arg(directory.path())
            .args(["-cf", "-", "holes"])
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(output.stdout.len() < 1 << 20, "the archive is sparse");
        let layer = output.stdout;
        let attempt = flatten(std::slice::from_ref(&layer));
        let tree = attempt.tree();
        let node = &tree[&b"holes"[..]];
        assert_eq!(
            node.hash,
            crate::support::digest(&plain).as_str(),
            "{format:?}"
        );
        // 40 pieces of a block, and one of their map.
        assert_eq!(node.blocks, Some(41 * 8), "{format:?}");
        assert!(attempt.outcome.unwrap().size < 1 << 20);
        // umoci does not know the type that GNU's own format has for it.
        if format != ["--format=gnu"] {
            crate::support::tree::assert_same(tree, crate::support::second::unpack(&[layer]));
        }
    }
}

/// An archive with one sparse file in the newest of the pax formats.
fn newest(map: &str, size: &str, data: &[u8]) -> Tar {
    let mut stored = map.as_bytes().to_vec();
    stored.resize(stored.len().next_multiple_of(512), 0);
    stored.extend_from_slice(data);
    tar()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"real"),
            ("GNU.sparse.realsize", size.as_bytes()),
        ])
        .file("GNUSparseFile.0/real", stored)
}

#[test]
fn holes_at_either_end_and_pieces_within_a_block() {
    check(
        &[newest("2\n10\n3\n5000\n2\n", "9000", b"abcde").end()],
        &["f 644 0:0 real 9000 bytes"],
    );
    check(
        &[newest("0\n", "20", b"").file("after", "x").end()],
        &["f 644 0:0 after =x", "f 644 0:0 real 20 bytes"],
    );
    check(
        &[newest("3\n0\n2\n3\n1\n9\n0\n", "9", b"xyz").end()],
        &["f 644 0:0 real 9 bytes"],
    );
}

#[test]
fn giants_take_no_room() {
    let size = 10_u64 << 30;
    let map = format!("2\n0\n1\n{}\n1\n", size - 1);
    // umoci writes the zeroes, all of them.
    let tree = check_alone(
        &[newest(&map, &size.to_string(), b"ab").end()],
        &["f 644 0:0 real 10737418240 bytes"],
    );
    assert_eq!(tree[&b"real"[..]].blocks, Some(16));
    // The largest that ext4 knows, and one more.
    let largest = (1_u64 << 44) - 4096;
    check_alone(
        &[newest("0\n", &largest.to_string(), b"").end()],
        &["f 644 0:0 real 17592186040320 bytes"],
    );
    refuse(
        &[newest("0\n", &(largest + 1).to_string(), b"").end()],
        &["real", "longer than ext4"],
    );
}

#[test]
fn maps_that_lie_are_refused() {
    for (map, size, data) in [
        ("1\n0\n5\n", "5", &b"abcd"[..]),
        ("1\n0\n3\n", "5", b"abcd"),
        ("1\n3\n4\n", "5", b"abcd"),
        ("2\n4\n2\n0\n2\n", "9", b"abcd"),
        ("2\n0\n2\n1\n2\n", "9", b"abcd"),
        ("1\n-1\n4\n", "9", b"abcd"),
        ("1\n9223372036854775807\n4\n", "9", b"abcd"),
        ("x\n", "9", b""),
        ("999999\n", "9", b""),
        ("1\n0\n", "9", b""),
        ("0\n", "-9", b""),
    ] {
        refuse(&[newest(map, size, data).end()], &["GNUSparseFile.0/real"]);
    }
    let old = |records: &[(&str, &[u8])]| tar().pax(records).file("f", "abcd").end();
    refuse(&[old(&[("GNU.sparse.map", b"0,4,9")])], &["sparse"]);
    refuse(&[old(&[("GNU.sparse.map", b"0,4")])], &["no length"]);
    refuse(&[old(&[("GNU.sparse.major", b"2")])], &["not known"]);
    refuse(&[old(&[("GNU.sparse.numbytes", b"4")])], &["sparse"]);
    // A GNU header whose list goes on beyond the end.
    let mut header = item(b'S', "s").data("abcd").gnu().header();
    header[386..398].copy_from_slice(b"00000000000\0");
    header[398..410].copy_from_slice(b"00000000004\0");
    header[482] = 1;
    header[483..495].copy_from_slice(b"00000000004\0");
    sum(&mut header);
    refuse(&[tar().raw(&header).open_end()], &["`s`", "in the middle"]);
}
