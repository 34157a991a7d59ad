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
        stop_reason: None,
        workspace: None,
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
        store.set_stop_reason(&first.id, Some("killed")).unwrap();
        first.stop_reason = Some("killed".into());
        store.set_workspace(&first.id, "{\"a\":1}").unwrap();
        first.workspace = Some("{\"a\":1}".into());
        store.set_lasting(&first.id).unwrap();
        first.ephemeral = false;
        first.spec.vcpus = 4;
        first.spec.memory = ByteSize::gib(1);
        first.spec.disk_size = ByteSize::gib(9);
        first.spec.nat = !first.spec.nat;
        store.set_spec(&first.id, &first.spec).unwrap();
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

/// The present schema and one more step.
fn with_another(step: &'static str) -> Vec<M<'static>> {
    schema::MIGRATIONS
        .iter()
        .cloned()
        .chain([M::up(step)])
        .collect()
}

/// The number of the present schema.
fn present() -> u32 {
    u32::try_from(schema::MIGRATIONS.len()).unwrap()
}

#[test]
fn an_older_database_is_copied_and_brought_up_to_date() {
    let (_dir, path) = ground();
    let vm = row(1, "old");
    Store::open(&path).unwrap().insert(&vm).unwrap();
    let newer = with_another("ALTER TABLE vms ADD COLUMN colour TEXT;");
    let connection = schema::open(&path, &newer).unwrap();
    let (name, colour): (String, Option<String>) = connection
        .query_row("SELECT name, colour FROM vms", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((name.as_str(), colour), ("old", None));
    // The copy opens with the release that wrote it, and holds everything.
    let backup = schema::backup_path(&path, present());
    assert_eq!(Store::open(&backup).unwrap().all().unwrap(), [vm]);
}

#[test]
fn a_database_of_the_first_schema_becomes_a_present_one() {
    let (_dir, path) = ground();
    let first = schema::open(&path, &schema::MIGRATIONS[..1]).unwrap();
    first
        .execute_batch(
            "INSERT INTO vms VALUES ('010101010101', 'old', 'debian-bookworm', 'debian-6.1', 3,
                 805306368, 17592186044416, 8589934592, 1, 'qemu-tcg', NULL, NULL, NULL,
                 '0123456789abcdef0123456789abcdef', 1, 'present', NULL,
                 '2026-11-20T10:00:01Z');",
        )
        .unwrap();
    drop(first);
    let expected = VmRow {
        image_digest: None,
        strategy: None,
        intent: Intent::Present,
        ..row(1, "old")
    };
    let store = Store::open(&path).unwrap();
    assert_eq!(store.all().unwrap(), [expected]);
    drop(store);
    let backup = schema::backup_path(&path, 1);
    let old: u32 = schema::open(&backup, &schema::MIGRATIONS[..1])
        .unwrap()
        .query_row("SELECT count(*) FROM vms", [], |row| row.get(0))
        .unwrap();
    assert_eq!(old, 1);
}

#[test]
fn a_database_of_the_second_schema_gets_room_for_workspaces() {
    let (_dir, path) = ground();
    let second = schema::open(&path, &schema::MIGRATIONS[..2]).unwrap();
    second
        .execute_batch(
            "INSERT INTO vms VALUES ('010101010101', 'old', 'debian-bookworm', 'debian-6.1', 3,
                 805306368, 17592186044416, 8589934592, 1, 'qemu-tcg', NULL, NULL, NULL,
                 '0123456789abcdef0123456789abcdef', 1, 'present', NULL,
                 '2026-11-20T10:00:01Z', 'killed');",
        )
        .unwrap();
    drop(second);
    let mut expected = VmRow {
        image_digest: None,
        strategy: None,
        intent: Intent::Present,
        stop_reason: Some("killed".into()),
        ..row(1, "old")
    };
    let store = Store::open(&path).unwrap();
    assert_eq!(store.all().unwrap(), std::slice::from_ref(&expected));
    store.set_workspace(&expected.id, "{}").unwrap();
    expected.workspace = Some("{}".into());
    assert_eq!(store.all().unwrap(), [expected]);
    assert!(schema::backup_path(&path, 2).exists());
}

#[test]
fn a_migration_that_fails_at_any_statement_leaves_the_database_as_it_was() {
    let (_dir, path) = ground();
    let vm = row(1, "old");
    Store::open(&path).unwrap().insert(&vm).unwrap();
    let before = std::fs::read(&path).unwrap();
    for broken in [
        "CREATE NONSENSE;",
        "ALTER TABLE vms ADD COLUMN colour TEXT; CREATE NONSENSE;",
        "UPDATE vms SET name = 'new'; ALTER TABLE vms DROP COLUMN nat; CREATE NONSENSE;",
        "DROP TABLE vms; CREATE TABLE vms (id TEXT) STRICT; INSERT INTO vms VALUES (x'00');",
    ] {
        let error = schema::open(&path, &with_another(broken)).unwrap_err();
        assert_eq!(error.code(), Code::Store, "{broken}");
        assert!(error.message().contains("banger.db"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "{broken}");
        // The release that wrote it works on, and so does the copy that was made of it.
        for file in [&path, &schema::backup_path(&path, present())] {
            let rows = Store::open(file).unwrap().all().unwrap();
            assert_eq!(rows, std::slice::from_ref(&vm), "{broken}");
        }
    }
}

#[test]
fn what_is_acknowledged_is_on_the_disk() {
    let (_dir, path) = ground();
    let connection = schema::open(&path, schema::MIGRATIONS).unwrap();
    let ask = |pragma: &str| -> String {
        connection
            .query_row(&format!("PRAGMA {pragma}"), [], |row| {
                row.get::<_, rusqlite::types::Value>(0)
            })
            .map(|value| format!("{value:?}"))
            .unwrap()
    };
    assert_eq!(ask("journal_mode"), "Text(\"wal\")");
    assert_eq!(ask("synchronous"), "Integer(2)", "full");
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
    assert!(error.hint_text().is_some());
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
