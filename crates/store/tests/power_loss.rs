//! The power goes: whatever part of the log's end is lost or torn, the database opens, and holds
//! every change that was made durable before, whole, and nothing of any other.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::path::{Path, PathBuf};

use banger_model::{ByteSize, Digest, DiskStrategy, VmId, VmSpec, VmmChoice};
use banger_store::{Intent, Store, VmRow};
use rusqlite::Connection;
use tempfile::TempDir;

/// Different workloads.
const SEEDS: u64 = 20;
/// Changes in each, few enough that SQLite does not begin its log anew.
const CHANGES: u64 = 40;
/// Places at which each log is cut.
const CUTS: u64 = 12;

/// Numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    /// From 0 to `below`, exclusive.
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn row(number: u64) -> VmRow {
    let bytes = number.to_be_bytes();
    VmRow {
        id: VmId::from_bytes([bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]),
        name: format!("vm-{number}").parse().unwrap(),
        spec: VmSpec {
            image: "debian-bookworm".parse().unwrap(),
            kernel: "debian-bookworm".parse().unwrap(),
            vcpus: 1,
            memory: ByteSize::mib(512),
            disk_size: ByteSize::gib(8),
            overlay_size: ByteSize::gib(8),
            nat: false,
            vmm: VmmChoice::Auto,
        },
        image_digest: None,
        kernel_digest: None,
        strategy: None,
        machine_id: "0".repeat(32),
        ephemeral: false,
        intent: Intent::Creating,
        broken_reason: None,
        stop_reason: None,
        workspace: None,
        // Rows are listed in order of creation.
        created_at: format!("2026-11-20T10:00:00.{number:06}Z"),
    }
}

/// Makes one change; `rows` becomes what the database must hold after it.
fn change(store: &Store, rows: &mut Vec<VmRow>, numbers: &mut Numbers, number: u64) {
    let kind = numbers.next(8);
    if rows.is_empty() || kind < 2 {
        let new = row(number);
        store.insert(&new).unwrap();
        rows.push(new);
        return;
    }
    let at = usize::try_from(numbers.next(rows.len() as u64)).unwrap();
    let vm = &mut rows[at];
    match kind {
        2 => {
            let (image, kernel) = (Digest::from_sha256(&[1; 32]), Digest::from_sha256(&[2; 32]));
            store
                .set_parts(&vm.id, &image, &kernel, DiskStrategy::Overlay)
                .unwrap();
            vm.image_digest = Some(image);
            vm.kernel_digest = Some(kernel);
            vm.strategy = Some(DiskStrategy::Overlay);
        }
        3 => {
            store.set_intent(&vm.id, Intent::Present).unwrap();
            vm.intent = Intent::Present;
            vm.broken_reason = None;
        }
        4 => {
            let reason = "x".repeat(usize::try_from(numbers.next(6000)).unwrap());
            store.set_stop_reason(&vm.id, Some(&reason)).unwrap();
            vm.stop_reason = Some(reason);
        }
        5 => {
            store.set_broken(&vm.id, "it is broken").unwrap();
            vm.broken_reason = Some("it is broken".to_owned());
        }
        6 => {
            vm.spec.vcpus += 1;
            vm.spec.memory = ByteSize::mib(vm.spec.memory.as_mib() + 1);
            vm.spec.nat = !vm.spec.nat;
            store.set_spec(&vm.id, &vm.spec).unwrap();
        }
        _ => {
            store.remove(&vm.id).unwrap();
            rows.remove(at);
        }
    }
}

fn wal(database: &Path) -> PathBuf {
    database.with_file_name("banger.db-wal")
}

/// What the database holds after the power came back.
fn after(dir: &Path, database: &[u8], log: &[u8]) -> Vec<VmRow> {
    let path = dir.join("banger.db");
    for name in ["banger.db", "banger.db-wal", "banger.db-shm"] {
        fs::remove_file(dir.join(name)).ok();
    }
    fs::write(&path, database).unwrap();
    fs::write(wal(&path), log).unwrap();
    let rows = Store::open(&path).unwrap().all().unwrap();
    let verdict: String = Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok");
    rows
}

#[test]
fn what_is_durable_survives_and_nothing_else_does() {
    let dir = TempDir::new().unwrap();
    let other = TempDir::new().unwrap();
    for seed in 0..SEEDS {
        let mut numbers = Numbers(seed);
        let path = dir.path().join(format!("{seed}/banger.db"));
        fs::create_dir(path.parent().unwrap()).unwrap();
        let store = Store::open(&path).unwrap();
        let length = || fs::metadata(wal(&path)).map_or(0, |meta| meta.len());
        let mut rows = Vec::new();
        // What holds once the log is this long.
        let mut states = vec![(length(), rows.clone())];
        let before = fs::read(&path).unwrap();
        for number in 0..CHANGES {
            change(&store, &mut rows, &mut numbers, number);
            states.push((length(), rows.clone()));
        }
        let database = fs::read(&path).unwrap();
        assert_eq!(database, before, "the changes are in the log alone");
        let log = fs::read(wal(&path)).unwrap();
        assert_eq!(log.len() as u64, length());
        for pair in states.windows(2) {
            // What changes nothing need not be in the log.
            let logged = pair[0].0 < pair[1].0 || pair[0] == pair[1];
            assert!(logged, "each change is in the log: {pair:?}");
        }

        let first = states[0].0;
        for _ in 0..CUTS {
            let cut = first + numbers.next(log.len() as u64 + 1 - first);
            let (_, expected) = states.iter().rev().find(|(end, _)| *end <= cut).unwrap();
            let at = usize::try_from(cut).unwrap();
            // The end is missing; or it is there, and is something else.
            let truncated = log[..at].to_vec();
            let mut torn = log.clone();
            for byte in &mut torn[at..] {
                *byte = u8::try_from(numbers.next(256)).unwrap();
            }
            let mut zeroes = log.clone();
            zeroes[at..].fill(0);
            for end in [truncated, torn, zeroes] {
                let found = after(other.path(), &database, &end);
                assert_eq!(&found, expected, "seed {seed}, cut at {cut}");
            }
        }
    }
}

#[test]
fn a_copy_at_any_moment_is_what_was_acknowledged() {
    let dir = TempDir::new().unwrap();
    let other = TempDir::new().unwrap();
    let path = dir.path().join("banger.db");
    let store = Store::open(&path).unwrap();
    let mut numbers = Numbers(1);
    let mut rows = Vec::new();
    let modified = || fs::metadata(&path).unwrap().modified().unwrap();
    let (mut copied, mut last) = (0, modified());
    // Enough that the log is copied into the database and begun anew, several times.
    for number in 0..2000 {
        change(&store, &mut rows, &mut numbers, number);
        if modified() != last {
            last = modified();
            copied += 1;
        } else if number % 50 != 0 {
            continue;
        }
        let (database, log) = (fs::read(&path).unwrap(), fs::read(wal(&path)).unwrap());
        assert_eq!(
            after(other.path(), &database, &log),
            rows,
            "change {number}"
        );
    }
    assert!(
        copied > 1,
        "the log was copied into the database {copied} times"
    );
}
