//! Archives that nobody makes by accident are refused: the layer and the entry are named, and
//! nothing is left.

use crate::support::tarball::{gzip, item, sum, tar, unpacked, zstd};
use crate::support::{flatten_with, options, refuse};

#[test]
fn names_that_leave_the_root() {
    for name in [
        "../x",
        "..",
        "a/../../x",
        "/../x",
        "./..//x",
        "a/b/../../../x",
    ] {
        refuse(&[tar().file(name, "x").end()], &[name, "leaves the root"]);
        refuse(&[tar().dir(name).end()], &[name, "leaves the root"]);
        refuse(
            &[tar().pax(&[("path", name.as_bytes())]).file("x", "").end()],
            &[name, "leaves the root"],
        );
        refuse(
            &[tar()
                .add(item(b'L', "long").data(name).gnu())
                .add(item(b'0', "x").gnu())
                .end()],
            &[name, "leaves the root"],
        );
        refuse(
            &[tar().file("f", "").hard_link("link", name).end()],
            &["`link`", name, "leaves the root"],
        );
    }
    refuse(
        &[tar().file("../.wh.x", "").end()],
        &["../.wh.x", "leaves the root"],
    );
}

#[test]
fn whiteouts_of_everything() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.", "/.wh.."] {
        refuse(
            &[tar().file("a/b", "").end(), tar().file(name, "").end()],
            &[name, "whiteout", "layer 1"],
        );
    }
    refuse(
        &[tar().file(".wh.x/y", "").end()],
        &[".wh.x/y", "below a whiteout"],
    );
}

#[test]
fn the_root_is_a_directory() {
    for name in ["/", ".", "", "a/.."] {
        refuse(&[tar().file(name, "x").end()], &["root directory"]);
        refuse(&[tar().symlink(name, "x").end()], &["root directory"]);
    }
    refuse(
        &[tar().file("f", "").hard_link("", "f").end()],
        &["root directory"],
    );
    let attempt = crate::support::flatten(&[tar().file("lost+found", "x").end()]);
    let chain = attempt.outcome.unwrap_err().chain();
    assert!(chain.contains("lost+found"), "{chain}");
}

#[test]
fn links_that_lead_nowhere() {
    refuse(
        &[tar().hard_link("a", "missing").end()],
        &["`a`", "`missing` does not exist"],
    );
    refuse(
        &[tar().hard_link("a", "b").file("b", "").end()],
        &["`a`", "does not exist"],
    );
    refuse(
        &[tar().dir("d").hard_link("a", "d").end()],
        &["`d` is a directory"],
    );
    refuse(&[tar().hard_link("a", "/").end()], &["is a directory"]);
    refuse(
        &[tar().file("a", "").hard_link("a", "a").end()],
        &["does not exist"],
    );
    // Hidden by a whiteout, or by what took its place.
    refuse(
        &[
            tar().file("a", "").end(),
            tar().whiteout("a").hard_link("b", "a").end(),
        ],
        &["`b`", "does not exist"],
    );
    refuse(
        &[
            tar().file("d/a", "").end(),
            tar().file("d", "").hard_link("b", "d/a").end(),
        ],
        &["`b`", "`d` on its way"],
    );
    refuse(
        &[tar().symlink("l", "l").file("l/x", "").end()],
        &["`l/x`", "too many symbolic links"],
    );
    refuse(
        &[tar()
            .symlink("a", "b/x")
            .symlink("b", "a/x")
            .dir("a/c")
            .end()],
        &["too many symbolic links"],
    );
    refuse(
        &[tar().file("f", "").file("f/x", "").end()],
        &["`f/x`", "`f` on its way is not a directory"],
    );
    refuse(&[tar().symlink("l", "").end()], &["`l`", "target"]);
}

