use std::io::Write;

use super::*;

/// A module: an ELF file whose `.modinfo` holds `fields`.
pub(crate) fn module(fields: &[&str]) -> Vec<u8> {
    let info: Vec<u8> = fields
        .iter()
        .flat_map(|field| field.bytes().chain([0]))
        .collect();
    let names = b"\0.modinfo\0.shstrtab\0";
    let mut file = vec![0; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let info_at = file.len();
    file.extend_from_slice(&info);
    let names_at = file.len();
    file.extend_from_slice(names);
    let table = file.len();
    let mut section = |name: u32, at: usize, length: usize| {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(length as u64).to_le_bytes());
        file.extend_from_slice(&header);
    };
    section(0, 0, 0);
    section(1, info_at, info.len());
    section(10, names_at, names.len());
    file[40..48].copy_from_slice(&(table as u64).to_le_bytes());
    file[58..60].copy_from_slice(&64u16.to_le_bytes());
    file[60..62].copy_from_slice(&3u16.to_le_bytes());
    file[62..64].copy_from_slice(&2u16.to_le_bytes());
    file
}

/// A kernel's module tree with everything the initramfs wants and some compression.
pub(crate) fn tree(root: &Path) {
    let write = |path: &str, bytes: &[u8]| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&module(&["depends="])).unwrap();
    write(
        "kernel/virtio/virtio.ko",
        &module(&["depends=", "license=GPL"]),
    );
    write(
        "kernel/virtio/virtio-ring.ko.xz",
        &liblzma::encode_all(&module(&["depends=virtio"])[..], 1).unwrap(),
    );
    write(
        "kernel/virtio/virtio_mmio.ko.zst",
        &zstd::encode_all(&module(&["depends=virtio-ring,virtio"])[..], 1).unwrap(),
    );
    write(
        "kernel/block/virtio_blk.ko",
        &module(&["depends=virtio_ring"]),
    );
    write("kernel/vsock/vsock.ko.gz", &gz.finish().unwrap());
    write(
        "kernel/vsock/vmw_vsock_virtio_transport.ko",
        &module(&["name=x", "depends=vsock,virtio_ring"]),
    );
    write(
        "kernel/fs/overlay.ko",
        &module(&["depends=", "softdep=pre: crc post: late pre: absent"]),
    );
    write("kernel/lib/crc.ko", &module(&["depends="]));
    write("kernel/lib/late.ko", &module(&["depends="]));
    write("kernel/net/failover.ko", &module(&["depends="]));
    write(
        "kernel/net/virtio_net.ko",
        &module(&["depends=failover,virtio_ring"]),
    );
    write("modules.builtin", b"kernel/fs/ext4/ext4.ko\n");
}

fn opened() -> (tempfile::TempDir, Modules) {
    let dir = tempfile::tempdir().unwrap();
    tree(dir.path());
    index(dir.path()).unwrap();
    let modules = Modules::open(dir.path()).unwrap();
    (dir, modules)
}

#[test]
fn dependencies_come_first_and_once() {
    let (_dir, modules) = opened();
    let order = modules
        .in_load_order(&[
            "virtio_mmio",
            "virtio_blk",
            "vmw_vsock_virtio_transport",
            "ext4",
        ])
        .unwrap();
    assert_eq!(
        order,
        [
            "virtio",
            "virtio_ring",
            "virtio_mmio",
            "virtio_blk",
            "vsock",
            "vmw_vsock_virtio_transport"
        ]
    );
    // A soft dependency is taken when it is there; one to load afterwards is not our business.
    assert_eq!(
        modules.in_load_order(&["overlay"]).unwrap(),
        ["crc", "overlay"]
    );
}

#[test]
fn the_index_is_in_depmods_format() {
    let (dir, _) = opened();
    let text = fs::read_to_string(dir.path().join(DEPENDENCIES)).unwrap();
    assert!(text.contains("kernel/virtio/virtio.ko:\n"), "{text}");
    assert!(
        text.contains("kernel/block/virtio_blk.ko: kernel/virtio/virtio-ring.ko.xz\n"),
        "{text}"
    );
}

#[test]
fn every_compression_is_unpacked() {
    let (_dir, modules) = opened();
    for name in ["virtio", "virtio_ring", "virtio_mmio", "vsock"] {
        assert!(
            modules.content(name).unwrap().starts_with(b"\x7fELF"),
            "{name}"
        );
    }
}

#[test]
fn a_missing_module_is_named() {
    let (dir, modules) = opened();
    let error = modules
        .in_load_order(&["virtio_mmio", "virtio_rocket"])
        .unwrap_err();
    assert_eq!(error.code(), Code::BuildFailed);
    assert!(error.message().contains("virtio_rocket"));
    let broken = dir.path().join("kernel/block/virtio_blk.ko.xz");
    fs::write(broken, "not xz").unwrap();
    assert!(
        index(dir.path())
            .unwrap_err()
            .message()
            .contains("virtio_blk.ko.xz")
    );
}

#[test]
fn a_cycle_ends() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.ko"), module(&["depends=b"])).unwrap();
    fs::write(dir.path().join("b.ko"), module(&["depends=a"])).unwrap();
    index(dir.path()).unwrap();
    let modules = Modules::open(dir.path()).unwrap();
    assert_eq!(modules.in_load_order(&["a"]).unwrap(), ["b", "a"]);
}

#[test]
fn broken_modules_have_no_dependencies() {
    let whole = module(&["depends=a"]);
    for length in 0..whole.len() - 1 {
        assert_eq!(about(&whole[..length]), About::default(), "{length}");
    }
    for at in 0..whole.len() {
        let mut bent = whole.clone();
        bent[at] = 0xff;
        // Any answer will do, as long as there is one.
        drop(about(&bent));
    }
}
