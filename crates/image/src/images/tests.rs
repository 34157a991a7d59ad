use banger_model::Quiet;

use super::*;

fn images() -> (tempfile::TempDir, Images) {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(&dir.path().join("images")).unwrap();
    (dir, images)
}

fn publish(images: &Images, name: &str, content: &str) -> Image {
    let stage = images.store.stage().unwrap();
    let rootfs = stage.path().join(ROOTFS);
    std::fs::write(&rootfs, content).unwrap();
    let digest = banger_content::digest_file(&rootfs, |_| Ok(())).unwrap();
    let manifest = Manifest::new(
        name.parse().unwrap(),
        "a test".to_owned(),
        "debian-bookworm".parse().unwrap(),
        ImageConfig::default(),
        ByteSize::bytes(content.len() as u64),
    );
    let name = name.parse().unwrap();
    images.publish(stage, &name, digest, manifest).unwrap()
}

#[test]
fn published_images_are_listed_and_found() {
    let (_dir, images) = images();
    assert!(images.list().unwrap().is_empty());
    let made = publish(&images, "b", "content");
    publish(&images, "a", "content");
    let names: Vec<_> = images
        .list()
        .unwrap()
        .into_iter()
        .map(|image| image.name.to_string())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let found = images.find(&"b".parse().unwrap()).unwrap().unwrap();
    assert_eq!(found.digest, made.digest);
    assert_eq!(found.rootfs, made.rootfs);
    let by_digest = images.by_digest(&made.digest).unwrap().unwrap();
    assert_eq!(by_digest.name.as_str(), "b");
    assert!(images.find(&"c".parse().unwrap()).unwrap().is_none());
}

#[test]
fn a_cut_off_image_is_refused() {
    let (_dir, images) = images();
    let made = publish(&images, "a", "content");
    std::fs::remove_file(&made.rootfs).unwrap();
    std::fs::write(&made.rootfs, "cont").unwrap();
    let error = images.find(&made.name).unwrap_err();
    assert!(error.message().contains("rootfs.ext4"), "{error}");
    assert!(error.hint_text().unwrap().contains("pull again"));
}

#[tokio::test]
async fn cancelled_pulls_touch_nothing() {
    let (_dir, images) = images();
    let cancel = CancellationToken::new();
    cancel.cancel();
    for name in ["debian-bookworm", "localhost:1/x"] {
        let cancelled = images
            .pull(
                &name.parse().unwrap(),
                &PullOptions::default(),
                &Quiet,
                &cancel,
            )
            .await;
        assert_eq!(cancelled.unwrap_err().code(), Code::Cancelled, "{name}");
    }
    let staging = images.store.dir().join("staging");
    assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0);
}

#[test]
fn images_that_differ_in_what_they_say_are_two_and_share_their_disk() {
    use std::os::unix::fs::MetadataExt;
    let (_dir, images) = images();
    let one = publish(&images, "one", "content");
    let stage = images.store.stage().unwrap();
    std::fs::write(stage.path().join(ROOTFS), "content").unwrap();
    let config = ImageConfig {
        cmd: vec!["x".to_owned()],
        ..ImageConfig::default()
    };
    let manifest = Manifest::new(
        "two".parse().unwrap(),
        "a test".to_owned(),
        one.kernel.clone(),
        config.clone(),
        one.size,
    );
    let rootfs = one.rootfs_digest.clone().unwrap();
    let two = images
        .publish(stage, &"two".parse().unwrap(), rootfs, manifest)
        .unwrap();
    assert_ne!(one.digest, two.digest);
    assert_eq!(two.config, config);
    assert_eq!(
        images.by_digest(&one.digest).unwrap().unwrap().config,
        one.config
    );
    let inode = |image: &Image| std::fs::metadata(&image.rootfs).unwrap().ino();
    assert_eq!(inode(&one), inode(&two));
    assert_eq!(images.all().unwrap().len(), 2);
}

#[test]
fn names_are_resolved_to_what_is_here_then_the_catalog_then_a_registry() {
    let (_dir, images) = images();
    publish(&images, "own", "content");
    for (typed, meant) in [
        ("own", "own"),
        ("debian-bookworm", "debian-bookworm"),
        ("alpine", "alpine:latest"),
        ("docker.io/library/alpine:3.20", "alpine:3.20"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
    ] {
        let canonical = images.canonical(&typed.parse().unwrap()).unwrap();
        assert_eq!(canonical.as_str(), meant);
    }
}

#[test]
fn a_mirror_that_is_no_address_is_refused() {
    let (_dir, images) = images();
    assert!(
        images
            .clone()
            .with_mirror(Some("http://mirror.example/debian".into()))
            .is_ok()
    );
    let bad = images.with_mirror(Some("deb [trusted=yes] http://x y".into()));
    assert_eq!(bad.unwrap_err().code(), Code::InvalidConfig);
}
