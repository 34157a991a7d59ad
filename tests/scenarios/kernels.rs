//! Kernels: pulled, of one's own, their modules in the guest, and their end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_tests::World;

use banger_tests::scenario::{Need, Scenario, pure, shared};

pub(crate) const SCENARIOS: &[Scenario] = &[
    pure(
        "kernel-modules-in-the-guest",
        "every module loads in the guest",
        modules_in_the_guest,
    ),
    pure(
        "kernel-import-boots",
        "a kernel of one's own boots, with its modules and initrd",
        import_boots,
    ),
    pure(
        "kernel-import-refusals",
        "a kernel that cannot work is refused with what it lacks",
        import_refusals,
    ),
    pure(
        "kernel-ends-at-any-step",
        "a pull or import that ends at any step leaves a whole kernel or none",
        ends_at_any_step,
    )
    .needs(&[Need::PackageArchive]),
    shared(
        "kernel-pulls-download-once",
        "three pulls of a kernel download it once",
        pulls_download_once,
    )
    .needs(&[Need::PackageArchive]),
];

const DEFAULT: &str = "debian-bookworm";

/// The directory of the one kernel that every world has.
fn object(w: &World) -> PathBuf {
    let objects = w.state().join("kernels/objects");
    let mut found = fs::read_dir(objects).expect("list the kernels");
    let one = found.next().expect("a kernel").expect("an entry").path();
    assert!(found.next().is_none(), "more than one kernel");
    one
}

/// The modules of the default kernel, as a package would have them.
fn modules(w: &World) -> PathBuf {
    let to = w.root().join("modules");
    let release = kernel(w, DEFAULT)["release"]
        .as_str()
        .expect("text")
        .to_owned();
    let tree = to.join("lib/modules").join(release);
    fs::create_dir_all(&tree).expect("make a directory");
    let request = format!("rdump /kernel {}", tree.display());
    let status = w
        .command("debugfs")
        .args(["-R", &request])
        .arg(object(w).join("modules.ext4"))
        .status()
        .expect("run debugfs");
    assert!(status.success() && tree.join("kernel").is_dir(), "{status}");
    to
}

/// A bzImage of this kernel, such as a build makes with `CONFIG_KERNEL_GZIP`.
fn bzimage(w: &World, vmlinux: &Path) -> PathBuf {
    let packed = Command::new("gzip")
        .args(["-1", "-c"])
        .arg(vmlinux)
        .output();
    let packed = packed.expect("run gzip").stdout;
    let mut image = vec![0; 5 * 512];
    image[0x1f1] = 4;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(packed.len() as u32).to_le_bytes());
    image.extend_from_slice(&packed);
    let path = w.root().join("bzImage");
    fs::write(&path, image).expect("write the bzImage");
    path
}

