//! Every limit is reached by its own archive, and holds without the memory or the disk for what
//! lies beyond.

use std::cell::Cell;
use std::io::Write;

use banger_layers::{Layer, Limits, Options, Watch};
use banger_model::{ByteSize, Code};

use crate::support::tarball::{gzip, item, tar, zstd};
use crate::support::{flatten, flatten_with, options, refuse, refuse_with, scratch};

fn limited(limits: Limits) -> Options {
    Options {
        limits,
        ..options()
    }
}

#[test]
fn entries_names_and_depth() {
    let three = tar().file("a", "").file("b", "").file("c", "").end();
    let entries = |entries| {
        limited(Limits {
            entries,
            ..Limits::default()
        })
    };
    refuse_with(
        std::slice::from_ref(&three),
        &entries(2),
        &["more than 2 entries"],
    );
    // Over all layers together.
    let two = [three.clone(), three.clone()];
    refuse_with(&two, &entries(5), &["layer 1", "more than 5 entries"]);
    flatten_with(&two, true, &entries(6)).outcome.unwrap();

    let text = |text| {
        limited(Limits {
            text,
            ..Limits::default()
        })
    };
    refuse_with(
        std::slice::from_ref(&three),
        &text(5),
        &["`c`", "names and attributes"],
    );
    let attribute = tar()
        .pax(&[("SCHILY.xattr.user.a", &[b'x'; 2000])])
        .file("f", "")
        .end();
    refuse_with(&[attribute], &text(1000), &["names and attributes"]);
    let target = tar().symlink("l", "x".repeat(50)).end();
    refuse_with(&[target], &text(40), &["names and attributes"]);

    let names: Vec<String> = (0..300)
        .map(|at| format!("SCHILY.xattr.user.{at}"))
        .collect();
    let many: Vec<(&str, &[u8])> = names.iter().map(|name| (&name[..], &b"x"[..])).collect();
    refuse(&[tar().pax(&many).file("f", "").end()], &["more than 256"]);

    let deep = |depth: usize| {
        let name = vec!["d"; depth].join("/");
        tar().pax(&[("path", name.as_bytes())]).dir("x").end()
    };
    refuse(&[deep(513)], &["more than 512 directories deep"]);
    let tree = flatten(&[deep(512)]).tree();
    assert_eq!(tree.len(), 512 + 2);
    let long = "n".repeat(256);
    refuse(
        &[tar().pax(&[("path", long.as_bytes())]).dir("x").end()],
        &["longer than 255"],
    );
    let long = ["n"; 2100].join("/");
    refuse(
        &[tar().pax(&[("path", long.as_bytes())]).dir("x").end()],
        &["longer than 4095"],
    );
    // A link cannot lead deeper either, nor around in circles for ever.
    let target = ["."; 2000].join("/");
    refuse(
        &[tar()
            .pax(&[("linkpath", target.as_bytes())])
            .symlink("l", "x")
            .file("l/l/l/f", "")
            .end()],
        &["`l/l/l/f`", "too long"],
    );
    let target = ["d"; 600].join("/");
    refuse(
        &[tar()
            .pax(&[("linkpath", target.as_bytes())])
            .symlink("l", "x")
            .file("l/f", "")
            .end()],
        &["leads nowhere"],
    );
}

/// `count` bytes of nothing.
fn zeroes(count: u64) -> impl std::io::Read {
    std::io::Read::take(std::io::repeat(0), count)
}

#[test]
fn bombs() {
    let header = item(b'0', "bomb").size(2 << 30).header();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&header).unwrap();
    std::io::copy(&mut zeroes(80 << 20), &mut gzip).unwrap();
    let gzip = gzip.finish().unwrap();
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.write_all(&header).unwrap();
    std::io::copy(&mut zeroes(80 << 20), &mut zstd).unwrap();
    let zstd = zstd.finish().unwrap();
    for bomb in [gzip, zstd] {
        let size = Limits {
            unpacked: ByteSize::bytes(8 << 20),
            ..Limits::default()
        };
        let words = ["larger than 8 MiB"];
        refuse_with(std::slice::from_ref(&bomb), &limited(size), &words);
        let ratio = Limits {
            ratio_from: ByteSize::bytes(8 << 20),
            ..Limits::default()
        };
        let words = ["more than 200 times"];
        refuse_with(std::slice::from_ref(&bomb), &limited(ratio), &words);
    }
    // What follows the archive counts, too.
    let mut tail = tar().end();
    tail.resize(9 << 20, 0);
    let size = Limits {
        unpacked: ByteSize::bytes(8 << 20),
        ..Limits::default()
    };
    refuse_with(
        &[crate::support::tarball::gzip(&tail)],
        &limited(size),
        &["8 MiB"],
    );
}

#[test]
fn a_window_that_takes_memory_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&tar().end()).unwrap();
    let layer = encoder.finish().unwrap();
    refuse(&[layer], &["layer 0", "memory"]);
}

