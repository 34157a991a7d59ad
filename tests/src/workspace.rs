//! A repository on the host, and its copy in a guest, made through the API.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use banger_api::{Client, Workspace, WorkspaceMode};
use banger_workspace::{Options, Remote, Repository};

use crate::World;

/// Where copies are in the guest.
pub const GUEST_PATH: &str = "/root/repo";

/// A repository of a scenario's.
pub struct HostRepository {
    /// Its top directory.
    pub top: PathBuf,
}

impl HostRepository {
    /// One commit: `README`, `old` and `bin/run`.
    pub fn new(w: &World, name: &str) -> HostRepository {
        let repository = HostRepository {
            top: w.root().join(name),
        };
        fs::create_dir_all(repository.top.join("bin")).expect("make a repository");
        repository.git(&["init", "-q", "-b", "main"]);
        for (file, content) in [
            ("README", "hello\n"),
            ("old", "old\n"),
            ("bin/run", "run\n"),
        ] {
            fs::write(repository.top.join(file), content).expect("write a file");
        }
        repository.git(&["add", "-A"]);
        repository.git(&["commit", "-qm", "first"]);
        repository
    }

    /// What git says, which must succeed.
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> String {
        let done = Command::new("git")
            .current_dir(&self.top)
            .args(["-c", "user.name=t", "-c", "user.email=t@localhost"])
            .args(["-c", "commit.gpgSign=false", "-c", "gc.auto=0"])
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .expect("run git");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "git {args:?}: {said}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// The references below `refs/banger`, in order.
    #[track_caller]
    pub fn saved(&self) -> Vec<String> {
        let listed = self.git(&["for-each-ref", "--format=%(refname)", "refs/banger"]);
        listed.lines().map(str::to_owned).collect()
    }

    /// Every file but objects and our references, with its content.
    pub fn untouched(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.top.clone()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).expect("list").flatten() {
                let path = entry.path();
                let ours = [".git/objects", ".git/refs/banger"];
                if ours.iter().any(|ours| path.ends_with(ours)) {
                    continue;
                }
                if path.is_dir() {
                    open.push(path);
                } else {
                    let content = fs::read(&path).expect("read a file");
                    found.insert(path, content);
                }
            }
        }
        found
    }

    /// Copies it into a VM that runs, as `vm workspace prepare` does.
    pub fn prepare(&self, w: &World, vm: &str) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime
            .block_on(self.copy(w, vm))
            .expect("prepare a workspace");
    }

    async fn copy(&self, w: &World, vm: &str) -> Result<(), Box<dyn std::error::Error>> {
        let client = Client::new(w.runtime().join("bangerd.sock"));
        let _turn = client.workspace_turn(vm).await?;
        let agent = client.vm(vm).await?.agent_socket.ok_or("it does not run")?;
        let plan = Repository::open(&self.top)?.plan(&Options::default())?;
        let mut record = Workspace {
            repository: self.top.display().to_string(),
            guest_path: GUEST_PATH.into(),
            mode: WorkspaceMode::Overlay,
            include_untracked: false,
            branch: None,
            from: None,
            base: plan.head().commit.clone(),
            fingerprint: plan.fingerprint().to_string(),
            copied_at: "2026-01-01T00:00:00Z".into(),
            complete: false,
            exported: None,
        };
        client.set_workspace(vm, &record).await?;
        let remote = Remote::new(Path::new(&agent), OsStr::new(GUEST_PATH));
        remote.copy_in(Arc::new(plan), w.root(), |_| {}).await?;
        record.complete = true;
        client.set_workspace(vm, &record).await?;
        Ok(())
    }

    /// Has the copy tried in a thread of its own; the result is its error, if it fails.
    pub fn try_prepare<'a>(
        &'a self,
        w: &'a World,
        vm: &'a str,
        scope: &'a std::thread::Scope<'a, '_>,
    ) -> std::thread::ScopedJoinHandle<'a, Option<String>> {
        scope.spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            let result = runtime.block_on(self.copy(w, vm));
            result.err().map(|error| error.to_string())
        })
    }
}
