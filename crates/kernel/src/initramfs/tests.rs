use std::fs::FileTimes;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use banger_model::{ByteSize, Code};

use super::*;
use crate::elf::tests::static_program;
use crate::modules::tests::tree;

struct Bench {
    dir: tempfile::TempDir,
    store: ContentStore,
    agents: Arc<AgentDigests>,
    kernel: Kernel,
    agent: PathBuf,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let modules = dir.path().join("modules");
    tree(&modules);
    crate::modules::index(&modules).unwrap();
    let agent = dir.path().join("agent");
    fs::write(&agent, static_program()).unwrap();
    let mut hasher = Hasher::new();
    hasher.update(b"kernel");
    Bench {
        store: ContentStore::open(&dir.path().join("kernels")).unwrap(),
        agents: Arc::default(),
        kernel: Kernel {
            name: "test".parse().unwrap(),
            digest: hasher.finish(),
            vmlinux: dir.path().join("vmlinux"),
            modules,
            modules_drive: None,
            initrd: None,
            config_source: None,
            release: "6.1".to_owned(),
            disk_usage: ByteSize::bytes(0),
            source: String::new(),
            created_at: String::new(),
        },
        agent,
        dir,
    }
}

impl Bench {
    fn make(&self) -> Result<PathBuf> {
        make(&self.store, &self.agents, &self.kernel, &self.agent)
    }
}

/// The names and contents in a cpio archive.
pub(crate) fn unpack(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let field = |at: usize, number: usize| {
        let from = at + 6 + number * 8;
        let text = std::str::from_utf8(&bytes[from..from + 8]).unwrap();
        usize::from_str_radix(text, 16).unwrap()
    };
    let mut found = Vec::new();
    let mut at = 0;
    loop {
        let (length, name_length) = (field(at, 6), field(at, 11));
        let name = &bytes[at + 110..at + 110 + name_length - 1];
        let name = String::from_utf8(name.to_vec()).unwrap();
        let content = (at + 110 + name_length).next_multiple_of(4);
        if name == "TRAILER!!!" {
            return found;
        }
        found.push((name, bytes[content..content + length].to_vec()));
        at = (content + length).next_multiple_of(4);
    }
}

#[test]
fn it_holds_the_agent_and_the_modules_in_load_order() {
    let bench = bench();
    let entries = unpack(&fs::read(bench.make().unwrap()).unwrap());
    let content = |name: &str| {
        let (_, content) = entries.iter().find(|(entry, _)| entry == name).unwrap();
        String::from_utf8_lossy(content).into_owned()
    };
    assert_eq!(
        content("init").as_bytes(),
        String::from_utf8_lossy(&static_program()).as_bytes()
    );
    assert_eq!(
        content("banger/boot.list"),
        "virtio.ko\nvirtio_ring.ko\nvirtio_mmio.ko\nvirtio_blk.ko\nvsock.ko\n\
         vmw_vsock_virtio_transport.ko\ncrc.ko\noverlay.ko\n"
    );
    // What both lists need is only in the first.
    assert_eq!(content("banger/net.list"), "failover.ko\nvirtio_net.ko\n");
    for list in ["boot", "net"] {
        for name in content(&format!("banger/{list}.list")).lines() {
            assert!(content(&format!("banger/modules/{name}")).starts_with("\u{7f}ELF"));
        }
    }
    let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    for needed in ["dev", "dev/console", "proc", "sys", "run", "mnt"] {
        assert!(names.contains(&needed), "{needed}");
    }
}

#[test]
fn the_same_pair_is_made_once_and_another_agent_anew() {
    let bench = bench();
    let first = bench.make().unwrap();
    let made = fs::metadata(&first).unwrap().ino();
    assert_eq!(bench.make().unwrap(), first);
    assert_eq!(fs::metadata(&first).unwrap().ino(), made);
    // Without what was remembered it is found by content.
    let fresh = make(
        &bench.store,
        &AgentDigests::default(),
        &bench.kernel,
        &bench.agent,
    );
    assert_eq!(fresh.unwrap(), first);
    assert_eq!(fs::metadata(&first).unwrap().ino(), made);

    let mut other = static_program();
    other.push(0);
    fs::write(&bench.agent, other).unwrap();
    assert_ne!(bench.make().unwrap(), first);
    assert_eq!(
        fs::metadata(&first).unwrap().permissions().mode() & 0o777,
        0o444
    );
}

#[test]
fn one_that_was_removed_is_made_again() {
    let bench = bench();
    let path = bench.make().unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(bench.make().unwrap(), path);
    assert!(path.exists());
}

#[test]
fn many_may_ask_at_once() {
    let bench = Arc::new(bench());
    let askers: Vec<_> = (0..8)
        .map(|_| {
            let bench = bench.clone();
            std::thread::spawn(move || bench.make())
        })
        .collect();
    let paths: HashSet<PathBuf> = askers
        .into_iter()
        .map(|asker| asker.join().unwrap().unwrap())
        .collect();
    assert_eq!(paths.len(), 1);
    assert_eq!(fs::read_dir(dir(&bench.store)).unwrap().count(), 1);
}

#[test]
fn a_dynamic_or_missing_agent_is_refused() {
    let bench = bench();
    fs::write(&bench.agent, "#!/bin/sh\n").unwrap();
    assert_eq!(bench.make().unwrap_err().code(), Code::BuildFailed);
    fs::remove_file(&bench.agent).unwrap();
    let error = bench.make().unwrap_err();
    assert_eq!(error.code(), Code::Io);
    assert!(error.message().contains("agent"));
    assert!(!dir(&bench.store).exists());
}

#[test]
fn a_sweep_keeps_those_used_last() {
    let bench = bench();
    let dir = dir(&bench.store);
    fs::create_dir_all(&dir).unwrap();
    let set_age = |path: &Path, seconds: u64| {
        let file = fs::File::options().write(true).open(path).unwrap();
        let then = SystemTime::now() - Duration::from_secs(seconds);
        file.set_times(FileTimes::new().set_accessed(then).set_modified(then))
            .unwrap();
    };
    for number in 0..KEPT + 3 {
        let path = dir.join(format!("{number}.cpio"));
        fs::write(&path, "x").unwrap();
        set_age(&path, 1000 + number as u64);
    }
    for (name, age) in [(".dead.1-2-3", 5000), (".live.1-2-3", 1)] {
        let path = dir.join(name);
        fs::write(&path, "x").unwrap();
        set_age(&path, age);
    }
    let oldest = dir.join(format!("{}.cpio", KEPT + 2));
    let modified = || fs::metadata(&oldest).unwrap().modified().unwrap();
    let before = modified();
    assert!(touch(&oldest));
    assert_eq!(modified(), before, "it is the same file as before");
    sweep(&bench.store).unwrap();
    assert!(oldest.exists());
    assert!(dir.join(".live.1-2-3").exists() && !dir.join(".dead.1-2-3").exists());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), KEPT + 1);
    drop(bench.dir);
}
