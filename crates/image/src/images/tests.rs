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
    let manifest = Manifest {
        format: Manifest::FORMAT,
        name: name.parse().unwrap(),
        source: "a test".to_owned(),
        packages: 1,
        kernel: "debian-bookworm".parse().unwrap(),
        config: ImageConfig::default(),
        created_at: "2026-01-01T00:00:00Z".to_owned(),
        size: ByteSize::bytes(content.len() as u64),
    };
    let entry = images
        .store
        .publish(stage, &digest, name, &manifest)
        .unwrap();
    image(entry).unwrap()
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
async fn unknown_names_and_cancelled_pulls_touch_nothing() {
    let (_dir, images) = images();
    let cancel = CancellationToken::new();
    let unknown = images
        .pull(&"no-such".parse().unwrap(), &Quiet, &cancel)
        .await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    cancel.cancel();
    let cancelled = images
        .pull(&"debian-bookworm".parse().unwrap(), &Quiet, &cancel)
        .await;
    assert_eq!(cancelled.unwrap_err().code(), Code::Cancelled);
    let staging = images.store.dir().join("staging");
    assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0);
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
