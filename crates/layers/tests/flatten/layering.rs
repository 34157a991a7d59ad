//! What layers do to each other, and links to what comes after them.

use crate::support::tarball::{Tar, item, tar};
use crate::support::{check, check_alone};

#[test]
fn whiteouts_and_opaque_directories() {
    let below = || {
        tar()
            .dir("a")
            .file("a/x", "1")
            .file("a/y", "2")
            .dir("a/sub")
            .file("a/sub/z", "3")
            .file("top", "4")
            .end()
    };
    check(
        &[below(), tar().whiteout("a/x").whiteout("top").end()],
        &[
            "d 755 0:0 a",
            "d 755 0:0 a/sub",
            "f 644 0:0 a/sub/z =3",
            "f 644 0:0 a/y =2",
        ],
    );
    check(&[below(), tar().whiteout("a").end()], &["f 644 0:0 top =4"]);
    check(
        &[below(), tar().opaque("a").end()],
        &["d 755 0:0 a", "f 644 0:0 top =4"],
    );
    // What the same layer has stays, whichever comes first.
    let expected = ["d 755 0:0 a", "f 644 0:0 a/new =5", "f 644 0:0 top =4"];
    check(
        &[below(), tar().file("a/new", "5").opaque("a").end()],
        &expected,
    );
    check(
        &[below(), tar().opaque("a").file("a/new", "5").end()],
        &expected,
    );
    check(
        &[below(), tar().file("a/new", "5").whiteout("a").end()],
        &expected,
    );
    check(
        &[below(), tar().file("a/sub/new", "5").opaque("a").end()],
        &[
            "d 755 0:0 a",
            "d 755 0:0 a/sub",
            "f 644 0:0 a/sub/new =5",
            "f 644 0:0 top =4",
        ],
    );
    check(
        &[below(), tar().dir("a/sub").opaque("a").end()],
        &["d 755 0:0 a", "d 755 0:0 a/sub", "f 644 0:0 top =4"],
    );
    // Gone, and back without what was in it.
    check(
        &[
            below(),
            tar().whiteout("a").end(),
            tar().dir("a").dir("a/sub").end(),
        ],
        &["d 755 0:0 a", "d 755 0:0 a/sub", "f 644 0:0 top =4"],
    );
    check(
        &[below(), tar().whiteout("a").file("a/x", "new").end()],
        &["d 755 0:0 a", "f 644 0:0 a/x =new", "f 644 0:0 top =4"],
    );
    check(
        &[below(), tar().file("a/x", "new").whiteout("a/x").end()],
        &[
            "d 755 0:0 a",
            "d 755 0:0 a/sub",
            "f 644 0:0 a/sub/z =3",
            "f 644 0:0 a/x =new",
            "f 644 0:0 a/y =2",
            "f 644 0:0 top =4",
        ],
    );
    check(&[below(), tar().file(".wh..wh..opq", "").end()], &[]);
    // Nothing there to hide.
    check(
        &[
            tar().file("f", "").end(),
            tar().whiteout("no").whiteout("no/no").opaque("no").end(),
        ],
        &["f 644 0:0 f ="],
    );
    // Within one layer there is nothing below.
    check(
        &[tar().file("f", "").whiteout("f").end()],
        &["f 644 0:0 f ="],
    );
    // The bookkeeping of aufs is nothing to anybody, though umoci unpacks it.
    check_alone(
        &[tar()
            .dir(".wh..wh.plnk")
            .file(".wh..wh.plnk/1.2", "x")
            .file(".wh..wh.aufs", "")
            .file("f", "")
            .end()],
        &["f 644 0:0 f ="],
    );
    // A whiteout through a symbolic link hides what is there.
    check(
        &[
            tar().file("real/x", "").symlink("link", "real").end(),
            tar().whiteout("link/x").end(),
        ],
        &["l 777 0:0 link -> real", "d 755 0:0 real"],
    );
}

#[test]
fn one_thing_over_another() {
    type Made = fn(Tar) -> Tar;
    let kinds: [(Made, &str); 4] = [
        (|tar| tar.file("n", "f"), "f 644 0:0 n =f"),
        (|tar| tar.dir("n"), "d 755 0:0 n"),
        (|tar| tar.symlink("n", "t"), "l 777 0:0 n -> t"),
        (|tar| tar.add(item(b'6', "n")), "p 644 0:0 n"),
    ];
    for (below, _) in kinds {
        for (above, expected) in kinds {
            check(&[below(tar()).end(), above(tar()).end()], &[expected]);
        }
    }
    // In one layer the last wins as well.
    check(
        &[tar()
            .file("n", "1")
            .file("n", "2")
            .dir("m")
            .file("m/in", "")
            .symlink("m", "x")
            .end()],
        &["l 777 0:0 m -> x", "f 644 0:0 n =2"],
    );
    // A directory over a directory keeps what is in it and takes the new metadata.
    check(
        &[
            tar().dir("d").file("d/x", "").end(),
            tar().add(item(b'5', "d").mode(0o700).owner(1, 2)).end(),
        ],
        &["d 700 1:2 d", "f 644 0:0 d/x ="],
    );
    // A file over a directory, and the directory again: empty.
    check(
        &[
            tar().dir("d").file("d/x", "").end(),
            tar().file("d", "").end(),
            tar().dir("d").end(),
        ],
        &["d 755 0:0 d"],
    );
}

