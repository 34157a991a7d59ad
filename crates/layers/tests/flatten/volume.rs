//! The file system around the files: what banger's images have in common.

use std::process::Command;

use crate::support::tarball::{gzip, item, tar};
use crate::support::{digest, flatten};

fn facts(disk: &std::path::Path) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new("dumpe2fs")
        .env("PATH", path)
        .arg("-h")
        .arg(disk)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn fact<'a>(facts: &'a str, name: &str) -> &'a str {
    let line = facts.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_once(':').unwrap().1.trim()
}

#[test]
fn it_is_as_banger_s_other_images() {
    let attempt = flatten(&[tar().file("f", "x".repeat(3 << 20)).end()]);
    let facts = facts(&attempt.disk);
    assert_eq!(fact(&facts, "Filesystem volume name"), "banger-root");
    assert_eq!(
        fact(&facts, "Filesystem features"),
        "ext_attr resize_inode dir_index filetype extent 64bit flex_bg sparse_super large_file \
         huge_file dir_nlink extra_isize metadata_csum"
    );
    assert_eq!(fact(&facts, "Filesystem state"), "clean");
    // No clock is in it; what is zero may be left out.
    for line in facts.lines() {
        let time = ["Filesystem created", "Last write time", "Last checked"]
            .iter()
            .any(|name| line.starts_with(name));
        assert!(!time || line.ends_with("1970"), "{line}");
    }
    let size = attempt.outcome.as_ref().unwrap().size;
    assert_eq!(attempt.disk.metadata().unwrap().len(), size);
    assert_eq!(
        fact(&facts, "Block count").parse::<u64>().unwrap() * 4096,
        size
    );
    let script: String = (1..=11)
        .map(|number| format!("stat <{number}>\n"))
        .collect();
    let said = crate::support::image::debugfs(&attempt.disk, &script);
    let said = String::from_utf8(said).unwrap();
    let mut times = said.lines().filter(|line| line.contains("time: 0x"));
    assert!(
        times.all(|line| line.ends_with("1970") || line.ends_with("2001")),
        "{said}"
    );
    // Next to nothing is free, and little is the file system's own.
    assert!(fact(&facts, "Free blocks").parse::<u64>().unwrap() < 100);
    assert!(size < (3 << 20) + (512 << 10), "{size}");
}

#[test]
fn the_same_layers_make_the_same_file() {
    let layers = || {
        [
            tar().file("a", "x").dir("d").symlink("l", "a").end(),
            gzip(&tar().file("b", vec![7; 100_000]).whiteout("a").end()),
        ]
    };
    let read = |layers: &[Vec<u8>]| std::fs::read(flatten(layers).disk).unwrap();
    let first = read(&layers());
    let second = read(&layers());
    assert_eq!(digest(&first), digest(&second));
    let [below, _] = layers();
    assert_ne!(
        first[1024 + 0x68..][..16],
        read(&[below])[1024 + 0x68..][..16]
    );
}

/// Files around the copies of the superblock.
#[test]
fn several_groups() {
    let bytes: Vec<u8> = (0..45_u32 << 20).map(|at| (at / 1000) as u8).collect();
    let layer = tar()
        .file("one", &bytes)
        .file("two", &bytes)
        .add(item(b'0', "three").data(&bytes))
        .file("tail", "end")
        .end();
    let attempt = flatten(&[layer]);
    attempt.outcome.as_ref().unwrap();
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    for name in ["one", "two", "three"] {
        let output = Command::new("debugfs")
            .env("PATH", &path)
            .args(["-R", &format!("cat {name}")])
            .arg(&attempt.disk)
            .output()
            .unwrap();
        assert_eq!(digest(&output.stdout), digest(&bytes), "{name}");
    }
    let facts = facts(&attempt.disk);
    assert!(fact(&facts, "Free blocks").parse::<u64>().unwrap() < 500);
}

/// Inodes, not blocks, decide the size.
#[test]
fn more_inodes_than_a_group_has() {
    let mut layer = tar();
    for number in 0..100_000 {
        layer = layer.file(format!("{:02}/{number}", number % 50), "");
    }
    let attempt = flatten(&[gzip(&layer.end())]);
    assert_eq!(attempt.outcome.unwrap().entries, 100_052);
}
