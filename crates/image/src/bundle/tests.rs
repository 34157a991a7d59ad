use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use banger_content::{Steps, digest_file};
use banger_model::Quiet;
use serde_json::json;

use super::*;
use crate::PullOptions;

/// A directory to make bundles in, and images with a catalog that names one of them.
struct Ground(tempfile::TempDir);

impl Ground {
    /// One with a sound disk and manifest.
    fn new() -> Ground {
        let ground = Ground(tempfile::tempdir().unwrap());
        let tree = ground.path("tree");
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("file"), "content").unwrap();
        let made = Command::new("mke2fs")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
            .args([&tree, &ground.path(ROOTFS)])
            .arg("16M")
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        ground.say(&json!({"format": 1, "config": {"Env": ["A=b"], "Labels": {"l": "v"}}}));
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn say(&self, about: &Value) {
        fs::write(self.path(ABOUT), about.to_string()).unwrap();
    }

    /// Packs these files and names the bundle in the catalog, with its digest.
    fn pack(&self, files: &[&str]) -> Digest {
        let made = Command::new("tar")
            .args(["--zstd", "-cf"])
            .arg(self.path("b.tar.zst"))
            .arg("-C")
            .arg(self.0.path())
            .args(files)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let digest = digest_file(&self.path("b.tar.zst"), |_| Ok(())).unwrap();
        self.catalog(&digest);
        digest
    }

    fn catalog(&self, digest: &Digest) {
        let entry = format!(
            "[image.own]\nkind = \"bundle\"\nurl = \"{}\"\nsha256 = \"{}\"\nkernel = \"k\"\n",
            self.path("b.tar.zst").display(),
            digest.hex()
        );
        fs::write(self.path("catalog.toml"), entry).unwrap();
    }

    fn images(&self) -> Images {
        let images = Images::open(&self.path("images")).unwrap();
        images.with_catalogs(&[self.path("catalog.toml")]).unwrap()
    }

    async fn pull(&self, images: &Images) -> Result<Image> {
        let name = "own".parse().unwrap();
        let wanted = PullOptions::default();
        images
            .pull(&name, &wanted, &Quiet, &CancellationToken::new())
            .await
    }

    /// Why the bundle of these files is refused, which leaves nothing.
    async fn refused(&self, files: &[&str]) -> String {
        self.pack(files);
        let images = self.images();
        let error = self.pull(&images).await.unwrap_err();
        assert_eq!(error.code(), Code::BuildFailed, "{}", error.chain());
        self.is_clean(&images);
        error.chain()
    }

    fn is_clean(&self, images: &Images) {
        assert!(images.all().unwrap().is_empty());
        let staged = fs::read_dir(self.path("images/staging")).unwrap();
        assert_eq!(staged.count(), 0);
    }
}

const BOTH: [&str; 2] = [ROOTFS, ABOUT];

#[tokio::test]
async fn a_bundle_becomes_an_image() {
    let ground = Ground::new();
    let digest = ground.pack(&BOTH);
    let images = ground.images();
    let image = ground.pull(&images).await.unwrap();
    assert_eq!(
        fs::read(&image.rootfs).unwrap(),
        fs::read(ground.path(ROOTFS)).unwrap()
    );
    assert!(fs::metadata(&image.rootfs).unwrap().blocks() * 512 < 8 << 20);
    assert_eq!(image.name.as_str(), "own");
    assert_eq!(image.kernel.as_str(), "k");
    assert_eq!(image.config.env["A"], "b");
    assert_eq!(image.details.labels["l"], "v");
    let origin = image.origin.clone().unwrap();
    assert_eq!(origin.manifest_digest, digest);
    assert!(origin.reference.unwrap().ends_with("/b.tar.zst"));
    let entry = images.catalog().unwrap();
    let entry = entry.iter().find(|entry| entry.kind() == "bundle").unwrap();
    assert!(entry.means(&image));
    // The catalog names another bundle now.
    ground.say(&json!({"format": 1}));
    ground.pack(&BOTH);
    let images = images
        .with_catalogs(&[ground.path("catalog.toml")])
        .unwrap();
    let entry = images.catalog().unwrap();
    let entry = entry.iter().find(|entry| entry.kind() == "bundle").unwrap();
    assert!(!entry.means(&image));
}

