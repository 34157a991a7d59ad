//! Archives that are damaged or hostile: an error each, and nothing stays.

use std::io::Read;

use banger_model::{ByteSize, Code};
use banger_oci::{Transfer, Wanted, load};
use tokio::sync::watch;

use crate::Host;
use crate::archives::{Files, load_bytes, refusal, refusal_at, refusal_of, with_entry};
use crate::images::{Made, archive, digest, gzip, tar};

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
