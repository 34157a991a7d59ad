//! Whatever undoes something can be done again, also when there is nothing to undo.

use std::fs;

use banger_config::{Config, Paths};
use banger_model::{ByteSize, VmSpec, VmmChoice};
use banger_store::{Intent, VmRow};
use tempfile::TempDir;

use super::*;
use crate::layout::Layout;

/// A daemon's insides below a directory, without a daemon.
fn context(root: &Path) -> Arc<Context> {
    let paths = Paths {
        config_file: root.join("config.toml"),
        state_dir: root.join("state"),
        runtime_dir: root.join("run"),
        home: None,
        search_path: None,
        firecracker: None,
        log_level: None,
        credentials: Default::default(),
        proxies: Default::default(),
    };
    let layout = Layout::new(&paths);
    layout.ensure_roots().unwrap();
    Context::open(layout, &paths, &Config::load(&paths.config_file).unwrap()).unwrap()
}

fn row(context: &Context) -> VmRow {
    let row = VmRow {
        id: VmId::from_bytes([7; 6]),
        name: "box".parse().unwrap(),
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
        intent: Intent::Present,
        broken_reason: None,
        stop_reason: None,
        workspace: None,
        created_at: "2026-11-20T10:00:00Z".to_owned(),
    };
    context.store.insert(&row).unwrap();
    let files = context.layout.vm(&row.id);
    for dir in [&files.dir, &files.runtime] {
        fs::create_dir(dir).unwrap();
        fs::create_dir(dir.join("deeper")).unwrap();
        fs::write(dir.join("deeper/file"), "x").unwrap();
    }
    row
}

#[tokio::test]
async fn a_removal_can_be_repeated_from_wherever_it_was() {
    let root = TempDir::new().unwrap();
    let context = context(root.path());
    let row = row(&context);
    let files = context.layout.vm(&row.id);
    for _ in 0..2 {
        clear(&context, &row.id).await.unwrap();
        assert!(!files.runtime.exists() && files.dir.exists());
    }
    for _ in 0..2 {
        remove(&context, &row.id, None).await.unwrap();
        assert!(!files.runtime.exists() && !files.dir.exists());
        assert_eq!(context.store.all().unwrap(), []);
    }
    // Of a VM that never was, also.
    let stranger = VmId::from_bytes([8; 6]);
    clear(&context, &stranger).await.unwrap();
    remove(&context, &stranger, None).await.unwrap();
    for _ in 0..2 {
        context.templates.sweep().unwrap();
    }
}

#[tokio::test]
async fn a_removal_goes_on_after_a_failure_and_keeps_the_row() {
    if rustix::process::geteuid().is_root() {
        // Root removes anything; a file system that cannot be written to stops root as well,
        // and the failpoints' tests do the rest.
        eprintln!("root is not stopped by a mode: nothing to see here");
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let root = TempDir::new().unwrap();
    let context = context(root.path());
    let row = row(&context);
    let files = context.layout.vm(&row.id);
    let stuck = files.runtime.join("deeper");
    fs::set_permissions(&stuck, fs::Permissions::from_mode(0o500)).unwrap();
    let error = remove(&context, &row.id, None).await.unwrap_err();
    assert!(
        error.message().contains("deeper") || error.message().contains("run"),
        "{error}"
    );
    assert!(!files.dir.exists(), "the rest is gone");
    assert_eq!(context.store.all().unwrap().len(), 1);
    fs::set_permissions(&stuck, fs::Permissions::from_mode(0o700)).unwrap();
    remove(&context, &row.id, None).await.unwrap();
    assert_eq!(context.store.all().unwrap(), []);
}