/// An initrd with an `/init` that would end the guest at once, compressed.
fn initrd(w: &World) -> PathBuf {
    let mut archive = Vec::new();
    let entries = [("init", 0o100_755, "#!/bin/false\n"), ("TRAILER!!!", 0, "")];
    for (number, (name, mode, content)) in entries.into_iter().enumerate() {
        let fields = [
            number,
            mode,
            0,
            0,
            1,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        let header: String = fields.iter().map(|field| format!("{field:08X}")).collect();
        archive.extend_from_slice(format!("070701{header}{name}\0").as_bytes());
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content.as_bytes());
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    let path = w.root().join("initrd.cpio");
    fs::write(&path, archive).expect("write the initrd");
    let status = Command::new("gzip").arg(&path).status().expect("run gzip");
    assert!(status.success(), "{status}");
    path.with_extension("cpio.gz")
}

fn kernel(w: &World, name: &str) -> serde_json::Value {
    w.banger(["kernel", "show", name, "--output", "json"])
        .ok()
        .json()
}

fn names(w: &World) -> String {
    w.banger(["kernel", "list", "-q"]).ok().out()
}

/// What is under `/lib/modules` and loads on request, with nothing loaded by hand.
const LOAD: &str = "set -e; release=$(uname -r); test ! -w /lib/modules/$release/modules.dep
    findmnt -no FSTYPE,OPTIONS /lib/modules/$release | grep -q '^ext4 *ro,'
    if lsmod | grep -q wireguard; then exit 9; fi
    modprobe wireguard; ip link add wg0 type wireguard; ip -o link show wg0 | grep -q wg0
    iptables -t nat -A POSTROUTING -j MASQUERADE; iptables -t nat -S | grep -q MASQUERADE
    ls /sys/module | grep -q nf_tables; echo $release";

fn modules_in_the_guest(w: &World) {
    w.banger(["vm", "create", "--name", "box"]).ok();
    let done = w.banger(["vm", "exec", "box", "--", "sh", "-c", LOAD]).ok();
    assert_eq!(kernel(w, DEFAULT)["release"], done.out().trim());
    // The image keeps what it has of its own in that place. It is written where the drive is not
    // mounted, because udev may be reading from the drive, which then cannot be unmounted.
    let own = "unshare --mount sh -ec 'mount --bind / /mnt
        echo mine > /mnt/lib/modules/$(uname -r)/mine'";
    w.banger(["vm", "exec", "box", "--", "sh", "-c", own]).ok();
    w.banger(["vm", "restart", "box"]).ok();
    let ls = [
        "vm",
        "exec",
        "box",
        "--",
        "sh",
        "-c",
        "ls /lib/modules/$(uname -r)",
    ];
    assert_eq!(w.banger(ls).ok().out(), "mine\n");
    w.banger(["vm", "delete", "box"]).ok();
}

fn import_boots(w: &World) {
    let vmlinux = object(w).join("vmlinux");
    let (image, modules, initrd) = (bzimage(w, &vmlinux), modules(w), initrd(w));
    let config = object(w).join("config");
    let mut import = w.banger_command(["kernel", "import", "mine", "--kernel"]);
    import.arg(&image).arg("--modules").arg(&modules);
    import
        .arg("--initrd")
        .arg(&initrd)
        .arg("--config")
        .arg(&config);
    banger_tests::Running::start(import, None).finish().ok();
    let mine = kernel(w, "mine");
    assert_eq!(mine["release"], kernel(w, DEFAULT)["release"]);
    assert_eq!(
        (&mine["modules"], &mine["initrd"], &mine["config"]),
        (&true.into(), &true.into(), &"file".into())
    );
    assert_eq!(names(w), "debian-bookworm\nmine\n");

    // It boots ours and not what is in the initrd, and brings its modules.
    let run = [
        "vm", "run", "--rm", "--kernel", "mine", "--", "sh", "-c", LOAD,
    ];
    assert_eq!(w.banger(run).ok().out().trim(), mine["release"]);

    // It stays as long as something uses it.
    w.banger([
        "vm",
        "create",
        "--no-start",
        "--name",
        "box",
        "--kernel",
        "mine",
    ])
    .ok();
    for (name, user) in [("mine", "`box`"), (DEFAULT, "image `debian-bookworm`")] {
        let refused = w
            .banger(["kernel", "delete", name, "--output", "json"])
            .expect_code(1);
        let error = &refused.json()[0]["error"];
        assert_eq!(error["code"], "conflict", "{error}");
        assert!(
            error["message"].as_str().expect("text").contains(user),
            "{error}"
        );
    }
    assert_eq!(w.banger(["kernel", "prune", "--force"]).ok().out(), "");
    w.banger(["vm", "delete", "box"]).ok();
    assert_eq!(
        w.banger(["kernel", "prune", "--force"]).ok().out(),
        "mine\n"
    );
    assert_eq!(names(w), "debian-bookworm\n");
    // Its files are gone with it.
    object(w);
    w.banger(["kernel", "show", "mine"]).expect_code(1);
}

fn ends_at_any_step(w: &World) {
    // What a kernel is: its files and its name, and nothing else anywhere.
    let object = object(w);
    let (vmlinux, config, modules) = (object.join("vmlinux"), object.join("config"), modules(w));
    let count = |dir: &str| {
        let entries = fs::read_dir(w.state().join("kernels").join(dir));
        entries.expect("list").count()
    };
    let mut steps = 0;
    loop {
        w.banger(["daemon", "stop"]).ok();
        steps += 1;
        let mut import = w.banger_command(["kernel", "import", "mine", "--kernel"]);
        import.arg(&vmlinux).arg("--modules").arg(&modules);
        import.arg("--config").arg(&config);
        import.env("BANGER_TEST_ABORT", format!("import-kernel:{steps}"));
        let imported = banger_tests::Running::start(import, None).finish();
        let whole = names(w) == "debian-bookworm\nmine\n";
        assert_eq!(count("staging"), 0, "step {steps}");
        assert_eq!(count("objects"), 1 + usize::from(whole), "step {steps}");
        if imported.code() == 0 {
            assert!(whole);
            break;
        }
        if whole {
            w.banger(["kernel", "delete", "mine"]).ok();
        }
    }
    assert!(steps > 6, "{steps} steps");
    w.banger(["kernel", "delete", "mine"]).ok();
    // Pulls, which publish in the same way: in the middle, and right before the kernel appears.
    for step in [3, 7] {
        w.banger(["daemon", "stop"]).ok();
        let mut pull = w.banger_command(["kernel", "pull", "debian-trixie"]);
        pull.env("BANGER_TEST_ABORT", format!("pull-kernel:{step}"));
        banger_tests::Running::start(pull, None)
            .finish()
            .expect_code(1);
        assert_eq!(names(w), "debian-bookworm\n");
        assert_eq!((count("staging"), count("objects")), (0, 1), "step {step}");
    }
}

fn import_refusals(w: &World) {
    let vmlinux = object(w).join("vmlinux");
    let config = object(w).join("config");
    let import = |name: &str, args: &[&Path]| {
        let mut command = w.banger_command(["kernel", "import", name, "--output", "json"]);
        for (flag, path) in ["--kernel", "--config", "--modules"].iter().zip(args) {
            command.arg(flag).arg(path);
        }
        banger_tests::Running::start(command, None)
            .finish()
            .expect_code(1)
            .json()["error"]
            .clone()
    };
    // Its drivers are modules, and it comes without any.
    let error = import("mine", &[&vmlinux, &config]);
    assert_eq!(error["code"], "build_failed", "{error}");
    for part in [
        "`virtio_mmio`",
        "`virtio_blk`",
        "`overlay`",
        "CONFIG_VIRTIO_BLK=m",
    ] {
        assert!(
            error["message"].as_str().expect("text").contains(part),
            "{error}"
        );
    }
    assert!(
        !error["message"].as_str().expect("text").contains("ext4"),
        "{error}"
    );
    let error = import("mine", &[&config]);
    assert_eq!(error["code"], "build_failed", "{error}");
    assert_eq!(import(DEFAULT, &[&vmlinux])["code"], "invalid_argument");
    assert_eq!(
        import("mine", &[&vmlinux, &config, w.root()])["code"],
        "not_found"
    );
    assert_eq!(names(w), "debian-bookworm\n");
    let staging = w.state().join("kernels/staging");
    assert_eq!(fs::read_dir(staging).expect("list").count(), 0);
}

fn pulls_download_once(w: &World) {
    let catalog = w.banger(["kernel", "catalog", "-q"]).ok().out();
    assert!(
        catalog
            .lines()
            .any(|name| name == "debian-bookworm-backports"),
        "{catalog}"
    );
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| w.banger(["kernel", "pull", "debian-trixie"])))
            .collect();
        for pull in pulls {
            pull.join().expect("a pull").ok();
        }
    });
    let log = fs::read_to_string(w.state().join("bangerd.log")).expect("read the log");
    let pulls = log
        .lines()
        .filter(|line| line.contains("pulling kernel name="))
        .count();
    assert_eq!(pulls, 1, "one download for all:\n{log}");
    let run = [
        "vm",
        "run",
        "--rm",
        "--kernel",
        "debian-trixie",
        "--",
        "sh",
        "-c",
        LOAD,
    ];
    let release = w.banger(run).ok().out();
    assert!(release.contains("deb13"), "{release}");
    w.banger(["kernel", "delete", "debian-trixie"]).ok();
}
