//! Bundles: finished images from a server, named by a catalog of one's own.

use std::fs;
use std::path::Path;
use std::process::Command;

use banger_tests::World;
use banger_tests::files::FileServer;
use banger_tests::registry::{script, small_root};
use sha2::{Digest, Sha256};

use super::{ext4, images, staged};

/// The command line of the documentation.
fn pack(dir: &Path) -> Vec<u8> {
    let made = Command::new("tar")
        .arg("-C")
        .arg(dir)
        .args(["--zstd", "-cSf", "-", "rootfs.ext4", "manifest.json"])
        .output()
        .expect("run tar");
    assert!(made.status.success(), "{made:?}");
    made.stdout
}

pub(super) fn pull(w: &World) {
    let root = small_root(w.root());
    script(&root, "bin/entry", "echo \"$A $(id -u)\"; exit 7");
    ext4(&root, &w.root().join("rootfs.ext4"));
    let about = r#"{"format": 1, "config":
        {"Env": ["A=bundled", "PATH=/bin"], "User": "app", "Entrypoint": ["/bin/entry"]}}"#;
    fs::write(w.root().join("manifest.json"), about).expect("write the manifest");
    let bundle = pack(w.root());
    let sum: String = Sha256::digest(&bundle)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let half = bundle.len() / 2;
    let server = FileServer::start(bundle, half);
    let catalog = w.root().join("own.toml");
    let entry = |name: &str, sum: &str| {
        let url = server.url();
        format!("[image.{name}]\nkind = \"bundle\"\nurl = \"{url}\"\nsha256 = \"{sum}\"\n")
    };
    let entries = [entry("boxed", &sum), entry("wrong", &"0".repeat(64))];
    fs::write(&catalog, entries.concat()).expect("write the catalog");
    let config = format!("[images]\ncatalogs = [\"{}\"]\n", catalog.display());
    w.configure(&config);
    let listed = w.banger(["image", "catalog", "--output", "json"]).ok();
    let listed = listed.json();
    assert_eq!(listed[0]["name"], "boxed");
    assert_eq!(listed[0]["kind"], "bundle");

    // One download for all who ask, gone on with where it broke off.
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| w.banger(["image", "pull", "boxed"])))
            .collect();
        for pull in pulls {
            pull.join().expect("a pull").ok();
        }
    });
    let rest = format!("bytes={half}-");
    assert_eq!(server.asked(), ["bytes=0-0", "", &rest]);
    let run = w.banger(["vm", "run", "--rm", "--image", "boxed"]);
    assert_eq!(run.expect_code(7).out(), "bundled 1000\n");
    let shown = w.banger(["image", "show", "boxed", "--output", "json"]);
    let shown = shown.ok().json();
    assert_eq!(shown["reference"], server.url());
    assert_eq!(shown["manifest_digest"], format!("sha256:{sum}"));

    // What is not what the catalog says is never an image.
    let before = images(w);
    let refused = w
        .banger(["image", "pull", "wrong", "--output", "json"])
        .expect_code(1)
        .json();
    assert_eq!(refused["error"]["code"], "fetch_failed", "{refused}");
    assert!(refused.to_string().contains(&sum), "{refused}");
    assert_eq!(images(w), before);
    assert_eq!(staged(w), 0);
}
