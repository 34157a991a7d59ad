use std::collections::HashSet;
use std::time::Duration;

use banger_model::ByteSize;

use super::*;

fn digest_of(bytes: &[u8]) -> Digest {
    let mut hasher = banger_content::Hasher::new();
    hasher.update(bytes);
    hasher.finish()
}

/// Puts a blob there that was last used `age` seconds ago.
fn put(cache: &BlobCache, bytes: &[u8], age: u64) -> Digest {
    let digest = digest_of(bytes);
    let path = cache.blob(&digest);
    fs::write(&path, bytes).unwrap();
    let used = SystemTime::now() - Duration::from_secs(age);
    File::open(&path).unwrap().set_modified(used).unwrap();
    digest
}

fn open() -> (tempfile::TempDir, BlobCache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    (dir, cache)
}

fn partial(cache: &BlobCache, digest: &Digest, size: u64) -> Partial {
    let slot = cache.slot(digest);
    let turn = slot.turn.clone().try_lock_owned().unwrap();
    Partial::open(cache, digest, size, slot, turn).unwrap()
}

#[test]
fn a_partial_is_gone_on_with_and_published_whole() {
    let (_dir, cache) = open();
    let digest = digest_of(b"hello world");
    let mut first = partial(&cache, &digest, 11);
    first.write(b"hello ").unwrap();
    drop(first);
    assert!(
        !cache.verify(&digest, 11).unwrap(),
        "half a blob is no blob"
    );
    let mut second = partial(&cache, &digest, 11);
    assert_eq!(second.len(), 6);
    second.write(b"world").unwrap();
    assert!(second.is_full());
    assert_eq!(second.publish(&cache, &digest).unwrap(), None);
    assert!(cache.verify(&digest, 11).unwrap());
    assert!(!cache.partial(&digest).exists());
}

#[test]
fn a_partial_that_cannot_be_right_is_thrown_away() {
    let (_dir, cache) = open();
    let digest = digest_of(b"hello");
    fs::write(cache.partial(&digest), b"longer than that").unwrap();
    assert_eq!(partial(&cache, &digest, 5).len(), 0);
    fs::write(cache.partial(&digest), b"jello").unwrap();
    let wrong = partial(&cache, &digest, 5);
    assert!(wrong.is_full());
    assert_eq!(
        wrong.publish(&cache, &digest).unwrap(),
        Some(digest_of(b"jello"))
    );
    assert!(!cache.partial(&digest).exists() && !cache.blob(&digest).exists());
}

#[test]
fn damaged_blobs_are_removed_when_they_are_looked_at() {
    let (_dir, cache) = open();
    let digest = put(&cache, b"hello", 0);
    assert!(cache.verify(&digest, 5).unwrap());
    for damage in [&b"jello"[..], b"hell", b""] {
        fs::remove_file(cache.blob(&digest)).ok();
        fs::write(cache.blob(&digest), damage).unwrap();
        assert!(!cache.verify(&digest, 5).unwrap());
        assert!(!cache.blob(&digest).exists());
    }
}

#[test]
fn pruning_takes_the_longest_unused_first_and_nothing_in_use() {
    let (_dir, cache) = open();
    let old = put(&cache, b"0123456789", 40);
    let kept = put(&cache, b"abcdefghij", 30);
    let pinned = put(&cache, b"ABCDEFGHIJ", 20);
    let new = put(&cache, b"9876543210", 10);
    let pins = cache.pin([pinned.clone()]);
    let keep = HashSet::from([kept.clone()]);
    let limit = ByteSize::bytes(35);
    let pruned = cache.prune(&keep, limit).unwrap();
    assert_eq!((pruned.removed, pruned.left), (1, ByteSize::bytes(30)));
    assert!(!cache.blob(&old).exists() && cache.blob(&new).exists());

    let busy = digest_of(b"being fetched");
    let mut fetching = partial(&cache, &busy, 13);
    fetching.write(b"being").unwrap();
    fs::write(cache.partial(&old), b"abandoned").unwrap();
    let pruned = cache.prune(&keep, ByteSize::bytes(0)).unwrap();
    assert_eq!(pruned.removed, 2, "the new blob and the abandoned download");
    assert!(cache.blob(&kept).exists() && cache.blob(&pinned).exists());
    assert!(cache.partial(&busy).exists());

    drop((pins, fetching));
    cache.prune(&HashSet::new(), ByteSize::bytes(0)).unwrap();
    assert_eq!(cache.size().unwrap(), ByteSize::bytes(0));
}

#[test]
fn a_look_counts_as_a_use() {
    let (_dir, cache) = open();
    let first = put(&cache, b"first", 20);
    let second = put(&cache, b"second", 10);
    assert!(cache.verify(&first, 5).unwrap());
    cache.prune(&HashSet::new(), ByteSize::bytes(6)).unwrap();
    assert!(cache.blob(&first).exists() && !cache.blob(&second).exists());
}

#[test]
fn opening_removes_what_a_crash_left_of_archives_only() {
    let (dir, cache) = open();
    fs::create_dir(cache.staging().join("load-1")).unwrap();
    fs::write(cache.staging().join("load-1/x"), b"x").unwrap();
    let digest = digest_of(b"hello");
    fs::write(cache.partial(&digest), b"he").unwrap();
    let cache = BlobCache::open(dir.path()).unwrap();
    assert_eq!(fs::read_dir(cache.staging()).unwrap().count(), 0);
    assert_eq!(partial(&cache, &digest, 5).len(), 2);
}
