//! One VM as a row, and back.

use banger_model::{ByteSize, Digest, DiskStrategy, Error, Result, VmId, VmName, VmSpec};
use rusqlite::types::FromSql;
use rusqlite::{Connection, Row, named_params};

/// What is to become of a VM. It is written before the first step is taken, so that a daemon
/// that finds the row knows which way to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// It is being made; if that did not end, it is to be undone.
    Creating,
    /// It is to be kept.
    Present,
    /// It is to be removed.
    Deleting,
}

impl Intent {
    const ALL: [Intent; 3] = [Intent::Creating, Intent::Present, Intent::Deleting];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Intent::Creating => "creating",
            Intent::Present => "present",
            Intent::Deleting => "deleting",
        }
    }
}

/// What the database knows of one VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmRow {
    /// Identity, never reused.
    pub id: VmId,
    /// Name, unique.
    pub name: VmName,
    /// What it is asked to be.
    pub spec: VmSpec,
    /// The image it was made from; absent until its creation has found it.
    pub image_digest: Option<Digest>,
    /// The kernel it boots; absent until its creation has found it.
    pub kernel_digest: Option<Digest>,
    /// How its root disk is made; absent until its creation has decided.
    pub strategy: Option<DiskStrategy>,
    /// 32 hexadecimal digits.
    pub machine_id: String,
    /// Deleted when its lease ends.
    pub ephemeral: bool,
    /// What is to become of it.
    pub intent: Intent,
    /// Why its removal failed.
    pub broken_reason: Option<String>,
    /// Why it stopped last, when that needs saying; meaningless while it runs.
    pub stop_reason: Option<String>,
    /// What is known of the repository that was copied in, as JSON; the daemon's to read.
    pub workspace: Option<String>,
    /// When it was made, RFC 3339 in UTC.
    pub created_at: String,
}

pub(crate) fn strategy_word(strategy: DiskStrategy) -> &'static str {
    match strategy {
        DiskStrategy::Overlay => "overlay",
        DiskStrategy::Reflink => "reflink",
    }
}

/// A size as SQLite keeps it. Its integers are signed; validated sizes are far below the limit.
fn size(size: ByteSize) -> rusqlite::Result<i64> {
    i64::try_from(size.as_bytes())
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// Writes what may change of a specification; says how many rows there are for the VM.
pub(crate) fn update_spec(
    connection: &Connection,
    id: &VmId,
    spec: &VmSpec,
) -> rusqlite::Result<usize> {
    connection.execute(
        "UPDATE vms SET vcpus = :vcpus, memory = :memory, disk_size = :disk_size, nat = :nat
         WHERE id = :id",
        named_params! {
            ":id": id.as_str(),
            ":vcpus": spec.vcpus,
            ":memory": size(spec.memory)?,
            ":disk_size": size(spec.disk_size)?,
            ":nat": spec.nat,
        },
    )
}

pub(crate) fn insert(connection: &Connection, vm: &VmRow) -> rusqlite::Result<()> {
    connection
        .execute(
            "INSERT INTO vms (id, name, image, kernel, vcpus, memory, disk_size, overlay_size, nat,
                 vmm, image_digest, kernel_digest, strategy, machine_id, ephemeral, intent,
                 broken_reason, stop_reason, workspace, created_at)
             VALUES (:id, :name, :image, :kernel, :vcpus, :memory, :disk_size, :overlay_size, :nat,
                 :vmm, :image_digest, :kernel_digest, :strategy, :machine_id, :ephemeral, :intent,
                 :broken_reason, :stop_reason, :workspace, :created_at)",
            named_params! {
                ":id": vm.id.as_str(),
                ":name": vm.name.as_str(),
                ":image": vm.spec.image.as_str(),
                ":kernel": vm.spec.kernel.as_str(),
                ":vcpus": vm.spec.vcpus,
                ":memory": size(vm.spec.memory)?,
                ":disk_size": size(vm.spec.disk_size)?,
                ":overlay_size": size(vm.spec.overlay_size)?,
                ":nat": vm.spec.nat,
                ":vmm": vm.spec.vmm.to_string(),
                ":image_digest": vm.image_digest.as_ref().map(Digest::as_str),
                ":kernel_digest": vm.kernel_digest.as_ref().map(Digest::as_str),
                ":strategy": vm.strategy.map(strategy_word),
                ":machine_id": vm.machine_id,
                ":ephemeral": vm.ephemeral,
                ":intent": vm.intent.word(),
                ":broken_reason": vm.broken_reason,
                ":stop_reason": vm.stop_reason,
                ":workspace": vm.workspace,
                ":created_at": vm.created_at,
            },
        )
        .map(drop)
}

/// Reads a row. Every value goes through the parser it once came from.
pub(crate) fn parse(row: &Row<'_>) -> Result<VmRow> {
    let text = |column: &str| get::<String>(row, column);
    let size = |column: &str| -> Result<ByteSize> {
        u64::try_from(get::<i64>(row, column)?)
            .map(ByteSize::bytes)
            .map_err(|error| Error::internal(format!("column `{column}`")).because(error))
    };
    let digest = |column: &str| -> Result<Option<Digest>> {
        get::<Option<String>>(row, column)?
            .map(|text| text.parse())
            .transpose()
    };
    Ok(VmRow {
        id: text("id")?.parse()?,
        name: text("name")?.parse()?,
        spec: VmSpec {
            image: text("image")?.parse()?,
            kernel: text("kernel")?.parse()?,
            vcpus: get(row, "vcpus")?,
            memory: size("memory")?,
            disk_size: size("disk_size")?,
            overlay_size: size("overlay_size")?,
            nat: get(row, "nat")?,
            vmm: text("vmm")?.parse()?,
        },
        image_digest: digest("image_digest")?,
        kernel_digest: digest("kernel_digest")?,
        strategy: get::<Option<String>>(row, "strategy")?
            .map(|word| parse_strategy(&word))
            .transpose()?,
        machine_id: text("machine_id")?,
        ephemeral: get(row, "ephemeral")?,
        intent: parse_intent(&text("intent")?)?,
        broken_reason: get(row, "broken_reason")?,
        stop_reason: get(row, "stop_reason")?,
        workspace: get(row, "workspace")?,
        created_at: text("created_at")?,
    })
}

fn parse_intent(word: &str) -> Result<Intent> {
    Intent::ALL
        .into_iter()
        .find(|intent| intent.word() == word)
        .ok_or_else(|| unknown("intent", word))
}

fn parse_strategy(word: &str) -> Result<DiskStrategy> {
    [DiskStrategy::Overlay, DiskStrategy::Reflink]
        .into_iter()
        .find(|strategy| strategy_word(*strategy) == word)
        .ok_or_else(|| unknown("disk strategy", word))
}

fn unknown(noun: &str, word: &str) -> Error {
    Error::internal(format!("`{}` is not a known {noun}", word.escape_debug()))
}

fn get<T: FromSql>(row: &Row<'_>, column: &str) -> Result<T> {
    row.get(column)
        .map_err(|error| Error::internal(format!("column `{column}`")).because(error))
}
