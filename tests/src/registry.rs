//! Images made for the purpose, and a registry on loopback that serves them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Programs of busybox that the images have.
const APPLETS: [&str; 12] = [
    "cat", "chmod", "chown", "echo", "env", "id", "ls", "pwd", "sh", "sleep", "stat", "true",
];

/// A small root file system: busybox, a user `app` with the id 1000, and what the caller adds.
///
/// # Panics
/// When busybox is not there or not static: scripts/install-deps installs it.
pub fn small_root(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    for name in [
        "bin", "dev", "etc", "proc", "root", "srv", "sys", "tmp", "run",
    ] {
        fs::create_dir_all(root.join(name)).expect("make a directory");
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("busybox is installed by scripts/install-deps");
    fs::copy(busybox, root.join("bin/busybox")).expect("copy busybox");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("link an applet");
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n",
    )
    .expect("write passwd");
    root
}

/// Writes a program that is a shell script.
pub fn script(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("write a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// An OCI layout directory with one image of one layer, and the digest of that layer.
pub fn layout(dir: &Path, root: &Path, config: Value, reference: &str) -> (PathBuf, String) {
    let layout = dir.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("make a layout");
    let tar = Command::new("tar")
        .args(["--owner=0", "--group=0", "--numeric-owner", "--sort=name"])
        .arg("-C")
        .arg(root)
        .args(["-c", "."])
        .output()
        .expect("run tar");
    assert!(tar.status.success(), "{tar:?}");
    let blob = |bytes: &[u8]| {
        let digest: String = Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        fs::write(blobs.join(&digest), bytes).expect("write a blob");
        (format!("sha256:{digest}"), bytes.len())
    };
    let (layer, layer_size) = blob(&tar.stdout);
    let config = json!({
        "os": "linux", "architecture": "amd64", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    });
    let (config, config_size) = blob(config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config, "size": config_size,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer, "size": layer_size,
        }],
    });
    let (manifest, manifest_size) = blob(manifest.to_string().as_bytes());
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest, "size": manifest_size,
            "annotations": {"org.opencontainers.image.ref.name": reference},
        }],
    });
    fs::write(layout.join("index.json"), index.to_string()).expect("write the index");
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("write");
    (layout, layer)
}

/// The layout as an archive.
pub fn archive(layout: &Path) -> Vec<u8> {
    let tar = Command::new("tar")
        .arg("-C")
        .arg(layout)
        .args(["-c", "."])
        .output()
        .expect("run tar");
    assert!(tar.status.success(), "{tar:?}");
    tar.stdout
}

/// Debian's registry on a port of its own; it ends with this value.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`
    pub address: String,
    access_log: PathBuf,
}

impl Registry {
    /// Starts one that keeps its files in `dir`.
    ///
    /// # Panics
    /// When docker-registry is not there: scripts/install-deps installs it.
    pub fn start(dir: &Path) -> Registry {
        let config = json!({
            "version": "0.1",
            "log": {"level": "info", "formatter": "text"},
            "storage": {"filesystem": {"rootdirectory": dir.join("registry")}},
            "http": {"addr": "127.0.0.1:0"},
        });
        let path = dir.join("registry.yml");
        fs::write(&path, config.to_string()).expect("configure the registry");
        let access_log = dir.join("registry.log");
        let log = fs::File::create(&access_log).expect("make a log");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(log)
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed by scripts/install-deps");
        let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
        let address = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).expect("read") > 0, "it ended");
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find([',', '"', ' ']).unwrap_or(rest.len());
                break rest[..end].trim().to_owned();
            }
        };
        // It must not block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Registry {
            child,
            address,
            access_log,
        }
    }

    /// Pushes the image in this layout; its name here.
    pub fn push(&self, layout: &Path, reference: &str, name: &str) -> String {
        let name = format!("{}/{name}", self.address);
        let pushed = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"])
            .arg("--dest-tls-verify=false")
            .arg(format!("oci:{}:{reference}", layout.display()))
            .arg(format!("docker://{name}"))
            .output()
            .expect("skopeo is installed by scripts/install-deps");
        assert!(pushed.status.success(), "{pushed:?}");
        name
    }

    /// How often a blob was downloaded.
    pub fn downloads(&self, digest: &str) -> usize {
        let log = fs::read_to_string(&self.access_log).expect("read the log");
        log.lines()
            .filter(|line| line.contains("\"GET ") && line.contains(&format!("/blobs/{digest}")))
            .count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().expect("end the registry");
        self.child.wait().expect("wait for the registry");
    }
}