#[test]
fn a_file_with_too_many_names() {
    let mut layer = tar().file("f", "");
    for number in 0..64_999 {
        layer = layer.hard_link(format!("{number}"), "f");
    }
    let attempt = flatten(&[layer.clone().end()]);
    assert_eq!(attempt.outcome.unwrap().entries, 3);
    let attempt = flatten(&[layer.hard_link("one more", "f").end()]);
    let chain = attempt.outcome.unwrap_err().chain();
    assert!(chain.contains("more than 65000 names"), "{chain}");
}

#[test]
fn a_directory_with_more_directories_than_ext4_counts() {
    let mut layer = tar();
    for number in 0..65_100 {
        layer = layer.dir(format!("d/{number}"));
    }
    // e2fsck is content with it.
    let attempt = flatten(&[gzip(&layer.end())]);
    assert_eq!(attempt.outcome.unwrap().entries, 65_103);
}

#[test]
fn space_is_asked_for_before_anything_is_written() {
    let mut options = options();
    options.keep_free = ByteSize::bytes(1 << 60);
    let attempt = flatten_with(&[tar().file("f", "x").end()], true, &options);
    let error = attempt.outcome.unwrap_err();
    assert_eq!(error.code(), Code::NoSpace);
    assert!(error.hint_text().unwrap().contains("free"), "{error:?}");
}

#[test]
fn progress_is_truthful_and_work_can_be_cancelled_anywhere() {
    let directory = scratch();
    let path = directory.path().join("layer");
    let noise: Vec<u8> = (0..3_000_000_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    std::fs::write(&path, zstd(&tar().file("f", &noise).end())).unwrap();
    let size = path.metadata().unwrap().len();
    let layers = [Layer {
        path,
        diff_id: None,
        name: "layer".to_owned(),
    }];
    let disk = directory.path().join("disk");
    let seen = Cell::new(0);
    let progress = |done: u64, total: u64| {
        assert_eq!(total, size * 2);
        assert!(done <= total && done >= seen.get());
        seen.set(done);
    };
    let asked = Cell::new(0);
    let count = || {
        asked.set(asked.get() + 1);
        false
    };
    let watch = Watch::new(&progress, &count);
    banger_layers::flatten(&layers, &disk, &options(), &watch).unwrap();
    assert_eq!(seen.get(), size * 2);
    std::fs::remove_file(&disk).unwrap();

    let mut point = 0;
    loop {
        let asked = Cell::new(0);
        let cancelled = || {
            asked.set(asked.get() + 1);
            asked.get() > point
        };
        let watch = Watch::new(&|_, _| {}, &cancelled);
        match banger_layers::flatten(&layers, &disk, &options(), &watch) {
            Ok(_) => break,
            Err(error) => assert_eq!(error.code(), Code::Cancelled, "{error:?}"),
        }
        assert!(!disk.exists(), "cancelled at {point}");
        point += 1;
    }
    assert!(point >= 10, "{point}");
}

#[test]
fn the_file_is_never_written_over() {
    let directory = scratch();
    let disk = directory.path().join("disk");
    std::fs::write(&disk, "precious").unwrap();
    let watch = Watch::new(&|_, _| {}, &|| false);
    let error = banger_layers::flatten(&[], &disk, &options(), &watch).unwrap_err();
    assert_eq!(error.code(), Code::Io);
    assert_eq!(std::fs::read(&disk).unwrap(), b"precious");
}

#[test]
fn what_is_missing_is_named() {
    let directory = scratch();
    let watch = Watch::new(&|_, _| {}, &|| false);
    let layers = [Layer {
        path: directory.path().join("missing"),
        diff_id: None,
        name: "missing".to_owned(),
    }];
    let disk = directory.path().join("disk");
    let error = banger_layers::flatten(&layers, &disk, &options(), &watch).unwrap_err();
    assert_eq!(error.code(), Code::Io);
    assert!(error.message().contains("missing"));
    let many = vec![layers[0].clone(); 1025];
    let error = banger_layers::flatten(&many, &disk, &options(), &watch).unwrap_err();
    assert!(error.message().contains("1025 layers"));
}

#[test]
fn the_digest_decides() {
    let directory = scratch();
    let path = directory.path().join("layer");
    std::fs::write(&path, tar().file("f", "x").end()).unwrap();
    let wrong = crate::support::digest(b"something else");
    let layers = [Layer {
        path,
        diff_id: Some(wrong.clone()),
        name: "changed".to_owned(),
    }];
    let watch = Watch::new(&|_, _| {}, &|| false);
    let disk = directory.path().join("disk");
    let error = banger_layers::flatten(&layers, &disk, &options(), &watch).unwrap_err();
    assert!(error.chain().contains(wrong.as_str()), "{error:?}");
    assert!(!disk.exists());
    // An archive without an end is whole when its digest says so, and not otherwise.
    let open = tar().file("f", "x").open_end();
    flatten_with(std::slice::from_ref(&open), true, &options())
        .outcome
        .unwrap();
    let attempt = flatten_with(&[open], false, &options());
    assert!(attempt.outcome.is_err());
    // So is nothing at all.
    flatten_with(&[Vec::new()], true, &options())
        .outcome
        .unwrap();
    assert!(
        flatten_with(&[Vec::new()], false, &options())
            .outcome
            .is_err()
    );
}