#[test]
fn symbolic_links_on_the_way_stay_inside() {
    check(
        &[
            tar().dir("real").symlink("link", "real").end(),
            tar().file("link/f", "x").end(),
        ],
        &[
            "l 777 0:0 link -> real",
            "d 755 0:0 real",
            "f 644 0:0 real/f =x",
        ],
    );
    // In a chroot, `/` and too many `..` are its root.
    for target in ["/etc", "../../../etc", "/../etc", "./x/../../etc/."] {
        check(
            &[
                tar().dir("etc").dir("x").symlink("link", target).end(),
                tar().file("link/passwd", "x").end(),
            ],
            &[
                "d 755 0:0 etc",
                "f 644 0:0 etc/passwd =x",
                &format!("l 777 0:0 link -> {target}"),
                "d 755 0:0 x",
            ],
        );
    }
    // From further below, too.
    check(
        &[tar()
            .dir("etc")
            .symlink("a/b/absolute", "/etc")
            .symlink("a/b/relative", "../../etc")
            .file("a/b/absolute/x", "1")
            .file("a/b/relative/y", "2")
            .end()],
        &[
            "d 755 0:0 a",
            "d 755 0:0 a/b",
            "l 777 0:0 a/b/absolute -> /etc",
            "l 777 0:0 a/b/relative -> ../../etc",
            "d 755 0:0 etc",
            "f 644 0:0 etc/x =1",
            "f 644 0:0 etc/y =2",
        ],
    );
    // A link to nothing leads to a new directory.
    check(
        &[tar().symlink("link", "/a/b").file("link/f", "x").end()],
        &[
            "d 755 0:0 a",
            "d 755 0:0 a/b",
            "f 644 0:0 a/b/f =x",
            "l 777 0:0 link -> /a/b",
        ],
    );
    // A directory that a higher layer replaces by a link takes its contents along.
    check(
        &[
            tar().dir("lib").file("lib/old", "").dir("usr/lib").end(),
            tar().symlink("lib", "usr/lib").file("lib/new", "").end(),
        ],
        &[
            "l 777 0:0 lib -> usr/lib",
            "d 755 0:0 usr",
            "d 755 0:0 usr/lib",
            "f 644 0:0 usr/lib/new =",
        ],
    );
    // The last component is never followed.
    check(
        &[
            tar().file("victim", "safe").symlink("link", "victim").end(),
            tar().file("link", "new").end(),
        ],
        &["f 644 0:0 link =new", "f 644 0:0 victim =safe"],
    );
    check(
        &[
            tar().dir("real").symlink("link", "real").end(),
            tar().dir("link").file("link/f", "").end(),
        ],
        &["d 755 0:0 link", "f 644 0:0 link/f =", "d 755 0:0 real"],
    );
    // Links through links.
    check(
        &[tar()
            .dir("c")
            .symlink("b", "c")
            .symlink("a", "b")
            .file("a/f", "")
            .end()],
        &[
            "l 777 0:0 a -> b",
            "l 777 0:0 b -> c",
            "d 755 0:0 c",
            "f 644 0:0 c/f =",
        ],
    );
}

#[test]
fn hard_links() {
    // To a file of a lower layer.
    check(
        &[
            tar().file("a", "x").end(),
            tar().hard_link("d/b", "a").end(),
        ],
        &["f 644 0:0 a =x", "d 755 0:0 d", "f 644 0:0 d/b same as a"],
    );
    // One name is replaced, the other stays what it was.
    check(
        &[
            tar().file("a", "old").hard_link("b", "a").end(),
            tar().file("a", "new").end(),
        ],
        &["f 644 0:0 a =new", "f 644 0:0 b =old"],
    );
    check(
        &[
            tar().file("a", "x").hard_link("b", "a").end(),
            tar().whiteout("a").end(),
        ],
        &["f 644 0:0 b =x"],
    );
    // To a symbolic link, to a pipe, with a slash in front, through a directory that is a link.
    check(
        &[tar()
            .symlink("l", "nowhere")
            .hard_link("l2", "/l")
            .add(item(b'6', "p"))
            .hard_link("p2", "./p")
            .file("d/f", "x")
            .symlink("e", "d")
            .hard_link("f2", "e/f")
            .end()],
        &[
            "d 755 0:0 d",
            "f 644 0:0 d/f =x",
            "l 777 0:0 e -> d",
            "f 644 0:0 f2 same as d/f",
            "l 777 0:0 l -> nowhere",
            "l 777 0:0 l2 same as l",
            "p 644 0:0 p",
            "p 644 0:0 p2 same as p",
        ],
    );
    // The header of a link says nothing about the file.
    check(
        &[tar()
            .add(item(b'0', "a").mode(0o600).owner(1, 1).data("x"))
            .add(item(b'1', "b").link("a").mode(0o777).owner(2, 2).size(77))
            .file("c", "after")
            .end()],
        &[
            "f 600 1:1 a =x",
            "f 600 1:1 b same as a",
            "f 644 0:0 c =after",
        ],
    );
    // Over a directory.
    check(
        &[
            tar().file("a", "x").dir("d").file("d/in", "").end(),
            tar().hard_link("d", "a").end(),
        ],
        &["f 644 0:0 a =x", "f 644 0:0 d same as a"],
    );
}
