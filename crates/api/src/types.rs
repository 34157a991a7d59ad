//! What travels between the command line and the daemon.
//!
//! Requests are checked again in the daemon, whoever sent them. Times are RFC 3339 in UTC,
//! sizes are bytes.

use std::collections::BTreeMap;

use banger_model::{ByteSize, Code, Error, ImageConfig, VmState, VmmChoice, VmmKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The version of the API, the first part of every path.
pub const API_VERSION: &str = "v1";

/// What the daemon says about itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DaemonInfo {
    /// The daemon's release.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: String,
    /// The state directory it owns.
    pub state_dir: String,
    /// VMs whose VMM is running.
    pub running_vms: u32,
}

/// What to make. Absent values come from the configuration, then the host, then built-in
/// floors.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// Name; generated when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Image name; pulled first when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Kernel name; the image's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Virtual processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub memory: Option<ByteSize>,
    /// Size of the work disk on `/root`, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub disk_size: Option<ByteSize>,
    /// Whether the guest reaches outside networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<bool>,
    /// Which VMM to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub vmm: Option<VmmChoice>,
    /// Whether to start it once made.
    #[serde(default = "yes")]
    pub start: bool,
    /// Delete the VM when the lease that the client takes out on it ends: `vm run --rm`.
    #[serde(default)]
    pub ephemeral: bool,
}

fn yes() -> bool {
    true
}

/// One VM.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    /// Identity, never reused.
    pub id: String,
    /// Name.
    pub name: String,
    /// State.
    #[schema(value_type = String, example = "running")]
    pub state: VmState,
    /// Why it is in this state, when that needs saying: how the guest ended, what failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Image name.
    pub image: String,
    /// Digest of the image it was made from.
    pub image_digest: String,
    /// Kernel name.
    pub kernel: String,
    /// Virtual processors.
    pub vcpus: u32,
    /// Memory in bytes.
    #[schema(value_type = u64)]
    pub memory: ByteSize,
    /// Size of the work disk on `/root`, in bytes.
    #[schema(value_type = u64)]
    pub disk_size: ByteSize,
    /// Whether the guest reaches outside networks.
    pub nat: bool,
    /// The VMM asked for.
    #[schema(value_type = String, example = "auto")]
    pub vmm: VmmChoice,
    /// The VMM that runs it, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "qemu-tcg")]
    pub vmm_running: Option<VmmKind>,
    /// Why that one was chosen; absent after the daemon was restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "software emulation, because there is no `/dev/kvm`")]
    pub vmm_reason: Option<String>,
    /// Process id of the VMM, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Deleted when its lease ends.
    pub ephemeral: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: String,
    /// When its VMM was started, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<String>,
    /// The guest kernel's boot id, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The unix socket behind which its agent answers, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_socket: Option<String>,
    /// The file with the guest's serial console.
    pub console_log: String,
    /// The public ssh host key it was given, as in a `known_hosts` file after the host name;
    /// absent until it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_host_key: Option<String>,
    /// The private key that its `root` accepts over ssh.
    pub ssh_identity: String,
    /// What the image says about commands run from it.
    #[schema(value_type = Object)]
    pub image_config: ImageConfig,
    /// The repository that was copied in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<Workspace>,
}

/// A git repository that was copied into a VM, and what is known of the copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// Its top directory on the host, absolute.
    pub repository: String,
    /// Where it is in the guest: absolute, below `/root` or `/home`.
    pub guest_path: String,
    /// How much of it was copied.
    pub mode: WorkspaceMode,
    /// Whether files that git does not know were copied too.
    #[serde(default)]
    pub include_untracked: bool,
    /// The branch that was created in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit that branch starts at, as it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The commit that the guest's files stood on when they were copied; absent before the
    /// first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// What tells whether the repository has changed since.
    pub fingerprint: String,
    /// When it was copied.
    #[schema(value_type = String, format = DateTime)]
    pub copied_at: String,
    /// Whether the copy came to its end. Until it does there may be nothing in the guest.
    pub complete: bool,
    /// SHA-256 of the newest patch that was exported, in hexadecimal digits: work that is in it
    /// is not saved again when the VM is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported: Option<String>,
}

/// How much of a repository goes into a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceMode {
    /// The working tree, and the one commit it stands on.
    #[default]
    Overlay,
    /// The working tree and the whole history.
    FullCopy,
    /// The whole history without any file.
    MetadataOnly,
}

/// Work of a guest's that was kept before its VM was deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SavedWork {
    /// The repository that the work belongs to.
    pub repository: String,
    /// The reference in it that holds the work; absent when the repository did not take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The patch file that holds the work instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
    /// The git bundle that holds commits on other branches, tags and the stash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
    /// The archive of tar's that holds repositories inside the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// Why there is a file instead of a reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The command that brings the work into the working tree, and commits of other branches below
    /// `refs/banger/`, for a shell.
    pub restore: String,
}

