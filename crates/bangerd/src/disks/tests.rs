//! Disks on the real file system, with the real tools.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use banger_model::Code;
use tempfile::TempDir;

use super::*;

fn ground() -> (TempDir, Templates) {
    let dir = TempDir::new().unwrap();
    let templates = dir.path().join("templates");
    fs::create_dir(&templates).unwrap();
    let tools = FileSystemTools::new(Some("/usr/bin".as_ref()));
    (dir, Templates::new(templates, tools))
}

fn assert_clean(disk: &Path) {
    let check = Command::new("/sbin/e2fsck")
        .arg("-fn")
        .arg(disk)
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn disks_are_sparse_clean_and_made_from_one_template() {
    let (dir, templates) = ground();
    let image = dir.path().join("image");
    fs::write(&image, "an image").unwrap();
    let source = Source {
        image: &image,
        writable: ByteSize::gib(8),
    };
    for vm in ["a", "b"] {
        let vm_dir = dir.path().join(vm);
        fs::create_dir(&vm_dir).unwrap();
        create(
            &templates,
            DiskStrategy::Overlay,
            &vm_dir,
            &source,
            ByteSize::gib(8),
        )
        .unwrap();
        let attached = attach(DiskStrategy::Overlay, &vm_dir, &image, None).unwrap();
        let paths: Vec<_> = attached
            .disks
            .iter()
            .map(|disk| (disk.path.clone(), disk.read_only))
            .collect();
        assert_eq!(
            paths,
            [
                (image.clone(), true),
                (vm_dir.join("overlay.ext4"), false),
                (vm_dir.join("work.ext4"), false)
            ]
        );
        assert_eq!(attached.work, "/dev/vdc");
        assert_eq!(attached.modules, None);
        // The kernel's drive comes last, so that the others keep their names.
        let drive = dir.path().join("modules.ext4");
        let more = attach(DiskStrategy::Overlay, &vm_dir, &image, Some(&drive)).unwrap();
        assert_eq!(more.modules.as_deref(), Some("/dev/vdd"));
        assert_eq!(more.disks[..3], attached.disks[..]);
        assert_eq!(
            more.disks[3],
            Disk {
                path: drive,
                read_only: true
            }
        );
        for (path, _) in &paths[1..] {
            let meta = fs::metadata(path).unwrap();
            assert_eq!(meta.len(), 8 << 30);
            assert_eq!(meta.mode() & 0o777, 0o600);
            assert!(meta.blocks() * 512 < 512 << 10, "{} blocks", meta.blocks());
            assert_clean(path);
        }
    }
    assert_eq!(
        fs::read_dir(dir.path().join("templates")).unwrap().count(),
        1
    );
    assert_eq!(fs::read_to_string(&image).unwrap(), "an image");
}

#[test]
fn the_smallest_disk_has_a_journal() {
    let (dir, templates) = ground();
    let disk = dir.path().join("disk");
    templates
        .instantiate(banger_model::MIN_DISK, &disk)
        .unwrap();
    assert_clean(&disk);
    let features = Command::new("/sbin/dumpe2fs")
        .arg("-h")
        .arg(&disk)
        .output()
        .unwrap();
    let features = String::from_utf8_lossy(&features.stdout);
    assert!(features.contains("has_journal"), "{features}");
}

#[test]
fn a_missing_tool_says_how_to_get_it() {
    let (dir, _) = ground();
    let tools = FileSystemTools {
        directories: vec![],
    };
    let templates = Templates::new(dir.path().join("templates"), tools);
    let error = templates
        .instantiate(ByteSize::gib(1), &dir.path().join("disk"))
        .unwrap_err();
    assert_eq!(error.code(), Code::MissingProgram);
    assert!(error.hint_text().unwrap().contains("e2fsprogs"));
    assert_eq!(
        fs::read_dir(dir.path().join("templates")).unwrap().count(),
        0
    );
}

#[test]
fn a_sparse_copy_has_the_same_bytes_and_no_more_blocks() {
    use std::os::unix::fs::FileExt;
    let dir = TempDir::new().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    let file = fs::File::create(&from).unwrap();
    file.set_len(100 << 20).unwrap();
    file.write_all_at(b"start", 0).unwrap();
    file.write_all_at(&[7; 10_000], (50 << 20) + 123).unwrap();
    file.write_all_at(b"end", (100 << 20) - 3).unwrap();
    fs::write(&to, vec![9; 1 << 20]).unwrap();
    sparse::copy(&from, &to).unwrap();
    assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
    assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
}

/// Runs on a file system that can clone, which the temporary directory usually is not.
#[test]
fn a_clone_has_room_and_a_journal() {
    let (dir, templates) = ground();
    let image = dir.path().join("image.ext4");
    fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
    templates
        .tools()
        .run(
            "mke2fs",
            &["-q", "-F", "-t", "ext4", "-O", "^has_journal"],
            &image,
        )
        .unwrap();
    let before = fs::read(&image).unwrap();
    if choose(&templates, dir.path(), &image).unwrap() == DiskStrategy::Overlay {
        eprintln!("this file system cannot clone files: nothing to see here");
        return;
    }
    let source = Source {
        image: &image,
        writable: ByteSize::mib(256),
    };
    let strategy = DiskStrategy::Reflink;
    create(&templates, strategy, dir.path(), &source, ByteSize::gib(1)).unwrap();
    let attached = attach(strategy, dir.path(), &image, None).unwrap();
    assert_eq!(attached.disks.len(), 2);
    assert_eq!(attached.work, "/dev/vdb");
    let root = &attached.disks[0].path;
    assert_eq!(fs::metadata(root).unwrap().len(), 288 << 20);
    assert_clean(root);
    assert_eq!(fs::read(&image).unwrap(), before);
}
