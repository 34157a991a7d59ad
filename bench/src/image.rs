//! Images: an archive becomes one, beside what does the same by hand.
//!
//! The floor is `skopeo copy`, `umoci unpack` and `mke2fs -d`: the same archive, verified, unpacked,
//! and made an ext4 file. Both start from nothing each time; what banger does besides, a check of
//! the file system and its digest, is in its time. The peak is that of a daemon that did nothing
//! else, with one layer of a gigabyte.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::stats::{Row, Series};
use crate::subject::Subject;

/// The small files of a layer: how many, of how many bytes.
const SMALL: (usize, usize) = (6_000, 16 << 10);
/// The large files of a layer: how many, of how many bytes.
const LARGE: (usize, usize) = (10, 8 << 20);
/// Layers of about 175 MiB each, half of which compresses well, as in most images.
const LAYERS: usize = 3;
/// The large layer: zeros and noise, in MiB each.
const HALF: usize = 512;

/// Every measurement of this module.
pub(crate) fn measure(subject: &Subject, times: usize) -> Vec<Row> {
    let ground = subject.ground().join("images");
    if ground.exists() {
        fs::remove_dir_all(&ground).expect("remove an earlier run's images");
    }
    fs::create_dir(&ground).expect("make a directory");
    let rows = vec![imports(subject, &ground, times), peak(subject, &ground)];
    fs::remove_dir_all(&ground).expect("remove the images");
    rows
}

fn imports(subject: &Subject, ground: &Path, times: usize) -> Row {
    let what = format!("import of {} MiB in {LAYERS} layers", LAYERS * layer_mib());
    eprintln!("{what}, and by hand ({times} each)");
    let archive = archive(ground, "many", LAYERS, &mut |tree, number| {
        let mut noise = Noise(number as u64 + 1);
        for (count, size, name) in [(SMALL.0, SMALL.1, "s"), (LARGE.0, LARGE.1, "l")] {
            for file in 0..count {
                let dir = tree.join(format!("{name}{}", file / 200));
                fs::create_dir_all(&dir).expect("make a directory");
                let path = dir.join(format!("{name}{file}"));
                fill(&path, size, |block| {
                    if file % 2 == 0 {
                        noise.fill(block);
                    } else {
                        noise.fill_with_text(block);
                    }
                });
            }
        }
    });
    let (mut ours, mut by_hand) = (Series::default(), Series::default());
    for _ in 0..times {
        by_hand.push(unpack_by_hand(ground, &archive));
        ours.push(load(subject, &archive));
    }
    Row::ratio(
        &what,
        "skopeo copy, umoci unpack, mke2fs -d",
        "s",
        &ours,
        &by_hand,
        1.0 / 0.9,
    )
}

fn layer_mib() -> usize {
    (SMALL.0 * SMALL.1 + LARGE.0 * LARGE.1) >> 20
}

fn peak(subject: &Subject, ground: &Path) -> Row {
    eprintln!("the daemon's peak with a layer of {} MiB", 2 * HALF);
    let archive = archive(ground, "one", 1, &mut |tree, _| {
        let mut noise = Noise(1);
        fill(&tree.join("zeros"), HALF << 20, |_| ());
        fill(&tree.join("noise"), HALF << 20, |block| noise.fill(block));
    });
    subject.banger(&["daemon", "stop"]);
    load(subject, &archive);
    Row::absolute(
        &format!("daemon's peak, a layer of {} MiB", 2 * HALF),
        "MiB",
        &Series::of(subject.daemon_peak_mib()),
        100.0,
    )
}

/// Seconds for banger to make an image of the archive, which leaves nothing.
fn load(subject: &Subject, archive: &Path) -> f64 {
    let path = archive.to_str().expect("a path of ours");
    let begun = Instant::now();
    subject.banger(&["image", "load", path, "--name", "bench-import"]);
    let seconds = begun.elapsed().as_secs_f64();
    subject.banger(&["image", "delete", "bench-import"]);
    // The layers too.
    subject.banger(&["image", "prune", "--force"]);
    seconds
}

/// Seconds for the same with the programs there are.
fn unpack_by_hand(ground: &Path, archive: &Path) -> f64 {
    let (layout, bundle) = (ground.join("layout"), ground.join("bundle"));
    let disk = ground.join("disk.ext4");
    let begun = Instant::now();
    run(Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet"])
        .arg(format!("oci-archive:{}:x", archive.display()))
        .arg(format!("oci:{}:x", layout.display())));
    run(Command::new("umoci")
        .args(["unpack", "--rootless", "--image"])
        .arg(format!("{}:x", layout.display()))
        .arg(&bundle));
    let size = format!("{}M", LAYERS * layer_mib() * 5 / 4);
    run(Command::new("mke2fs")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"])
        .arg(bundle.join("rootfs"))
        .arg(&disk)
        .arg(size));
    let file = File::open(&disk).expect("open the disk");
    file.sync_all().expect("write the disk");
    let seconds = begun.elapsed().as_secs_f64();
    for dir in [layout, bundle] {
        fs::remove_dir_all(dir).expect("remove what was unpacked");
    }
    fs::remove_file(disk).expect("remove the disk");
    seconds
}

/// An archive in the OCI layout with so many layers, each of what `make` writes to a directory.
fn archive(
    ground: &Path,
    name: &str,
    layers: usize,
    make: &mut dyn FnMut(&Path, usize),
) -> PathBuf {
    let layout = ground.join(format!("{name}-layout"));
    let image = format!("{}:x", layout.display());
    run(Command::new("umoci")
        .arg("init")
        .arg("--layout")
        .arg(&layout));
    run(Command::new("umoci").args(["new", "--image", &image]));
    for number in 0..layers {
        let tree = ground.join("tree");
        fs::create_dir(&tree).expect("make a directory");
        make(&tree, number);
        run(Command::new("umoci")
            .args(["insert", "--rootless", "--image", &image])
            .arg(&tree)
            .arg(format!("/layer{number}")));
        fs::remove_dir_all(&tree).expect("remove the tree");
    }
    run(Command::new("umoci").args(["gc", "--layout"]).arg(&layout));
    let archive = ground.join(format!("{name}.tar"));
    run(Command::new("tar")
        .arg("-C")
        .arg(&layout)
        .arg("-cf")
        .arg(&archive)
        .arg("."));
    fs::remove_dir_all(layout).expect("remove the layout");
    archive
}

fn fill(path: &Path, size: usize, mut content: impl FnMut(&mut [u8])) {
    let mut file = BufWriter::new(File::create(path).expect("make a file"));
    let mut block = vec![0; size.min(64 << 10)];
    for _ in 0..size / block.len() {
        content(&mut block);
        file.write_all(&block).expect("write a file");
    }
    file.flush().expect("write a file");
}

fn run(command: &mut Command) {
    let done = command.output().expect("scripts/install-deps installs it");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {said}");
}

/// Bytes that no program can compress.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 ^ (self.0 >> 29)
    }

    fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_mut(4) {
            word.copy_from_slice(&self.next().to_be_bytes()[..word.len()]);
        }
    }

    /// Digits, in lines.
    fn fill_with_text(&mut self, block: &mut [u8]) {
        for line in block.chunks_mut(16) {
            let text = format!("{:015x}\n", self.next() >> 32);
            line.copy_from_slice(&text.as_bytes()[..line.len()]);
        }
    }
}
