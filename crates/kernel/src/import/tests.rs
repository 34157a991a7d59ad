use std::process::Command;

use banger_model::Quiet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::cpio::Cpio;
use crate::elf::tests::kernel_with;
use crate::modules::tests::tree;
use crate::{Kernel, Kernels};

const RELEASE: &str = "6.1-mine";

/// What a kernel says that has everything but what the test tree has as modules.
const MARKS: &str = "\0ACPI: Interpreter enabled\0unpack rootfs image as initramfs\0\
                     devtmpfs: initialized\0Serial: 8250/16550\0PF_UNIX\0EXT4-fs\0";
/// What it says of the rest.
const PARTS: &str = "overlayfs: \0virtio_blk\0virtio-mmio\0VIRTIO_NET_F_CTRL_RX\0virtio_vsock\0";

struct Bench {
    dir: tempfile::TempDir,
    kernels: Kernels,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let kernels = Kernels::open(&dir.path().join("kernels")).unwrap();
    Bench { dir, kernels }
}

impl Bench {
    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A kernel that says these things.
    fn kernel(&self, says: &str) -> PathBuf {
        let text = format!("Linux version {RELEASE} (me@here) \0{says}");
        self.file("vmlinux", &kernel_with(text.as_bytes()))
    }

    fn modules(&self) -> PathBuf {
        let dir = self.dir.path().join("given");
        let place = dir.join("lib/modules").join(RELEASE);
        tree(&place);
        std::os::unix::fs::symlink("/usr/src", place.join("build")).unwrap();
        dir
    }

    fn request(&self, kernel: PathBuf) -> Import {
        Import {
            name: "mine".parse().unwrap(),
            kernel,
            modules: None,
            initrd: None,
            config: None,
        }
    }

    fn import(&self, request: &Import) -> Result<Kernel> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let result = runtime.unwrap().block_on(self.kernels.import(
            request,
            &Quiet,
            &CancellationToken::new(),
        ));
        let staging = self.dir.path().join("kernels/staging");
        assert_eq!(fs::read_dir(staging).unwrap().count(), 0, "left behind");
        result
    }
}

