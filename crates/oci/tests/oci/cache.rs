//! What pulls share: downloads, what is on disk, and the count of bytes.

use std::collections::HashSet;
use std::fs;

use banger_model::ByteSize;
use banger_oci::{BlobCache, Platform, Puller, Transfer};
use tokio::sync::watch;

use crate::images::{Layer, Made, digest, noise, tar};
use crate::server::{Content, Server};
use crate::{Host, assert_whole, options};

#[tokio::test]
async fn many_pulls_at_once_download_each_blob_once() {
    let made = Made::of_size(300_000, 1);
    let server = Server::honest(Content::of(&made)).await;
    let host = Host::new();
    let puller = Puller::new(host.cache.clone(), options()).unwrap();
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let (puller, reference) = (puller.clone(), server.image().parse().unwrap());
            tokio::spawn(async move {
                let progress = watch::Sender::new(Transfer::default());
                let image = puller
                    .pull(&reference, &Platform::default(), &progress)
                    .await;
                (image.unwrap(), *progress.borrow())
            })
        })
        .collect();
    for pull in pulls {
        let (image, progress) = pull.await.unwrap();
        assert_whole(&image, &made);
        assert_eq!(
            (progress.done, progress.total),
            (made.content_size(), made.content_size())
        );
    }
    let mut blobs: Vec<_> = server.blobs().into_iter().map(|seen| seen.path).collect();
    assert_eq!(blobs.len(), 4);
    blobs.sort();
    blobs.dedup();
    assert_eq!(blobs.len(), 4);
}

#[tokio::test]
async fn layers_are_shared_by_images_and_by_layers() {
    let base = || Layer::gzip(tar(&[("base", &noise(1000, 1))]));
    let first = Made::new(vec![base(), base()]);
    let second = Made::new(vec![base(), Layer::gzip(tar(&[("top", b"x")]))]);
    let mut content = Content::of(&first);
    content.add(&second);
    content.tag("2", crate::images::MANIFEST, &second.manifest);
    let server = Server::honest(content).await;
    let host = Host::new();
    assert_whole(&host.pull(&server.image()).await.unwrap(), &first);
    assert_eq!(server.blobs().len(), 2);
    let name = format!("{}/test/image:2", server.address);
    assert_whole(&host.pull(&name).await.unwrap(), &second);
    assert_eq!(server.blobs().len(), 4);
}

/// A pull that is given up after `bytes` of its one layer.
async fn give_up_after(host: &Host, made: &Made, bytes: usize) {
    let layer = digest(&made.layers[0].packed);
    let path = layer.to_string();
    let server = Server::new(Content::of(made), move |seen, content| {
        let stall = seen.path.ends_with(&path);
        stall.then(|| content.answer(seen).stall(bytes))
    })
    .await;
    let patient = banger_oci::Options {
        stall_timeout: std::time::Duration::from_secs(60),
        ..options()
    };
    let puller = Puller::new(host.cache.clone(), patient).unwrap();
    let progress = watch::Sender::new(Transfer::default());
    let mut watcher = progress.subscribe();
    let there = (bytes + made.config.len()) as u64;
    let (reference, platform) = (server.image().parse().unwrap(), Platform::default());
    tokio::select! {
        pulled = puller.pull(&reference, &platform, &progress) => {
            panic!("ended: {:?}", pulled.map(|_| ()));
        }
        reached = watcher.wait_for(|transfer| transfer.done == there) => drop(reached.unwrap()),
    }
}

#[tokio::test]
async fn a_pull_that_was_given_up_is_taken_up_and_counted() {
    let made = Made::new(vec![Layer::plain(tar(&[("f", &noise(600_000, 1))]))]);
    let host = Host::new();
    give_up_after(&host, &made, 250_000).await;
    let server = Server::honest(Content::of(&made)).await;
    let puller = Puller::new(host.cache.clone(), options()).unwrap();
    let progress = watch::Sender::new(Transfer::default());
    let mut watcher = progress.subscribe();
    let counts = tokio::spawn(async move {
        let mut counts = Vec::new();
        while watcher.changed().await.is_ok() {
            counts.push(*watcher.borrow_and_update());
        }
        counts
    });
    let reference = server.image().parse().unwrap();
    let image = puller
        .pull(&reference, &Platform::default(), &progress)
        .await;
    assert_whole(&image.unwrap(), &made);
    drop(progress);
    let layer: Vec<_> = server.blobs();
    assert_eq!(layer.len(), 1, "the config was there");
    assert_eq!(layer[0].from(), Some(250_000));
    let counts = counts.await.unwrap();
    assert!(
        counts.is_sorted_by_key(|transfer| transfer.done),
        "{counts:?}"
    );
    // What was there counts at once, before anything new comes.
    let config = made.config.len() as u64;
    let below = |transfer: &Transfer| (config + 1..config + 250_000).contains(&transfer.done);
    assert!(!counts.iter().any(below), "{counts:?}");
    let last = counts.last().unwrap();
    assert_eq!(
        (last.done, last.total),
        (made.content_size(), made.content_size())
    );
}

#[tokio::test]
async fn a_damaged_start_is_noticed_and_thrown_away() {
    let made = Made::new(vec![Layer::plain(tar(&[("f", &noise(600_000, 1))]))]);
    let layer = digest(&made.layers[0].packed);
    let too_long = vec![0; 700_000];
    let mut whole_and_wrong = made.layers[0].packed.clone();
    whole_and_wrong[5] ^= 1;
    for (start, requests) in [(&[7; 1000][..], 2), (&too_long, 1), (&whole_and_wrong, 1)] {
        let host = Host::new();
        fs::write(host.cache.dir().join("partial").join(layer.hex()), start).unwrap();
        let server = Server::honest(Content::of(&made)).await;
        assert_whole(&host.pull(&server.image()).await.unwrap(), &made);
        assert_eq!(server.blobs().len(), 1 + requests);
        assert!(host.files("partial").is_empty());
    }
}

#[tokio::test]
async fn damaged_blobs_are_fetched_again_and_whole_ones_are_not() {
    let made = Made::of_size(10_000, 1);
    let server = Server::honest(Content::of(&made)).await;
    let host = Host::new();
    drop(host.pull(&server.image()).await.unwrap());
    assert_eq!(server.blobs().len(), 4);
    // After a restart too.
    let cache = BlobCache::open(host.cache.dir()).unwrap();
    let host = Host { cache, ..host };
    drop(host.pull(&server.image()).await.unwrap());
    assert_eq!(server.blobs().len(), 4);
    let path = host
        .cache
        .dir()
        .join("blobs")
        .join(digest(&made.layers[1].packed).hex());
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    assert_whole(&host.pull(&server.image()).await.unwrap(), &made);
    assert_eq!(server.blobs().len(), 5);
}

#[tokio::test]
async fn layers_of_an_image_somebody_holds_are_not_pruned() {
    let made = Made::of_size(1000, 1);
    let server = Server::honest(Content::of(&made)).await;
    let host = Host::new();
    let image = host.pull(&server.image()).await.unwrap();
    let everything = || {
        host.cache
            .prune(&HashSet::new(), ByteSize::bytes(0))
            .unwrap()
    };
    assert_eq!(everything().removed, 0);
    assert_whole(&image, &made);
    drop(image);
    assert_eq!(everything().removed, 4);
    assert!(host.files("blobs").is_empty());
}
