use std::os::unix::fs::{MetadataExt, PermissionsExt};

use banger_model::Code;
use serde::Deserialize;
use tempfile::TempDir;

use super::*;
use crate::Hasher;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Manifest {
    note: String,
}

fn manifest(note: &str) -> Manifest {
    Manifest {
        note: note.to_owned(),
    }
}

fn digest(of: &str) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(of.as_bytes());
    hasher.finish()
}

fn store() -> (TempDir, ContentStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

/// Publishes an object with one file, `content`, under `name`.
fn publish(store: &ContentStore, name: &str, content: &str) -> Result<Entry<Manifest>> {
    let stage = store.stage()?;
    let dir = stage.path().join("sub");
    fs::create_dir(&dir).at("create", &dir)?;
    let file = dir.join("content");
    fs::write(&file, content).at("write", &file)?;
    store.publish(stage, &digest(content), name, &manifest(content))
}

fn content(entry: &Entry<Manifest>) -> String {
    fs::read_to_string(entry.path.join("sub/content")).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_published_is_found_sealed_and_private() {
    let (_dir, store) = store();
    assert!(store.get::<Manifest>("a").unwrap().is_none());
    let entry = publish(&store, "a", "one").unwrap();
    assert_eq!(content(&entry), "one");
    assert_eq!(entry.name.as_deref(), Some("a"));
    let found = store.get::<Manifest>("a").unwrap().unwrap();
    assert_eq!(found.manifest, manifest("one"));
    let by_digest = store
        .by_digest::<Manifest>(&digest("one"))
        .unwrap()
        .unwrap();
    assert_eq!(by_digest.path, entry.path);
    assert_eq!(by_digest.name, None);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&entry.path.join("sub/content")), 0o444);
    assert_eq!(mode(&entry.path.join("sub")), 0o700);
    assert_eq!(mode(&entry.path), 0o700);
    assert_eq!(mode(store.dir()), 0o700);
    assert!(names(&store.staging()).is_empty());
}

#[test]
fn a_name_moves_to_the_object_published_last() {
    let (_dir, store) = store();
    let first = publish(&store, "a", "one").unwrap();
    publish(&store, "a", "two").unwrap();
    assert_eq!(content(&store.get("a").unwrap().unwrap()), "two");
    assert_eq!(content(&first), "one");
    let list = store.list::<Manifest>().unwrap();
    assert_eq!(list.len(), 1);
}

#[test]
fn publishing_the_same_again_keeps_the_object() {
    let (_dir, store) = store();
    let first = publish(&store, "a", "one").unwrap();
    let inode = fs::metadata(first.path.join("sub/content")).unwrap().ino();
    let second = publish(&store, "b", "one").unwrap();
    assert_eq!(first.path, second.path);
    assert_eq!(
        fs::metadata(first.path.join("sub/content")).unwrap().ino(),
        inode
    );
    assert!(names(&store.staging()).is_empty());
    assert_eq!(store.list::<Manifest>().unwrap().len(), 2);
}

#[test]
fn a_torn_object_is_named_never_used_and_replaced_by_publishing_again() {
    let (_dir, store) = store();
    let entry = publish(&store, "a", "one").unwrap();
    let record = entry.path.join(OBJECT_FILE);
    let whole = fs::read(&record).unwrap();
    for torn in [&b""[..], &whole[..whole.len() / 2], b"{}", b"[1, 2]"] {
        fs::set_permissions(&record, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&record, torn).unwrap();
        for error in [
            store.get::<Manifest>("a").unwrap_err(),
            store.list::<Manifest>().unwrap_err(),
            store.by_digest::<Manifest>(&digest("one")).unwrap_err(),
        ] {
            assert_eq!(error.code(), Code::Io);
            assert!(
                error.message().contains(&record.display().to_string()),
                "{error}"
            );
            assert!(
                error.hint_text().unwrap().contains("pull again"),
                "{error:?}"
            );
        }
    }
    let again = publish(&store, "a", "one").unwrap();
    assert_eq!(content(&again), "one");
    assert!(names(&store.staging()).is_empty());
}

#[test]
fn a_record_of_another_object_is_refused() {
    let (_dir, store) = store();
    let one = publish(&store, "a", "one").unwrap();
    let two = publish(&store, "b", "two").unwrap();
    fs::remove_file(one.path.join(OBJECT_FILE)).unwrap();
    fs::copy(two.path.join(OBJECT_FILE), one.path.join(OBJECT_FILE)).unwrap();
    let error = store.get::<Manifest>("a").unwrap_err();
    assert!(error.message().contains("another object"), "{error}");
}

