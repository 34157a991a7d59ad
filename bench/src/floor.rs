//! The floor: the same machine started by hand, until its agent answers.
//!
//! The command lines are those of a VM that banger started, or what its Firecracker was told, with
//! other paths; so the VMM, kernel, initramfs, memory and devices are the same by construction.
//! Fresh disks are laid ready before the clock starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use banger_guest_api::{
    BootConfig, BootReport, InitPolicy, PROTOCOL_VERSION, RootDisk, SshIdentity, client,
};
use tokio::net::UnixListener;

use crate::recipe::Recipe;
use crate::subject::Subject;

/// A machine that can be started by hand, over and over.
pub(crate) struct Floor {
    recipe: Recipe,
    pristine: PathBuf,
    disks: PathBuf,
    sockets: PathBuf,
}

impl Floor {
    pub(crate) fn prepare(subject: &Subject) -> Floor {
        subject.banger(&["vm", "run", "-d", "--name", "model"]);
        let model = subject.vm("model");
        let id = model["id"].as_str().expect("an id");
        let pid = model["pid"].as_u64().expect("a pid");
        let model_sockets = Path::new(model["agent_socket"].as_str().expect("a socket"))
            .parent()
            .expect("a directory")
            .to_owned();
        let model_disks = Path::new(model["console_log"].as_str().expect("a path"))
            .parent()
            .expect("a directory")
            .to_owned();
        let (disks, sockets) = (
            subject.ground().join("floor"),
            subject.runtime().join("floor"),
        );
        let recipe = Recipe::of(id, pid, &model_sockets, |word| {
            word.replace(&text(&model_sockets), &text(&sockets))
                .replace(&text(&model_disks), &text(&disks))
        });
        subject.banger(&["vm", "delete", "model"]);

        // Disks that were never booted, as every `vm run` gets them.
        subject.banger(&["vm", "create", "--no-start", "--name", "fresh"]);
        let fresh = subject.vm("fresh");
        let fresh_disks = Path::new(fresh["console_log"].as_str().expect("a path"))
            .parent()
            .expect("a directory")
            .to_owned();
        let pristine = subject.ground().join("floor-disks");
        copy(&fresh_disks, &pristine);
        subject.banger(&["vm", "delete", "fresh"]);
        Floor {
            recipe,
            pristine,
            disks,
            sockets,
        }
    }

    /// Boots the machine; returns the seconds until the agent answered.
    pub(crate) async fn boot(&self) -> f64 {
        copy(&self.pristine, &self.disks);
        if self.sockets.exists() {
            fs::remove_dir_all(&self.sockets).expect("clear the sockets");
        }
        fs::create_dir_all(&self.sockets).expect("make the sockets' directory");
        let agent = self.sockets.join("agent.sock");
        let boot = UnixListener::bind(self.sockets.join("agent.sock_1023")).expect("listen");

        let begun = Instant::now();
        let mut processes = self.recipe.start(&self.sockets);
        let (stream, _) = boot.accept().await.expect("the guest dials");
        let report = client::serve_boot(stream, &config())
            .await
            .expect("the guest boots");
        assert!(matches!(report, BootReport::Ready(_)), "{report:?}");
        client::info(&agent).await.expect("the agent answers");
        let took = begun.elapsed().as_secs_f64();

        for child in processes.iter_mut().rev() {
            child.kill().expect("end what was started");
            child.wait().expect("wait for it");
        }
        took
    }
}

fn config() -> BootConfig {
    BootConfig {
        version: PROTOCOL_VERSION,
        hostname: "floor".into(),
        machine_id: "0123456789abcdef0123456789abcdef".into(),
        clock_unix_ns: std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("a clock")
            .as_nanos() as i64,
        root: RootDisk::Overlay {
            image: "/dev/vda".into(),
            upper: "/dev/vdb".into(),
        },
        work_disk: Some("/dev/vdc".into()),
        network: None,
        ssh: Some(SshIdentity {
            host_key: "not a key\n".into(),
            host_key_public: "not a key\n".into(),
            authorized_keys: vec!["not a key".into()],
        }),
        init: InitPolicy::Auto,
        git: None,
        modules: None,
        build: None,
    }
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("clear");
    }
    let done = Command::new("cp")
        .args(["--archive", "--sparse=always"])
        .arg(from)
        .arg(to)
        .status()
        .expect("run cp");
    assert!(done.success());
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}
