//! What is shown of a VM, kept by its owner for everybody to read.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use banger_api::Vm;
use banger_model::{Digest, ImageConfig, VmId, VmName, VmSpec, VmState};
use banger_store::VmRow;
use banger_vmm::Instance;
use tokio_util::sync::CancellationToken;

use super::workspace::{self, Turns};
use crate::layout::Layout;

/// The part of a VM that others see.
pub(super) struct Shared {
    id: VmId,
    name: VmName,
    shown: Mutex<Shown>,
    turns: Turns,
    gone: CancellationToken,
}

struct Shown {
    vm: Arc<Vm>,
    spec: VmSpec,
    parts: Vec<Digest>,
    instance: Option<Arc<Instance>>,
}

impl Shared {
    /// What is shown of a VM as its row describes it.
    pub(super) fn new(row: &VmRow, layout: &Layout, state: VmState) -> Arc<Shared> {
        let files = layout.vm(&row.id);
        let vm = Vm {
            id: row.id.to_string(),
            name: row.name.to_string(),
            state,
            reason: reason(row, state),
            image: row.spec.image.to_string(),
            image_digest: String::new(),
            kernel: row.spec.kernel.to_string(),
            vcpus: row.spec.vcpus,
            memory: row.spec.memory,
            disk_size: row.spec.disk_size,
            nat: row.spec.nat,
            vmm: row.spec.vmm,
            vmm_running: None,
            vmm_reason: None,
            pid: None,
            ephemeral: row.ephemeral,
            created_at: row.created_at.clone(),
            started_at: None,
            boot_id: None,
            agent_socket: None,
            console_log: text(&files.console_log()),
            ssh_host_key: None,
            ssh_identity: text(&layout.client_key()),
            image_config: ImageConfig::default(),
            // A record that makes no sense is found, and said, by whoever takes the VM up.
            workspace: workspace::of(row).unwrap_or_default(),
        };
        let shared = Arc::new(Shared {
            id: row.id.clone(),
            name: row.name.clone(),
            shown: Mutex::new(Shown {
                vm: Arc::new(vm),
                spec: row.spec.clone(),
                parts: Vec::new(),
                instance: None,
            }),
            turns: Turns::new(),
            gone: CancellationToken::new(),
        });
        shared.set_parts(row, None);
        shared
    }

    /// What the VM is asked to be.
    pub(super) fn spec(&self) -> VmSpec {
        self.shown().spec.clone()
    }

    /// The processes that run it.
    pub(super) fn instance(&self) -> Option<Arc<Instance>> {
        self.shown().instance.clone()
    }

    /// Shows what the VM is asked to be.
    pub(super) fn set_spec(&self, spec: &VmSpec) {
        let mut shown = self.shown();
        if shown.spec == *spec {
            return;
        }
        shown.spec = spec.clone();
        let vm = Arc::make_mut(&mut shown.vm);
        vm.vcpus = spec.vcpus;
        vm.memory = spec.memory;
        vm.disk_size = spec.disk_size;
        vm.nat = spec.nat;
    }

    /// Shows the ssh host key it was given: the public key line without its comment.
    pub(super) fn set_host_key(&self, public: &str) {
        let bare: Vec<&str> = public.split_ascii_whitespace().take(2).collect();
        self.change(|vm| vm.ssh_host_key = Some(bare.join(" ")));
    }

    /// Identity.
    pub(super) fn id(&self) -> &VmId {
        &self.id
    }

    /// Name.
    pub(super) fn name(&self) -> &VmName {
        &self.name
    }

    /// What is shown now.
    pub(super) fn vm(&self) -> Arc<Vm> {
        self.shown().vm.clone()
    }

    /// The image and the kernel it uses.
    pub(super) fn parts(&self) -> Vec<Digest> {
        self.shown().parts.clone()
    }

    /// Fires when the VM is removed.
    pub(super) fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Shows what the VM is made from.
    pub(super) fn set_parts(&self, row: &VmRow, config: Option<ImageConfig>) {
        let mut shown = self.shown();
        shown.parts = row
            .image_digest
            .iter()
            .chain(&row.kernel_digest)
            .cloned()
            .collect();
        let vm = Arc::make_mut(&mut shown.vm);
        if let Some(digest) = &row.image_digest {
            vm.image_digest = digest.to_string();
        }
        if let Some(config) = config {
            vm.image_config = config;
        }
    }

    /// Who works on its workspace.
    pub(super) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Shows another state, with the reason for it.
    pub(super) fn set_state(&self, state: VmState, reason: Option<String>) {
        self.turns.set_leaving(state == VmState::Deleting);
        self.change(|vm| {
            vm.state = state;
            vm.reason = reason;
        });
    }

    /// Shows the processes that run it, or that none do.
    pub(super) fn set_instance(&self, instance: Option<&Arc<Instance>>) {
        let mut shown = self.shown();
        shown.instance = instance.cloned();
        let vm = Arc::make_mut(&mut shown.vm);
        match instance {
            Some(instance) => {
                vm.vmm_running = instance.kind();
                vm.pid = Some(instance.pid());
                vm.started_at = rfc3339(instance.started_at());
            }
            None => {
                vm.vmm_running = None;
                vm.vmm_reason = None;
                vm.pid = None;
                vm.started_at = None;
                vm.boot_id = None;
                vm.agent_socket = None;
            }
        }
    }

    /// Shows that the agent answers.
    pub(super) fn set_agent(&self, socket: &Path, boot_id: &str) {
        self.change(|vm| {
            vm.agent_socket = Some(text(socket));
            // It comes from the guest.
            vm.boot_id = Some(
                boot_id
                    .chars()
                    .filter(char::is_ascii_graphic)
                    .take(64)
                    .collect(),
            );
        });
    }

    /// Changes what is shown.
    pub(super) fn change(&self, change: impl FnOnce(&mut Vm)) {
        change(Arc::make_mut(&mut self.shown().vm));
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a VM that its row describes is in this state.
fn reason(row: &VmRow, state: VmState) -> Option<String> {
    match state {
        VmState::Stopped => row.stop_reason.clone(),
        VmState::Broken | VmState::Deleting => row.broken_reason.clone(),
        VmState::Creating | VmState::Starting | VmState::Running | VmState::Stopping => None,
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn rfc3339(time: std::time::SystemTime) -> Option<String> {
    jiff::Timestamp::try_from(time)
        .ok()
        .map(|time| format!("{time:.3}"))
}