#[tokio::test]
async fn another_file_than_the_catalog_means_is_not_opened() {
    let ground = Ground::new();
    ground.pack(&BOTH);
    ground.catalog(&digest_file(&ground.path(ABOUT), |_| Ok(())).unwrap());
    let images = ground.images();
    let error = ground.pull(&images).await.unwrap_err();
    assert_eq!(error.code(), Code::FetchFailed);
    assert!(error.chain().contains("b.tar.zst` is `sha256:"), "{error}");
    ground.is_clean(&images);
}

#[tokio::test]
async fn hostile_bundles_are_refused_by_entry() {
    let ground = Ground::new();
    let says = |said: String, what: &str| assert!(said.contains(what), "{said}");
    says(ground.refused(&[ROOTFS]).await, "no `manifest.json`");
    says(ground.refused(&[ROOTFS, ABOUT, "tree"]).await, "`tree/`");
    for (about, why) in [
        (json!({"format": 2, "new": 1}), "its format is 2"),
        (
            json!({"format": 1, "kernel": "k"}),
            "unknown field `kernel`",
        ),
        (
            json!({"format": 1, "config": {"Env": "A"}}),
            "config cannot be used",
        ),
        (json!({}), "missing field `format`"),
        (json!("x"), "invalid type"),
    ] {
        ground.say(&about);
        let said = ground.refused(&BOTH).await;
        assert!(
            said.contains("`manifest.json`") && said.contains(why),
            "{said}"
        );
    }
    ground.say(&json!({"format": 1}));

    // No file system; half of one; one with damage inside.
    let disk = File::options()
        .write(true)
        .open(ground.path(ROOTFS))
        .unwrap();
    disk.set_len(8 << 20).unwrap();
    says(ground.refused(&BOTH).await, "rootfs.ext4");
    disk.set_len(16 << 20).unwrap();
    disk.write_all_at(&[0xff; 64 << 10], 32 << 10).unwrap();
    says(
        ground.refused(&BOTH).await,
        "`rootfs.ext4` is a damaged ext4",
    );
    fs::write(ground.path(ROOTFS), vec![b'x'; 1 << 20]).unwrap();
    says(ground.refused(&BOTH).await, "rootfs.ext4");
}

#[tokio::test]
async fn a_failure_at_any_step_leaves_nothing_or_the_whole_image() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    let ground = Ground::new();
    ground.pack(&BOTH);
    let images = ground.images();
    for step in 0..100 {
        let counted = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&counted);
        let failing = images.with_steps(Steps::new(move |what| {
            if counter.fetch_add(1, Ordering::Relaxed) == step {
                return Err(Error::new(Code::Io, format!("failed at `{what}`")));
            }
            Ok(())
        }));
        let pulled = ground.pull(&failing).await;
        if counted.load(Ordering::Relaxed) <= step {
            pulled.unwrap();
            assert!(step > 2, "{step} steps are too few");
            return;
        }
        // Whole or nothing, and nothing in between.
        assert!(images.list().unwrap().len() <= 1);
        for image in images.all().unwrap() {
            assert_eq!(
                digest_file(&image.rootfs, |_| Ok(())).unwrap(),
                image.rootfs_digest.unwrap()
            );
        }
    }
    panic!("it never came to its end");
}

#[tokio::test]
async fn a_pull_leaves_the_cache_within_its_bound() {
    let ground = Ground::new();
    let digest = ground.pack(&BOTH);
    let images = ground.images();
    let blobs = ground.path("images/layers/blobs");
    // Together more than may stay, with nothing on the disk.
    for (age, name) in [(2, "1"), (1, "2")] {
        let blob = File::create_new(blobs.join(name.repeat(64))).unwrap();
        blob.set_len(3 << 30).unwrap();
        let used = std::time::SystemTime::now() - std::time::Duration::from_secs(age * 60);
        blob.set_modified(used).unwrap();
    }
    ground.pull(&images).await.unwrap();
    let mut left: Vec<_> = fs::read_dir(&blobs)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let mut expected = ["2".repeat(64), digest.hex().to_owned()];
    expected.sort();
    assert_eq!(left, expected);
}
