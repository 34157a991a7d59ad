//! Archives of `docker save` and OCI layouts.

use std::io::Cursor;

use banger_model::{Code, Result};
use banger_oci::{Image, Platform, Transfer, Wanted, load};
use serde_json::json;
use tokio::sync::watch;

use crate::images::{INDEX, MANIFEST, Made, archive, descriptor, digest, gzip};
use crate::{Host, assert_whole};

pub(crate) type Files = Vec<(String, Vec<u8>)>;

pub(crate) async fn load_bytes(host: &Host, bytes: Vec<u8>, wanted: &Wanted) -> Result<Image> {
    let progress = watch::Sender::new(Transfer::default());
    let length = bytes.len() as u64;
    let loaded = load(
        &host.cache,
        Cursor::new(bytes),
        Some(length),
        wanted,
        &progress,
    )
    .await;
    let last = *progress.borrow();
    assert_eq!(last.total, length);
    if loaded.is_ok() {
        assert_eq!(last.done, length, "read to the end");
    }
    assert!(host.files("staging").is_empty(), "nothing stays behind");
    loaded
}

fn named(name: &str) -> Wanted {
    Wanted {
        name: Some(name.to_owned()),
        ..Wanted::default()
    }
}

/// The error for these files, after which nothing is published.
pub(crate) async fn refusal(files: &Files, wanted: &Wanted) -> banger_model::Error {
    refusal_of(archive(files), wanted).await
}

pub(crate) async fn refusal_of(bytes: Vec<u8>, wanted: &Wanted) -> banger_model::Error {
    refusal_at(&Host::new(), bytes, wanted).await
}

pub(crate) async fn refusal_at(
    host: &Host,
    bytes: Vec<u8>,
    wanted: &Wanted,
) -> banger_model::Error {
    let error = load_bytes(host, bytes, wanted).await.unwrap_err();
    assert!(host.files("blobs").is_empty(), "{error:?}");
    assert!(error.hint_text().is_some(), "{error:?}");
    error
}

#[tokio::test]
async fn both_kinds_are_read_however_they_are_compressed() {
    let made = Made::of_size(50_000, 1);
    for (files, name, manifest) in [
        (made.layout(&["app:1"]), "app:1", &made.manifest),
        (made.saved(&["app:1"]), "app:1", &made.config),
    ] {
        let plain = archive(&files);
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        for bytes in [gzip(&plain), zstd, plain] {
            let host = Host::new();
            let image = load_bytes(&host, bytes, &Wanted::default()).await.unwrap();
            assert_whole(&image, &made);
            assert_eq!(image.reference.as_deref(), Some(name));
            assert_eq!(image.manifest_digest, digest(manifest));
            assert_eq!(image.config.entrypoint, ["/init"]);
        }
    }
}

#[tokio::test]
async fn one_of_several_images_is_chosen_by_name_or_none() {
    let (one, two) = (Made::of_size(100, 1), Made::of_size(100, 2));
    let mut layout = one.layout(&["app:1", "registry.example/app:one"]);
    layout.extend(
        two.layout(&["app:2"])
            .into_iter()
            .filter(|(name, _)| name.starts_with("blobs/")),
    );
    let entry = |made: &Made, name: &str| {
        let mut entry = descriptor(MANIFEST, &made.manifest);
        entry["annotations"] = json!({"io.containerd.image.name": name});
        entry
    };
    let index = json!({"schemaVersion": 2, "manifests": [
        entry(&one, "docker.io/library/app:1"), entry(&one, "registry.example/app:one"), entry(&two, "app:2"),
    ]});
    layout.retain(|(name, _)| name != "index.json");
    dedup(&mut layout);
    layout.push(("index.json".to_owned(), index.to_string().into_bytes()));

    let mut saved = one.saved(&[]);
    saved.extend(
        two.saved(&[])
            .into_iter()
            .map(|(name, bytes)| (name.replace("/layer", "/two"), bytes)),
    );
    let list = |made: &Made, names: &[&str], layer: &str| {
        json!({"Config": format!("{}.json", digest(&made.config).hex()), "RepoTags": names,
            "Layers": (0..3).map(|n| format!("{n}/{layer}.tar")).collect::<Vec<_>>()})
    };
    saved.retain(|(name, _)| name != "manifest.json");
    saved.push((
        "manifest.json".to_owned(),
        json!([
            list(&one, &["app:1", "registry.example/app:one"], "layer"),
            list(&two, &["app:2"], "two"),
        ])
        .to_string()
        .into_bytes(),
    ));

    for files in [layout, saved] {
        let bytes = archive(&files);
        for (name, made) in [
            ("app:1", &one),
            ("docker.io/library/app:1", &one),
            ("registry.example/app:one", &one),
            ("app:2", &two),
        ] {
            let host = Host::new();
            let image = load_bytes(&host, bytes.clone(), &named(name))
                .await
                .unwrap();
            assert_whole(&image, made);
            assert_eq!(host.files("blobs").len(), 4, "only what belongs to it");
        }
        let error = refusal(&files, &Wanted::default()).await;
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("several images"), "{error:?}");
        assert!(error.message().contains("`app:2`") && error.message().contains("app:one`"));
        let error = refusal(&files, &named("app:3")).await;
        assert_eq!(error.code(), Code::NotFound);
        assert!(error.message().contains("`app:2`"), "{error:?}");
    }
}

