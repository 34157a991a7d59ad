use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use super::*;

struct Ground(tempfile::TempDir);

impl Ground {
    fn new() -> Self {
        Ground(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An archive of what is in `in/`, made by GNU tar.
    fn tar(&self, args: &[&str]) -> PathBuf {
        let archive = self.path("archive");
        let made = Command::new("tar")
            .arg("--create")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(self.path("in"))
            .args(args)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        archive
    }

    /// Takes `disk` (at most 8 MiB) and `about` (at most 100 bytes) out of the archive.
    fn take(&self, archive: &Path) -> Result<()> {
        for name in ["disk", "about"] {
            let to = self.path(name);
            if to.exists() {
                fs::remove_file(to).unwrap();
            }
        }
        let (disk, about) = (self.path("disk"), self.path("about"));
        let wanted = [
            Wanted {
                name: "disk",
                to: &disk,
                limit: ByteSize::mib(8),
            },
            Wanted {
                name: "about",
                to: &about,
                limit: ByteSize::bytes(100),
            },
        ];
        take_files(archive, &wanted, &Watch::new(&|_, _| (), &|| false))
    }

    fn refused(&self, archive: &Path) -> String {
        let error = self.take(archive).unwrap_err();
        assert_eq!(error.code(), banger_model::Code::BuildFailed, "{error}");
        error.chain()
    }
}

/// A disk of 4 MiB with 3 bytes of content across the border of a block.
fn filled() -> Ground {
    let ground = Ground::new();
    fs::create_dir(ground.path("in")).unwrap();
    let disk = File::create_new(ground.path("in/disk")).unwrap();
    disk.set_len(4 << 20).unwrap();
    disk.write_all_at(b"abc", (1 << 20) - 1).unwrap();
    fs::write(ground.path("in/about"), "about").unwrap();
    ground
}

#[test]
fn files_arrive_without_their_holes_however_they_are_stored() {
    let ground = filled();
    let before = fs::read(ground.path("in/disk")).unwrap();
    for how in [
        &["disk", "about"][..],
        &["--zstd", "about", "disk"],
        &["--gzip", "./about", "./disk"],
        &["--zstd", "--sparse", "disk", "about"],
        &["--sparse", "--format=posix", "disk", "about"],
    ] {
        ground.take(&ground.tar(how)).unwrap();
        assert_eq!(fs::read(ground.path("disk")).unwrap(), before, "{how:?}");
        assert_eq!(fs::read(ground.path("about")).unwrap(), b"about");
        let blocks = fs::metadata(ground.path("disk")).unwrap().blocks();
        assert!(blocks <= 64, "{how:?}: {blocks}");
    }
}

#[test]
fn what_does_not_belong_there_is_named() {
    let ground = filled();
    let says = |args: &[&str], what: &str| {
        let said = ground.refused(&ground.tar(args));
        assert!(said.contains(what), "{said}");
    };
    says(&["disk"], "there is no `about` in it");
    says(
        &["disk", "about", "disk"],
        "`disk` is refused: it is there twice",
    );
    fs::write(ground.path("in/more"), "").unwrap();
    says(
        &["disk", "about", "more"],
        "`more` is refused: it does not belong",
    );
    says(
        &["disk", "about", "."],
        "`./` is refused: it does not belong",
    );
    let up = ["--absolute-names", "disk", "about", "../in/more"];
    says(&up, "`../in/more` is refused: it does not belong");
    says(
        &["--transform=s,about,a\u{1b}/about,", "disk", "about"],
        "\\u{1b}",
    );

    fs::remove_file(ground.path("in/about")).unwrap();
    symlink("/etc/passwd", ground.path("in/about")).unwrap();
    says(&["disk", "about"], "`about` is refused: it is not a file");
    fs::remove_file(ground.path("in/about")).unwrap();
    fs::hard_link(ground.path("in/disk"), ground.path("in/about")).unwrap();
    says(&["disk", "about"], "`about` is refused: it is not a file");
    fs::remove_file(ground.path("in/about")).unwrap();
    fs::write(ground.path("in/about"), [b'x'; 101]).unwrap();
    says(&["disk", "about"], "`about` is refused: it has 101 bytes");
    fs::write(ground.path("in/about"), "x").unwrap();
    let disk = File::options()
        .write(true)
        .open(ground.path("in/disk"))
        .unwrap();
    disk.set_len((8 << 20) + 1).unwrap();
    says(
        &["--zstd", "disk", "about"],
        "`disk` is refused: it has 8388609 bytes",
    );
    says(
        &["--zstd", "--sparse", "disk", "about"],
        "`disk` is refused: it has 8388609 bytes",
    );
}

#[test]
fn a_broken_archive_is_refused_at_any_length() {
    let ground = filled();
    let whole = fs::read(ground.tar(&["--zstd", "disk", "about"])).unwrap();
    let cut = ground.path("cut");
    for length in 0..whole.len() {
        fs::write(&cut, &whole[..length]).unwrap();
        ground.refused(&cut);
    }
    fs::write(&cut, b"not an archive at all").unwrap();
    ground.refused(&cut);
    // A header that says more than there is.
    let mut lying = fs::read(ground.tar(&["about", "disk"])).unwrap();
    lying.truncate(4096);
    fs::write(&cut, &lying).unwrap();
    assert!(ground.refused(&cut).contains("middle"));
}

#[test]
fn a_trap_is_noticed_by_what_it_writes() {
    let mut writing = Writing {
        compressed: 1 << 20,
        written: (1 << 30) - 1,
        looked: Some(1 << 30),
    };
    let dir = tempfile::tempdir().unwrap();
    writing.count(1, dir.path()).unwrap();
    let error = writing.count(1 << 20, dir.path()).unwrap_err();
    assert!(error.message().contains("200 times"), "{error}");
}

#[test]
fn it_ends_when_the_caller_gives_up() {
    let ground = filled();
    let archive = ground.tar(&["disk", "about"]);
    let (disk, about) = (ground.path("disk"), ground.path("about"));
    let wanted = [("disk", &disk), ("about", &about)].map(|(name, to)| Wanted {
        name,
        to,
        limit: ByteSize::mib(8),
    });
    let error = take_files(&archive, &wanted, &Watch::new(&|_, _| (), &|| true)).unwrap_err();
    assert_eq!(error.code(), banger_model::Code::Cancelled);
}
