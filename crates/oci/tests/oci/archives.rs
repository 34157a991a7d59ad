//! Archives of `docker save` and OCI layouts, sound ones and others.

use std::io::{Cursor, Read};

use banger_model::{ByteSize, Code, Result};
use banger_oci::{Image, Platform, Transfer, Wanted, load};
use serde_json::json;
use tokio::sync::watch;

use crate::images::{INDEX, MANIFEST, Made, archive, descriptor, digest, gzip, tar};
use crate::{Host, assert_whole};

type Files = Vec<(String, Vec<u8>)>;

async fn load_bytes(host: &Host, bytes: Vec<u8>, wanted: &Wanted) -> Result<Image> {
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
async fn refusal(files: &Files, wanted: &Wanted) -> banger_model::Error {
    refusal_of(archive(files), wanted).await
}

async fn refusal_of(bytes: Vec<u8>, wanted: &Wanted) -> banger_model::Error {
    refusal_at(&Host::new(), bytes, wanted).await
}

async fn refusal_at(host: &Host, bytes: Vec<u8>, wanted: &Wanted) -> banger_model::Error {
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
async fn an_archive_that_ends_early_is_always_an_error() {
    let host = Host::new();
    let made = Made::of_size(3000, 1);
    for files in [made.layout(&["a"]), made.saved(&["a"])] {
        let plain = archive(&files);
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        for whole in [gzip(&plain), zstd, plain] {
            for part in 0..64 {
                let mut bytes = whole.clone();
                bytes.truncate(whole.len() * part / 64);
                let error = refusal_at(&host, bytes, &Wanted::default()).await;
                assert_eq!(error.code(), Code::InvalidArgument, "{part}/64: {error:?}");
            }
            let mut bytes = whole.clone();
            bytes.truncate(whole.len() - 1);
            refusal_at(&host, bytes, &Wanted::default()).await;
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

#[tokio::test]
async fn content_that_is_not_what_it_is_called_is_refused_by_name() {
    let made = Made::of_size(100, 1);
    let layer = digest(&made.layers[0].packed).hex().to_owned();
    let change = |files: Files, part: &str, new: Option<Vec<u8>>| -> Files {
        let changed = files.into_iter().filter_map(|(name, bytes)| {
            if name.contains(part) {
                new.clone().map(|new| (name, new))
            } else {
                Some((name, bytes))
            }
        });
        changed.collect()
    };
    let config = format!("{}.json", digest(&made.config).hex());
    let cases = [
        (
            change(made.layout(&[]), &layer, Some(b"x".to_vec())),
            layer.as_str(),
        ),
        (change(made.layout(&[]), &layer, None), layer.as_str()),
        (
            change(made.layout(&[]), "index.json", Some(b"{".to_vec())),
            "`index.json` cannot be read",
        ),
        (change(made.layout(&[]), "index.json", None), "neither"),
        (
            change(made.saved(&[]), "manifest.json", Some(b"[]".to_vec())),
            "no image",
        ),
        (
            change(made.saved(&[]), "manifest.json", Some(vec![b' '; 5 << 20])),
            "at most",
        ),
        (
            change(made.saved(&[]), "1/layer.tar", None),
            "lacks `1/layer.tar`",
        ),
        (
            change(made.saved(&[]), &config, Some(b"{}".to_vec())),
            config.as_str(),
        ),
        (vec![("hello".to_owned(), vec![])], "it is no image"),
    ];
    for (files, text) in cases {
        let error = refusal(&files, &Wanted::default()).await;
        assert!(error.message().contains(text), "{text}: {error:?}");
    }
    let mut twice = made.saved(&[]);
    twice.push(("0/layer.tar".to_owned(), b"another".to_vec()));
    let error = refusal(&twice, &Wanted::default()).await;
    assert!(
        error.message().contains("`0/layer.tar` is there twice"),
        "{error:?}"
    );
}

/// A tar archive with one more entry of any kind before the end.
fn with_entry(files: &Files, kind: tar::EntryType, name: &[u8], link: &str, size: u64) -> Vec<u8> {
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
async fn hostile_entries_are_refused_by_name() {
    use tar::EntryType as Kind;
    let made = Made::of_size(100, 1);
    let files = made.layout(&[]);
    let cases: [(Kind, &[u8], &str, u64, &str); 14] = [
        (
            Kind::Regular,
            b"/etc/passwd",
            "",
            0,
            "`/etc/passwd` has an absolute name",
        ),
        (Kind::Regular, b"a/../../x", "", 0, "`a/../../x` leads out"),
        (Kind::Regular, b"a\xff", "", 0, "is not text"),
        (
            Kind::Regular,
            b"a\x1b[2Jb",
            "",
            1 << 50,
            "`a\\u{1b}[2Jb` says it has",
        ),
        (Kind::Regular, b"huge", "", 1 << 60, "`huge` says it has"),
        (
            Kind::Regular,
            b"blobs/sha256/00",
            "",
            0,
            "`blobs/sha256/00` is",
        ),
        (
            Kind::Symlink,
            b"a/b",
            "../../x",
            0,
            "`a/b` is a link that leads out",
        ),
        (
            Kind::Symlink,
            b"ab",
            "/etc/passwd",
            0,
            "`ab` is a link that leads out",
        ),
        (
            Kind::Link,
            b"ab",
            "../x",
            0,
            "`ab` is a link that leads out",
        ),
        (
            Kind::Symlink,
            b"index.json",
            "x",
            0,
            "`index.json` is there twice",
        ),
        (Kind::Char, b"dev", "", 0, "`dev` is neither"),
        (Kind::Fifo, b"pipe", "", 0, "`pipe` is neither"),
        (Kind::GNULongName, b"long", "", 1 << 40, "absurd length"),
        (Kind::XHeader, b"pax", "", 1 << 40, "absurd length"),
    ];
    for (kind, name, link, size, text) in cases {
        let error = refusal_of(
            with_entry(&files, kind, name, link, size),
            &Wanted::default(),
        )
        .await;
        assert_eq!(error.code(), Code::InvalidArgument, "{text}: {error:?}");
        assert!(error.message().contains(text), "{text}: {error:?}");
    }
}

#[tokio::test]
async fn bombs_and_noise_are_refused() {
    let zeros = vec![0; 8 << 20];
    let bomb = gzip(&tar(&[("zeros", &zeros)]));
    assert!(bomb.len() < 100_000);
    let small = Wanted {
        max_size: ByteSize::mib(4),
        ..Wanted::default()
    };
    let error = refusal_of(bomb, &small).await;
    assert!(
        error
            .message()
            .contains("`zeros` says it has 8388608 bytes"),
        "{error:?}"
    );

    let made = Made::of_size(100, 1);
    let mut longer = archive(&made.layout(&[]));
    longer.extend_from_slice(&[0; 10_240]);
    load_bytes(&Host::new(), longer.clone(), &Wanted::default())
        .await
        .unwrap();
    longer.push(1);
    let error = refusal_of(longer, &Wanted::default()).await;
    assert!(
        error.message().contains("goes on after its end"),
        "{error:?}"
    );
    let error = refusal_of(vec![7; 5000], &Wanted::default()).await;
    assert!(error.message().contains("not a tar archive"), "{error:?}");
    let mut many = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    for n in 0..17_000 {
        many.append_data(&mut header, n.to_string(), &[][..])
            .unwrap();
    }
    let error = refusal_of(many.into_inner().unwrap(), &Wanted::default()).await;
    assert!(error.message().contains("entries"), "{error:?}");
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

/// A source that says when it is read and then waits for a signal.
struct Waiting {
    asked: Option<tokio::sync::oneshot::Sender<()>>,
    go_on: std::sync::mpsc::Receiver<()>,
    ended: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Read for Waiting {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some(asked) = self.asked.take() {
            asked.send(()).unwrap();
            self.go_on.recv().unwrap();
        }
        buffer.fill(b'x');
        Ok(buffer.len())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.ended.take().unwrap().send(()).unwrap();
    }
}

#[tokio::test]
async fn reading_that_nobody_waits_for_any_more_ends() {
    let host = Host::new();
    let (asked, was_asked) = tokio::sync::oneshot::channel();
    let (go_on, wait) = std::sync::mpsc::channel();
    let (ended, has_ended) = tokio::sync::oneshot::channel();
    let source = Waiting {
        asked: Some(asked),
        go_on: wait,
        ended: Some(ended),
    };
    let progress = watch::Sender::new(Transfer::default());
    let wanted = Wanted::default();
    tokio::select! {
        _ = load(&host.cache, source, None, &wanted, &progress) => panic!("it cannot end"),
        reached = was_asked => reached.unwrap(),
    }
    go_on.send(()).unwrap();
    has_ended.await.unwrap();
}