#[test]
fn headers_that_lie() {
    let with = |change: &dyn Fn(&mut [u8; 512])| {
        let mut header = item(b'0', "name").header();
        change(&mut header);
        sum(&mut header);
        tar().raw(&header).end()
    };
    refuse(
        &[with(&|header| header[124..136].fill(0xff))],
        &["negative"],
    );
    refuse(&[with(&|header| header[124] = b'9')], &["`name`", "size"]);
    refuse(&[with(&|header| header[108] = b'x')], &["owner"]);
    refuse(
        &[with(&|header| header[108..116].fill(0xff))],
        &["owner, -1"],
    );
    refuse(&[with(&|header| header[156] = b'Z')], &["type", "`Z`"]);
    for id in ["4294967295", "4294967296", "-1", "x"] {
        let layer = tar().pax(&[("gid", id.as_bytes())]).file("f", "").end();
        refuse(
            &[layer],
            &["group"].map(|word| if id == "x" { "number" } else { word }),
        );
    }
    refuse(
        &[tar().add(item(b'3', "dev").device(4096, 0).gnu()).end()],
        &["`dev`", "4096 and 0"],
    );
    // A size of almost everything there is: the stream ends before.
    refuse(
        &[tar().add(item(b'0', "f").size(u64::MAX >> 1).gnu()).end()],
        &["`f`", "longer than ext4"],
    );
    refuse(
        &[tar().add(item(b'0', "f").size(1 << 40).gnu()).end()],
        &["in the middle"],
    );
    refuse(
        &[tar().add(item(b'0', "f").size(10_000)).end()],
        &["in the middle"],
    );
    refuse(
        &[tar().add(item(b'x', "p").size(2 << 20)).end()],
        &["larger than 1048576"],
    );
    refuse(
        &[tar().add(item(b'L', "p").size(1 << 40).gnu()).end()],
        &["larger than 1048576"],
    );
    refuse(&[tar().pax(&[("path", b"x")]).end()], &["announces"]);
    refuse(
        &[tar().pax(&[("path", b"a\0b")]).file("x", "").end()],
        &["NUL"],
    );
    // Not a header at all, or one behind the end.
    refuse(&[vec![7; 2048]], &["no tar archive"]);
    refuse(
        &[tar().raw(&[0; 512]).file("late", "").end()],
        &["behind the end"],
    );
    let mut damaged = tar().file("f", "x").end();
    damaged[0] ^= 1;
    refuse(&[damaged], &["damaged"]);
}

#[test]
fn names_in_messages_are_escaped() {
    let attempt = flatten_with(
        &[tar().file("../\x1b[2J\nok \u{202e}", "").end()],
        true,
        &options(),
    );
    let chain = attempt.outcome.unwrap_err().chain();
    assert!(chain.contains("../\\u{1b}[2J\\nok \\u{202e}"), "{chain}");
}

#[test]
fn attributes_that_ext4_cannot_store() {
    let with = |name: &str, value: &[u8]| tar().pax(&[(name, value)]).file("f", "").end();
    let large = vec![b'x'; 5000];
    refuse(&[with("SCHILY.xattr.user.a", &large)], &["`f`", "`user.a`"]);
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(256));
    refuse(&[with(&name, b"x")], &["not valid"]);
    refuse(&[with("SCHILY.xattr.user.", b"x")], &["not valid"]);
    refuse(
        &[with("SCHILY.xattr.system.posix_acl_access", b"x")],
        &["permissions"],
    );
    refuse(&[with("LIBARCHIVE.xattr.user.a", b"%%")], &["encoded"]);
    let half = vec![b'x'; 2100];
    refuse(
        &[tar()
            .pax(&[
                ("SCHILY.xattr.user.a", &half),
                ("SCHILY.xattr.user.b", &half),
            ])
            .file("f", "")
            .end()],
        &["`f`", "together"],
    );
}

#[test]
fn layers_cut_short_at_any_point() {
    let plain = tar()
        .dir("d")
        .file("d/f", "x".repeat(5000))
        .pax(&[("path", b"long")])
        .file("x", "y".repeat(700))
        .symlink("l", "d")
        .end();
    for layer in [plain.clone(), gzip(&plain), zstd(&plain)] {
        for point in 0..64 {
            let end = point * layer.len() / 64;
            let cut = layer[..end].to_vec();
            let attempt = flatten_with(&[cut], false, &options());
            assert!(attempt.outcome.is_err(), "at {end} of {}", layer.len());
        }
    }
    // With only the first of the two blocks at the end, it is not cut short: so reads Go.
    let whole = plain[..plain.len() - 512].to_vec();
    flatten_with(&[whole], false, &options()).outcome.unwrap();
}

#[test]
fn damage_anywhere_is_found() {
    let layer = tar().file("f", "x".repeat(3000)).end();
    let digest = crate::support::digest(&layer);
    for packed in [layer.clone(), gzip(&layer), zstd(&layer)] {
        for point in 0..32 {
            let mut damaged = packed.clone();
            damaged[point * packed.len() / 32] ^= 0x10;
            // Some bits of the compression mean nothing.
            if unpacked(&damaged) == layer && damaged[..4] == packed[..4] {
                continue;
            }
            let directory = crate::support::scratch();
            let path = directory.path().join("layer");
            std::fs::write(&path, &damaged).unwrap();
            let layers = [banger_layers::Layer {
                path,
                diff_id: Some(digest.clone()),
                name: "damaged".to_owned(),
            }];
            let watch = banger_layers::Watch::new(&|_, _| {}, &|| false);
            let disk = directory.path().join("disk");
            let outcome = banger_layers::flatten(&layers, &disk, &options(), &watch);
            assert!(outcome.is_err(), "at {point}");
            assert!(!disk.exists());
        }
    }
}

#[test]
fn other_compressions_are_named() {
    for (magic, name) in [(&b"BZh91AY"[..], "bzip2"), (b"\xfd7zXZ\0\0", "xz")] {
        refuse(&[magic.to_vec()], &[name]);
    }
    // A file of that name is no compression.
    crate::support::check(&[tar().file("BZh", "").end()], &["f 644 0:0 BZh ="]);
}
