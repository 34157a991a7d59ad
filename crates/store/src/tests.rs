//! The store against real files.

use std::path::PathBuf;
use std::sync::Barrier;

use banger_model::{ByteSize, VmSpec, VmmChoice};
use rusqlite_migration::M;
use tempfile::TempDir;

use super::*;

fn row(id: u8, name: &str) -> VmRow {
    VmRow {
        id: VmId::from_bytes([id; 6]),
        name: name.parse().unwrap(),
        spec: VmSpec {
            image: "debian-bookworm".parse().unwrap(),
            kernel: "debian-6.1".parse().unwrap(),
            vcpus: 3,
            memory: ByteSize::mib(768),
            disk_size: ByteSize::gib(16 * 1024),
            overlay_size: ByteSize::gib(8),
            nat: true,
            vmm: VmmChoice::QemuTcg,
        },
        image_digest: Some(Digest::from_sha256(&[1; 32])),
        kernel_digest: None,
        strategy: Some(DiskStrategy::Reflink),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        ephemeral: true,
        intent: Intent::Creating,
        broken_reason: None,
        created_at: format!("2026-11-20T10:00:{id:02}Z"),
    }
}

fn ground() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("banger.db");
    (dir, path)
}

#[test]
fn rows_round_trip_and_survive_reopening() {
    let (_dir, path) = ground();
    let mut first = row(1, "box-1");
    let second = VmRow {
        image_digest: None,
        strategy: None,
        ephemeral: false,
        intent: Intent::Present,
        ..row(2, "box-2")
    };
    {
        let store = Store::open(&path).unwrap();
        // Out of order on purpose: the list is by creation.
        store.insert(&second).unwrap();
        store.insert(&first).unwrap();
        assert_eq!(store.all().unwrap(), [first.clone(), second.clone()]);
        let (image, kernel) = (Digest::from_sha256(&[7; 32]), Digest::from_sha256(&[8; 32]));
        store
            .set_parts(&first.id, &image, &kernel, DiskStrategy::Overlay)
            .unwrap();
        store.set_intent(&first.id, Intent::Deleting).unwrap();
        store.set_broken(&first.id, "the disk is on fire").unwrap();
        first.image_digest = Some(image);
        first.kernel_digest = Some(kernel);
        first.strategy = Some(DiskStrategy::Overlay);
        first.intent = Intent::Deleting;
        first.broken_reason = Some("the disk is on fire".into());
    }
    let store = Store::open(&path).unwrap();
    assert_eq!(store.all().unwrap(), [first.clone(), second.clone()]);
    assert_eq!(store.by_name(&first.name).unwrap(), Some(first.clone()));
    // Trying again starts from a clean slate.
    store.set_intent(&first.id, Intent::Deleting).unwrap();
    assert_eq!(store.all().unwrap()[0].broken_reason, None);
    store.remove(&first.id).unwrap();
    store.remove(&first.id).unwrap();
    assert_eq!(store.all().unwrap(), [second]);
    assert_eq!(
        store
            .set_intent(&first.id, Intent::Present)
            .unwrap_err()
            .code(),
        Code::NotFound
    );
}

#[test]
fn the_files_are_private() {
    use std::os::unix::fs::MetadataExt;
    let (dir, path) = ground();
    let store = Store::open(&path).unwrap();
    store.insert(&row(1, "box")).unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{entry:?}");
        seen += 1;
    }
    assert_eq!(seen, 3, "the database, its log and the log's index");
}

#[test]
fn a_name_has_exactly_one_winner() {
    let (_dir, path) = ground();
    let store = Store::open(&path).unwrap();
    let racers = 8;
    for round in 0..20 {
        let barrier = Barrier::new(racers);
        let wins: usize = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..racers)
                .map(|racer| {
                    let (store, barrier) = (&store, &barrier);
                    scope.spawn(move || {
                        let vm = row((round * racers + racer) as u8, &format!("box-{round}"));
                        barrier.wait();
                        match store.insert(&vm) {
                            Ok(()) => 1,
                            Err(error) => {
                                assert_eq!(error.code(), Code::AlreadyExists);
                                assert!(error.hint_text().is_some());
                                0
                            }
                        }
                    })
                })
                .collect();
            handles.into_iter().map(|h| h.join().unwrap()).sum()
        });
        assert_eq!(wins, 1);
    }
    assert_eq!(store.all().unwrap().len(), 20);
}

#[test]
fn an_older_database_is_copied_and_brought_up_to_date() {
    let (_dir, path) = ground();
    let vm = row(1, "old");
    Store::open(&path).unwrap().insert(&vm).unwrap();
    let newer: Vec<M<'static>> = schema::MIGRATIONS
        .iter()
        .cloned()
        .chain([M::up("ALTER TABLE vms ADD COLUMN colour TEXT;")])
        .collect();
    let connection = schema::open(&path, &newer).unwrap();
    let (name, colour): (String, Option<String>) = connection
        .query_row("SELECT name, colour FROM vms", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((name.as_str(), colour), ("old", None));
    // The copy opens with the release that wrote it, and holds everything.
    let backup = schema::backup_path(&path, 1);
    assert_eq!(Store::open(&backup).unwrap().all().unwrap(), [vm]);
}

#[test]
fn a_failed_migration_leaves_the_database_as_it_was() {
    let (_dir, path) = ground();
    let vm = row(1, "old");
    Store::open(&path).unwrap().insert(&vm).unwrap();
    let broken: Vec<M<'static>> = schema::MIGRATIONS
        .iter()
        .cloned()
        .chain([M::up(
            "ALTER TABLE vms ADD COLUMN colour TEXT; CREATE NONSENSE;",
        )])
        .collect();
    assert_eq!(
        schema::open(&path, &broken).unwrap_err().code(),
        Code::Store
    );
    assert_eq!(Store::open(&path).unwrap().all().unwrap(), [vm]);
}

#[test]
fn a_database_from_the_future_is_refused_before_any_write() {
    let (dir, path) = ground();
    drop(Store::open(&path).unwrap());
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 999)
        .unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert_eq!(error.code(), Code::Store);
    assert!(error.message().contains("newer release"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn something_else_in_its_place_is_named() {
    let (_dir, path) = ground();
    std::fs::write(&path, vec![b'x'; 5000]).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert_eq!(error.code(), Code::Store);
    assert!(error.message().contains("banger.db"), "{error}");
    assert!(error.hint_text().is_some());
}

#[test]
fn a_row_nobody_wrote_is_refused() {
    let (_dir, path) = ground();
    let store = Store::open(&path).unwrap();
    store.insert(&row(1, "box")).unwrap();
    Connection::open(&path)
        .unwrap()
        .execute("UPDATE vms SET name = '../box'", [])
        .unwrap();
    let error = store.all().unwrap_err();
    assert_eq!(error.code(), Code::Store);
    assert!(error.chain().contains("../box"), "{}", error.chain());
}
