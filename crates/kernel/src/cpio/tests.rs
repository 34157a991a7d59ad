use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

fn small() -> Vec<u8> {
    let mut cpio = Cpio::default();
    cpio.directory("dev");
    cpio.character_device("dev/console", 0o600, (5, 1));
    cpio.file("init", 0o755, b"hello");
    cpio.finish()
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let header = |fields: [u32; 13]| {
        let mut text = String::from("070701");
        for field in fields {
            text.push_str(&format!("{field:08X}"));
        }
        text
    };
    let mut golden = Vec::new();
    // inode mode uid gid links mtime length major minor rmajor rminor namelength checksum
    golden.extend(header([1, 0o040755, 0, 0, 2, 0, 0, 0, 0, 0, 0, 4, 0]).bytes());
    golden.extend(b"dev\0\0\0");
    golden.extend(header([2, 0o020600, 0, 0, 1, 0, 0, 0, 0, 5, 1, 12, 0]).bytes());
    golden.extend(b"dev/console\0\0\0");
    golden.extend(header([3, 0o100755, 0, 0, 1, 0, 5, 0, 0, 0, 0, 5, 0]).bytes());
    golden.extend(b"init\0\0hello\0\0\0");
    golden.extend(header([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0]).bytes());
    golden.extend(b"TRAILER!!!\0\0\0\0");
    assert_eq!(
        String::from_utf8_lossy(&small()),
        String::from_utf8_lossy(&golden)
    );
}

#[test]
fn cpio_reads_it() {
    let mut child = match Command::new("cpio")
        .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    {
        Ok(child) => child,
        Err(error) => {
            eprintln!("skipped: cpio cannot be run: {error}");
            return;
        }
    };
    child.stdin.take().unwrap().write_all(&small()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(
        (lines[0][0], *lines[0].last().unwrap()),
        ("drwxr-xr-x", "dev")
    );
    assert_eq!(lines[1][0], "crw-------", "{text}");
    assert!(text.contains("5,   1"), "{text}");
    assert_eq!((lines[2][0], lines[2][4]), ("-rwxr-xr-x", "5"), "{text}");
}