/// What to change about a VM; absent values stay. The next start uses them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetVm {
    /// Virtual processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub memory: Option<ByteSize>,
    /// Size of the work disk on `/root`, in bytes; it never shrinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub disk_size: Option<ByteSize>,
    /// Whether the guest reaches outside networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<bool>,
}

/// How a VM is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Only if it does not run when its turn comes.
    pub only_stopped: bool,
    /// Without saving work that is in no export.
    pub discard: bool,
}

/// The signals that may end a VMM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum KillSignal {
    /// At once.
    #[default]
    #[serde(rename = "KILL")]
    Kill,
    /// The VMM closes its files first; the guest is not asked.
    #[serde(rename = "TERM")]
    Term,
    /// As `TERM`.
    #[serde(rename = "INT")]
    Int,
    /// As `TERM`.
    #[serde(rename = "HUP")]
    Hup,
    /// As `KILL`, where the VMM does not handle it.
    #[serde(rename = "QUIT")]
    Quit,
}

/// How to kill a VM.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KillVm {
    /// The signal its VMM gets.
    #[serde(default)]
    pub signal: KillSignal,
}

/// What a VM costs its host, measured on the host.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct VmStats {
    /// Identity.
    pub id: String,
    /// Name.
    pub name: String,
    /// State.
    #[schema(value_type = String, example = "running")]
    pub state: VmState,
    /// When this was measured.
    #[schema(value_type = String, format = DateTime)]
    pub at: String,
    /// Processor time its processes have used since they started, in seconds; absent when
    /// it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Host memory its processes hold, in bytes (proportional set size); absent when it does
    /// not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used: Option<u64>,
    /// Memory it may use, in bytes.
    #[schema(value_type = u64)]
    pub memory: ByteSize,
    /// Bytes its disks take on the host; what it shares with other VMs is not counted.
    pub disk_used: u64,
}

/// A kernel to pull by name from the catalog.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// Catalog name.
    pub name: String,
}

/// An image to pull: by its name in a catalog, or by its reference from a registry.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullImage {
    /// Name in a catalog, or reference such as `alpine:3.20`.
    pub name: String,
    /// The kernel its VMs boot unless told otherwise; the catalog's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// For which machine, where a registry has several; `linux/amd64` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

/// An archive of an image that is to be read; its bytes are the input of the operation.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadImage {
    /// What it is to be called; what the archive says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which image, for archives with several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// The kernel its VMs boot unless told otherwise; the catalog's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// For which machine, where an archive has several; `linux/amd64` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// How many bytes the archive has, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

/// What a stopped VM's disk is to become.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PromoteVm {
    /// The image's name.
    pub name: String,
    /// The kernel its VMs boot unless told otherwise; the one of the VM when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Takes the name away from the image that has it.
    #[serde(default)]
    pub replace: bool,
}

/// Which images nobody needs.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneImages {
    /// Also those that have a name, when no VM uses them.
    #[serde(default)]
    pub all: bool,
    /// Only say what would be removed.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a prune removed, or would remove.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PrunedImages {
    /// The images.
    pub images: Vec<PrunedImage>,
    /// Bytes of the cached layers of pulled images.
    pub cache: u64,
    /// All bytes together.
    pub reclaimed: u64,
}

/// An image that a prune removed, or would remove.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PrunedImage {
    /// Its name; absent when it had none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its digest.
    pub digest: String,
    /// Bytes it took on this disk.
    pub disk_usage: u64,
}

/// An image that can be pulled by name.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CatalogImage {
    /// Name.
    pub name: String,
    /// What it is, in words.
    pub description: String,
    /// Where it comes from: `bootstrap`, `bundle` or `oci`.
    pub kind: String,
    /// The kernel its VMs boot unless told otherwise.
    pub kernel: String,
    /// Whether it is here.
    pub pulled: bool,
}

/// Everything about one image.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageDetails {
    /// What lists say as well.
    #[serde(flatten)]
    pub image: Image,
    /// SHA-256 of the root file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs_digest: Option<String>,
    /// How commands run in it.
    #[schema(value_type = Object)]
    pub config: ImageConfig,
    /// The name it was pulled by, in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The digest of its manifest in the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<String>,
    /// The machine it was made for, such as `linux/amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// When its maker says it was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_at: Option<String>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What it listens on, such as `80/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// The names of the VMs that use it.
    pub vms: Vec<String>,
}

