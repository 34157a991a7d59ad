//! The second opinion: umoci, which shares no code with us.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use super::tree::{Node, Tree};
use super::{digest, scratch, tarball};

/// Where umoci keeps owners that an ordinary user cannot give.
const OWNER: &str = "user.rootlesscontainers";

/// What umoci makes of the layers.
#[track_caller]
pub(crate) fn unpack(layers: &[Vec<u8>]) -> Tree {
    let directory = scratch();
    let layout = directory.path().join("layout");
    write_layout(&layout, layers);
    let bundle = directory.path().join("bundle");
    let root = rustix::process::geteuid().is_root();
    let output = Command::new("umoci")
        .arg("unpack")
        .args((!root).then_some("--rootless"))
        .arg("--image")
        .arg(format!("{}:latest", layout.display()))
        .arg(&bundle)
        .stdin(Stdio::null())
        .output()
        .expect("umoci is missing; run scripts/install-deps");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "umoci: {said}");
    let mut tree = Tree::new();
    walk(&bundle.join("rootfs"), Vec::new(), root, &mut tree);
    tree
}

/// Writes an OCI image layout with one image of these layers.
fn write_layout(layout: &Path, layers: &[Vec<u8>]) {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let blob = |bytes: &[u8], kind: &str| {
        let digest = digest(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest.as_str(),
            "size": bytes.len(),
        })
    };
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|layer| digest(&tarball::unpacked(layer)).to_string())
        .collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": vec![json!({"created_by": "test"}); layers.len()],
    });
    let described: Vec<_> = layers
        .iter()
        .map(|layer| {
            // umoci knows no zstd.
            let plain = match &layer[..] {
                [0x28, 0xb5, ..] => &tarball::unpacked(layer)[..],
                layer => layer,
            };
            let gzip = plain.starts_with(&[0x1f, 0x8b]);
            blob(
                plain,
                if gzip {
                    "layer.v1.tar+gzip"
                } else {
                    "layer.v1.tar"
                },
            )
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "config": blob(&serde_json::to_vec(&config).unwrap(), "config.v1+json"),
        "layers": described,
    });
    let mut manifest = blob(&serde_json::to_vec(&manifest).unwrap(), "manifest.v1+json");
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let version = json!({"imageLayoutVersion": "1.0.0"});
    std::fs::write(layout.join("oci-layout"), version.to_string()).unwrap();
}

fn walk(file: &Path, path: Vec<u8>, root: bool, tree: &mut Tree) {
    let data = std::fs::symlink_metadata(file).unwrap();
    let kind = match data.mode() & 0o170_000 {
        0o100_000 => 'f',
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        other => panic!("{other:o}"),
    };
    // An ordinary user may be kept from what belongs to him. Directories stay open, so that they
    // can be removed.
    let needed = if kind == 'd' { 0o700 } else { 0o400 };
    let closed = !root && matches!(kind, 'f' | 'd') && data.mode() & needed != needed;
    if closed {
        std::fs::set_permissions(file, PermissionsExt::from_mode(0o700)).unwrap();
    }
    let mut attributes = attributes(file);
    let recorded = attributes.remove(OWNER);
    let mut node = Node {
        kind,
        mode: data.mode() & 0o7777,
        owner: match (root, kind) {
            (true, _) => Some((data.uid(), data.gid())),
            // Nothing else can have the attribute.
            (false, 'f' | 'd') => Some(owner(&recorded.unwrap_or_default())),
            _ => None,
        },
        mtime: (data.mtime(), data.mtime_nsec() as u32),
        size: if kind == 'd' { 0 } else { data.size() },
        hash: String::new(),
        text: None,
        target: Vec::new(),
        device: match kind {
            'c' | 'b' => (
                rustix::fs::major(data.rdev()),
                rustix::fs::minor(data.rdev()),
            ),
            _ => (0, 0),
        },
        attributes,
        inode: data.ino(),
        blocks: None,
    };
    if !root {
        node.attributes.retain(|name, _| name.starts_with("user."));
    }
    match kind {
        'f' if node.size <= 16 << 20 => node.take_bytes(&std::fs::read(file).unwrap()),
        'l' => {
            node.target = std::fs::read_link(file)
                .unwrap()
                .into_os_string()
                .as_bytes()
                .to_vec();
        }
        'd' => {
            for child in std::fs::read_dir(file).unwrap() {
                let child = child.unwrap();
                let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                let name = [&path[..], slash, child.file_name().as_bytes()].concat();
                walk(&child.path(), name, root, tree);
            }
        }
        _ => {}
    }
    if closed && kind == 'f' {
        // It may have another name, under which it comes again.
        std::fs::set_permissions(file, data.permissions()).unwrap();
    }
    tree.insert(path, node);
}

fn attributes(file: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(file, &mut names[..]).unwrap();
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && *name != b"security.selinux")
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(file, &name[..], &mut value[..]).unwrap();
            value.truncate(length);
            (name, value)
        })
        .collect()
}

/// The owner and group in umoci's attribute: a protobuf message whose fields 1 and 2 are numbers.
fn owner(mut message: &[u8]) -> (u32, u32) {
    let mut number = || -> Option<u32> {
        let end = message.iter().position(|byte| byte & 0x80 == 0)?;
        let (digits, rest) = message.split_at(end + 1);
        message = rest;
        let value = digits
            .iter()
            .rev()
            .fold(0_u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
        Some(value as u32)
    };
    let (mut uid, mut gid) = (0, 0);
    while let Some(field) = number() {
        match field {
            0x08 => uid = number().unwrap(),
            0x10 => gid = number().unwrap(),
            other => panic!("{other}"),
        }
    }
    // All ones: as chown has it, no change from root.
    let id = |id| if id == u32::MAX { 0 } else { id };
    (id(uid), id(gid))
}