fn dedup(files: &mut Files) {
    files.sort();
    files.dedup();
}

#[tokio::test]
async fn a_layout_for_several_platforms_gives_the_one_that_is_asked_for() {
    let amd64 = Made::of_size(100, 1);
    let arm64 = Made::for_architecture(vec![], "arm64");
    let entry = |made: &Made, architecture: &str| {
        let mut entry = descriptor(MANIFEST, &made.manifest);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    };
    let inner = json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [entry(&arm64, "arm64"), entry(&amd64, "amd64")]})
    .to_string()
    .into_bytes();
    let index = json!({"schemaVersion": 2, "manifests": [descriptor(INDEX, &inner)]});
    let mut files = amd64.layout(&[]);
    files.extend(arm64.layout(&[]));
    files.retain(|(name, _)| name != "index.json");
    dedup(&mut files);
    files.push((format!("blobs/sha256/{}", digest(&inner).hex()), inner));
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    let host = Host::new();
    let image = load_bytes(&host, archive(&files), &Wanted::default())
        .await
        .unwrap();
    assert_whole(&image, &amd64);
    let arm = Wanted {
        platform: "linux/arm64".parse::<Platform>().unwrap(),
        ..Wanted::default()
    };
    let image = load_bytes(&host, archive(&files), &arm).await.unwrap();
    assert_eq!(image.details.architecture, "arm64");
    let s390x = Wanted {
        platform: "linux/s390x".parse().unwrap(),
        ..Wanted::default()
    };
    let error = refusal(&files, &s390x).await;
    assert!(
        error
            .message()
            .contains("only for linux/amd64, linux/arm64"),
        "{error:?}"
    );
}

/// A tar archive with one more entry of any kind before the end.
pub(crate) fn with_entry(
    files: &Files,
    kind: tar::EntryType,
    name: &[u8],
    link: &str,
    size: u64,
) -> Vec<u8> {
    let mut bytes = archive(files);
    bytes.truncate(bytes.len() - 1024);
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

#[tokio::test]
async fn links_between_layers_are_followed_and_not_in_circles() {
    let made = Made::of_size(100, 1);
    let link = |target: &str| {
        let mut files = made.saved(&[]);
        files.retain(|(name, _)| name != "1/layer.tar");
        files.push(("shared.tar".to_owned(), made.layers[1].packed.clone()));
        with_entry(&files, tar::EntryType::Symlink, b"1/layer.tar", target, 0)
    };
    let host = Host::new();
    let image = load_bytes(&host, link("../shared.tar"), &Wanted::default())
        .await
        .unwrap();
    assert_whole(&image, &made);
    let error = refusal_of(link("../1/layer.tar"), &Wanted::default()).await;
    assert!(error.message().contains("lacks `1/layer.tar`"), "{error:?}");
}

#[tokio::test]
async fn long_names_are_read_in_every_form() {
    let made = Made::of_size(100, 1);
    let long = "x".repeat(200);
    let mut files = made.saved(&[]);
    for (name, bytes) in &mut files {
        if name == "1/layer.tar" {
            *name = format!("{long}/layer.tar");
        } else if name == "manifest.json" {
            *bytes = String::from_utf8(bytes.clone())
                .unwrap()
                .replace("1/layer", &format!("{long}/layer"))
                .into_bytes();
        }
    }
    // The `tar` crate writes GNU long names; pax is what Go writes.
    let mut pax = tar::Builder::new(Vec::new());
    for (name, bytes) in &files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        if name.len() > 100 {
            pax.append_pax_extensions([("mtime", &b"1.5"[..]), ("path", name.as_bytes())])
                .unwrap();
            pax.append_data(&mut header, "short", &bytes[..]).unwrap();
        } else {
            pax.append_data(&mut header, name, &bytes[..]).unwrap();
        }
    }
    for bytes in [archive(&files), pax.into_inner().unwrap()] {
        let host = Host::new();
        let image = load_bytes(&host, bytes, &Wanted::default()).await.unwrap();
        assert_whole(&image, &made);
    }
}