#[test]
fn a_foreign_name_is_an_error_and_protects_every_object() {
    let (_dir, store) = store();
    let entry = publish(&store, "a", "one").unwrap();
    store.unlink("a").unwrap();
    fs::write(store.names().join("b"), "not ours").unwrap();
    assert!(store.list::<Manifest>().is_err());
    // It might mean the object that has no other name.
    assert!(store.sweep(&HashSet::new()).is_err());
    assert!(entry.path.exists());
    fs::remove_file(store.names().join("b")).unwrap();
    store.sweep(&HashSet::new()).unwrap();
    assert!(!entry.path.exists());
}

#[test]
fn a_name_whose_object_is_gone_is_an_error() {
    let (_dir, store) = store();
    let entry = publish(&store, "a", "one").unwrap();
    fs::remove_dir_all(&entry.path).unwrap();
    let error = store.get::<Manifest>("a").unwrap_err();
    assert!(error.message().contains("names/a"), "{error}");
}

#[test]
fn sweep_keeps_what_is_named_kept_or_in_progress() {
    let (_dir, store) = store();
    let named = publish(&store, "named", "named").unwrap();
    let kept = publish(&store, "kept", "kept").unwrap();
    let unused = publish(&store, "unused", "unused").unwrap();
    for name in ["kept", "unused"] {
        assert!(store.unlink(name).unwrap());
        assert!(!store.unlink(name).unwrap());
    }
    let working = store.stage().unwrap();
    // What crashes leave: a directory nobody holds, a file, half a name, half an object's move.
    fs::create_dir_all(store.staging().join("stage-dead/tree")).unwrap();
    fs::write(store.staging().join("odd"), "").unwrap();
    fs::write(store.names().join(".named.1-2-3"), "{").unwrap();
    fs::create_dir(store.objects_dir().join("not-a-digest")).unwrap();

    store.sweep(&HashSet::from([digest("kept")])).unwrap();
    assert!(named.path.exists() && kept.path.exists() && !unused.path.exists());
    assert!(working.path().exists());
    assert_eq!(names(&store.staging()).len(), 1);
    assert_eq!(names(&store.names()), ["named"]);
    assert_eq!(names(&store.objects_dir()).len(), 2);
    drop(working);
    assert!(names(&store.staging()).is_empty());
}

#[test]
fn a_dropped_stage_leaves_nothing_and_no_name() {
    let (_dir, store) = store();
    let stage = store.stage().unwrap();
    fs::write(stage.path().join("half"), "x").unwrap();
    drop(stage);
    assert!(names(&store.staging()).is_empty());
    assert!(store.list::<Manifest>().unwrap().is_empty());
}

#[test]
fn what_cannot_be_sealed_is_not_published() {
    let (_dir, store) = store();
    let stage = store.stage().unwrap();
    std::os::unix::fs::symlink("/etc/passwd", stage.path().join("link")).unwrap();
    let outcome = store.publish(stage, &digest("x"), "x", &manifest("x"));
    assert_eq!(outcome.unwrap_err().code(), Code::Internal);
    assert!(names(&store.objects_dir()).is_empty() && names(&store.staging()).is_empty());
}

#[test]
fn names_cannot_leave_their_directory() {
    let (_dir, store) = store();
    for bad in ["", ".", "..", ".hidden", "a/b", "../a", "a\0b"] {
        assert!(store.get::<Manifest>(bad).is_err(), "{bad:?}");
        assert!(store.unlink(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn many_publishers_of_many_names_all_succeed() {
    let (_dir, store) = store();
    let publishers: Vec<_> = (0..16)
        .map(|number| {
            let store = store.clone();
            std::thread::spawn(move || {
                for round in 0..8 {
                    let name = format!("name-{}", number % 3);
                    let entry = publish(&store, &name, &format!("content {}", round % 4))?;
                    // What a name means is never swept, whoever sweeps and whenever.
                    store.list::<Manifest>()?;
                    store.sweep(&HashSet::from([entry.digest]))?;
                }
                Ok::<(), Error>(())
            })
        })
        .collect();
    for publisher in publishers {
        publisher.join().unwrap().unwrap();
    }
    for entry in store.list::<Manifest>().unwrap() {
        assert_eq!(content(&entry), entry.manifest.note);
    }
    assert_eq!(store.list::<Manifest>().unwrap().len(), 3);
    assert!(names(&store.staging()).is_empty());
}

#[test]
fn two_stores_of_one_directory_respect_each_other() {
    let (_dir, store) = store();
    let other = ContentStore::open(store.dir()).unwrap();
    let stage = store.stage().unwrap();
    other.sweep(&HashSet::new()).unwrap();
    assert!(stage.path().exists());
}