fn debugfs(drive: &Path, request: &str) -> String {
    let output = Command::new("/sbin/debugfs")
        .args(["-R", request])
        .arg(drive)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_kernel_with_everything_built_in_needs_no_modules() {
    let bench = bench();
    let mut request = bench.request(bench.kernel(&format!("{MARKS}{PARTS}")));
    let mut cpio = Cpio::default();
    cpio.file("init", 0o755, b"not ours");
    cpio.file("firmware", 0o644, b"blob");
    let initrd = cpio.finish();
    request.initrd = Some(bench.file("initrd", &zstd::encode_all(&initrd[..], 1).unwrap()));
    let kernel = bench.import(&request).unwrap();
    assert_eq!(kernel.release, RELEASE);
    assert_eq!(kernel.modules_drive, None);
    assert_eq!(kernel.config_source, None);
    assert!(kernel.source.ends_with("vmlinux"), "{}", kernel.source);

    // Its own initrd comes first and ours last, so that ours is the one that counts.
    let agent = bench.file("agent", &crate::elf::tests::static_program());
    let initramfs = bench.kernels.initramfs(&kernel, &agent).unwrap();
    let bytes = fs::read(initramfs).unwrap();
    assert!(bytes.starts_with(&initrd));
    let entries = crate::initramfs::tests::unpack(&bytes[initrd.len()..]);
    let last = entries.iter().rfind(|(name, _)| name == "init").unwrap();
    assert_eq!(last.1, crate::elf::tests::static_program());

    let again = bench.import(&request).unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    // The same files make the same kernel, whatever it is called.
    request.name = "other".parse().unwrap();
    assert_eq!(bench.import(&request).unwrap().digest, kernel.digest);
    request.initrd = None;
    request.name = "third".parse().unwrap();
    assert_ne!(bench.import(&request).unwrap().digest, kernel.digest);
}

#[test]
fn modules_become_a_drive_of_roots_and_the_needed_ones_stay() {
    let bench = bench();
    let mut request = bench.request(bench.kernel(MARKS));
    request.modules = Some(bench.modules());
    let kernel = bench.import(&request).unwrap();
    let drive = kernel.modules_drive.clone().unwrap();
    let listed = debugfs(&drive, "ls -l /");
    for name in [
        "modules.dep.bin",
        "modules.alias.bin",
        "modules.builtin",
        "kernel",
    ] {
        assert!(listed.contains(name), "{name} is missing:\n{listed}");
    }
    for absent in ["lost+found", "build", "modules.softdep.dep"] {
        assert!(
            !listed.lines().any(|line| line.ends_with(absent)),
            "{listed}"
        );
    }
    for (path, mode) in [
        ("/", "0755"),
        ("/modules.dep", "0644"),
        ("/kernel/lib/late.ko", "0644"),
    ] {
        let stat = debugfs(&drive, &format!("stat {path}"));
        assert!(stat.contains(&format!("Mode:  {mode}")), "{stat}");
        let owner: Vec<&str> = stat
            .lines()
            .find(|line| line.contains("User:"))
            .unwrap()
            .split_whitespace()
            .collect();
        assert_eq!(owner[..4], ["User:", "0", "Group:", "0"], "{stat}");
    }
    let check = Command::new("/sbin/e2fsck")
        .arg("-fn")
        .arg(&drive)
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");

    assert!(kernel.modules.join("kernel/block/virtio_blk.ko").exists());
    assert!(!kernel.modules.join("kernel/lib/late.ko").exists());
    let agent = bench.file("agent", &crate::elf::tests::static_program());
    bench.kernels.initramfs(&kernel, &agent).unwrap();
    assert!(!bench.dir.path().join("kernels/objects/usr").exists());
}

#[test]
fn what_a_boot_does_not_need_of_an_elf_file_is_left_out() {
    let bench = bench();
    let path = bench.kernel(&format!("{MARKS}{PARTS}"));
    let small = fs::read(&path).unwrap();
    let mut fat = small.clone();
    fat.resize(3 << 20, 7);
    fs::write(&path, fat).unwrap();
    let kernel = bench.import(&bench.request(path.clone())).unwrap();
    assert_eq!(fs::read(&kernel.vmlinux).unwrap().len(), small.len());
    fs::write(&path, &small[..small.len() - 1]).unwrap();
    let mut request = bench.request(path);
    request.name = "cut".parse().unwrap();
    assert!(
        bench
            .import(&request)
            .unwrap_err()
            .chain()
            .contains("cut off")
    );
}

#[test]
fn a_kernel_that_lacks_something_is_refused_with_what() {
    let bench = bench();
    let error = bench
        .import(&bench.request(bench.kernel(MARKS)))
        .unwrap_err();
    assert_eq!(error.code(), Code::BuildFailed);
    let said = error.chain();
    for part in [
        "OVERLAY_FS",
        "VIRTIO_BLK",
        "VIRTIO_MMIO",
        "VIRTIO_NET",
        "VIRTIO_VSOCKETS",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(said.contains("vmlinux") && !said.contains("EXT4"), "{said}");
    assert!(error.hint_text().unwrap().contains("kernel catalog"));

    // A configuration knows better than what the kernel file seems to say.
    let mut request = bench.request(bench.kernel(&format!("{MARKS}{PARTS}")));
    request.config = Some(bench.file("config", b"CONFIG_ACPI=y\n# CONFIG_EXT4_FS is not set\n"));
    let said = bench.import(&request).unwrap_err().chain();
    assert!(
        said.contains("`CONFIG_EXT4_FS` (not set in the configuration from the given file)"),
        "{said}"
    );

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, b"# CONFIG_PCI is not set\n").unwrap();
    let inside = [&b"IKCFG_ST"[..], &gzip.finish().unwrap()].concat();
    let text = [
        format!("Linux version {RELEASE} \0{MARKS}{PARTS}").as_bytes(),
        &inside,
    ]
    .concat();
    let path = bench.file("ikconfig", &kernel_with(&text));
    let said = bench.import(&bench.request(path)).unwrap_err().chain();
    assert!(said.contains("from the kernel itself"), "{said}");
    assert_eq!(bench.kernels.list().unwrap().len(), 0);
}

#[test]
fn files_that_cannot_be_are_refused_by_name() {
    let bench = bench();
    let good = bench.kernel(&format!("{MARKS}{PARTS}"));
    let silent = bench.file("silent", &kernel_with(b"no banner"));
    let pipe = bench.dir.path().join("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let text = bench.file("text", b"#!/bin/sh\n");
    for bad in [
        silent,
        pipe.clone(),
        text.clone(),
        bench.dir.path().join("absent"),
    ] {
        let error = bench.import(&bench.request(bad.clone())).unwrap_err();
        assert!(
            error.chain().contains(bad.to_str().unwrap()),
            "{}",
            error.chain()
        );
    }
    for bad in [pipe, text] {
        let mut request = bench.request(good.clone());
        request.initrd = Some(bad.clone());
        let error = bench.import(&request).unwrap_err();
        assert!(
            error.chain().contains(bad.to_str().unwrap()),
            "{}",
            error.chain()
        );
        request.initrd = None;
        request.config = Some(bad.clone());
        let error = bench.import(&request).unwrap_err();
        assert!(
            error.chain().contains(bad.to_str().unwrap()),
            "{}",
            error.chain()
        );
    }
    let mut request = bench.request(good);
    request.name = "debian-bookworm".parse().unwrap();
    assert_eq!(
        bench.import(&request).unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[test]
fn modules_of_another_kernel_are_refused() {
    let bench = bench();
    let mut request = bench.request(bench.kernel(MARKS));
    let given = bench.modules();
    let place = given.join("lib/modules").join(RELEASE);
    fs::write(
        place.join("kernel/block/virtio_blk.ko"),
        crate::modules::tests::module(&["depends=virtio_ring", "vermagic=5.10-x SMP"]),
    )
    .unwrap();
    request.modules = Some(given.clone());
    let said = bench.import(&request).unwrap_err().chain();
    assert!(
        said.contains("`virtio_blk` was built for the kernel 5.10-x"),
        "{said}"
    );
    fs::rename(&place, given.join("lib/modules/5.10-x")).unwrap();
    let error = bench.import(&request).unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.hint_text().unwrap().contains("5.10-x"), "{error}");
}