/// An ext4 file of the user's own that is to become an image.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterImage {
    /// The image's name.
    pub name: String,
    /// The file with the root file system: an absolute path on the daemon's host. It is read
    /// only.
    pub rootfs: String,
    /// The kernel its VMs boot unless told otherwise; the catalog's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// How commands run in it: an image config as OCI defines it, or its `config` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub config: Option<serde_json::Value>,
    /// Takes the name away from the image that has it.
    #[serde(default)]
    pub replace: bool,
}

/// One image.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Name.
    pub name: String,
    /// Its identity: a digest of its root file system, its kernel and how commands run in it.
    pub digest: String,
    /// Size of the file system, in bytes.
    #[schema(value_type = u64)]
    pub size: ByteSize,
    /// Bytes it takes on this disk.
    #[schema(value_type = u64)]
    pub disk_usage: ByteSize,
    /// Where it came from, in words.
    pub source: String,
    /// The kernel its VMs boot unless told otherwise.
    pub kernel: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: String,
    /// How many VMs use it.
    pub used_by: u32,
}

/// One kernel.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Kernel {
    /// Name.
    pub name: String,
    /// Digest of the uncompressed kernel.
    pub digest: String,
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// Bytes it takes on this disk.
    #[schema(value_type = u64)]
    pub disk_usage: ByteSize,
    /// Where it came from, in words.
    pub source: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: String,
    /// How many VMs use it.
    pub used_by: u32,
    /// Whether guests find its modules in `/lib/modules`.
    pub modules: bool,
    /// Whether it brings an initial RAM disk of its own.
    pub initrd: bool,
    /// Where its configuration is from: `package`, `kernel` (it was built in), `file` (named at
    /// its import) or `modules` (their directory); absent when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "package")]
    pub config: Option<String>,
}

/// A kernel that can be pulled by name.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CatalogKernel {
    /// Name.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Whether it is here already.
    pub pulled: bool,
}

/// A kernel of one's own. All paths are absolute, on the daemon's host.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportKernel {
    /// An uncompressed ELF `vmlinux` or a bzImage.
    pub kernel: String,
    /// A directory that is, or holds, `lib/modules/<release>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<String>,
    /// An initial RAM disk that is unpacked before banger's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    /// The kernel's configuration, as text or compressed with gzip; when absent it is looked
    /// for in the kernel and with the modules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// Makes a VM, and starts it unless told otherwise.
    CreateVm,
    /// Starts a VM.
    StartVm,
    /// Stops a VM.
    StopVm,
    /// Stops a VM and starts it again.
    RestartVm,
    /// Ends a VM's VMM without asking the guest.
    KillVm,
    /// Changes what a VM is.
    SetVm,
    /// Deletes a VM.
    DeleteVm,
    /// Pulls an image.
    PullImage,
    /// Makes an image of an ext4 file.
    RegisterImage,
    /// Makes an image of an archive.
    LoadImage,
    /// Makes an image of a stopped VM.
    PromoteVm,
    /// Removes an image.
    DeleteImage,
    /// Pulls a kernel.
    PullKernel,
    /// Imports a kernel.
    ImportKernel,
    /// Deletes a kernel.
    DeleteKernel,
}

/// Where an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// Waiting or working.
    Running,
    /// Done.
    Succeeded,
    /// Failed, and undone.
    Failed,
}

/// Work that the daemon does whether or not its client stays.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Identity; also in the log lines and errors of this operation.
    pub id: String,
    /// What it does.
    pub kind: OperationKind,
    /// The name of the VM, image or kernel.
    pub subject: String,
    /// The id of the VM, when it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<String>,
    /// Where it is.
    pub state: OperationState,
    /// The current stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// What is not as asked although the operation goes on or has succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// Work that was saved before the VM was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<SavedWork>,
}

/// One stage of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stage {
    /// One stable word, such as `pull-image`.
    pub name: String,
    /// What a person reads.
    pub message: String,
    /// How much of it is done, from 0 to 1, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f32>,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorResponse {
    /// The error.
    pub error: ErrorBody,
}

/// An error as JSON, in the API and in `--output json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// A stable word.
    #[schema(value_type = String, example = "not_found")]
    pub code: Code,
    /// What happened, with every cause.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The operation whose log lines explain it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
}

impl From<&Error> for ErrorBody {
    fn from(error: &Error) -> Self {
        ErrorBody {
            code: error.code(),
            message: error.chain(),
            hint: error.hint_text().map(str::to_owned),
            op_id: error.op_id().map(str::to_owned),
        }
    }
}

impl From<ErrorBody> for Error {
    fn from(body: ErrorBody) -> Self {
        let mut error = Error::new(body.code, body.message);
        if let Some(hint) = body.hint {
            error = error.hint(hint);
        }
        if let Some(op_id) = body.op_id {
            error = error.operation(op_id);
        }
        error
    }
}
