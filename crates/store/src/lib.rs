//! What VMs *are*, in SQLite: identity and intent, and nothing momentary.
//!
//! Process ids, sockets and the like are rediscovered from the system and never stored.
//! Every call blocks on the disk; the daemon makes them off its event loop. Only the daemon
//! that holds the state directory's lock opens the database for writing.

mod error;
mod row;
mod schema;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use banger_model::{Code, Digest, DiskStrategy, Error, Result, VmId, VmName, VmSpec};
use rusqlite::{Connection, named_params};

use error::failed;
pub use row::{Intent, VmRow};

/// The database of one state directory.
pub struct Store {
    path: PathBuf,
    // One writer, and reads are rare: the daemon serves lists from memory.
    connection: Mutex<Connection>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish()
    }
}

impl Store {
    /// Opens the database, making it when there is none and bringing an older one up to date
    /// after copying it to a file beside it.
    ///
    /// # Errors
    /// `store_failed` when the file is not a database of banger or comes from a newer release,
    /// which is found out before anything is written; `no_space` when the disk is full.
    pub fn open(path: &Path) -> Result<Store> {
        let connection = schema::open(path, schema::MIGRATIONS)?;
        Ok(Store {
            path: path.to_owned(),
            connection: Mutex::new(connection),
        })
    }

    /// Adds a VM.
    ///
    /// # Errors
    /// `already_exists` when the name is taken.
    pub fn insert(&self, vm: &VmRow) -> Result<()> {
        let name = vm.name.as_str();
        match row::insert(&self.connection(), vm) {
            Ok(()) => Ok(()),
            Err(error) if error::is_unique_violation(&error) => Err(Error::new(
                Code::AlreadyExists,
                format!("there is already a VM named `{name}`"),
            )
            .hint("choose another name with `--name`, or delete it with `banger vm delete`")),
            Err(error) => Err(failed("add a VM to", &self.path, error)),
        }
    }

    /// Records what a VM was made from and how, once its creation has found out.
    ///
    /// # Errors
    /// `not_found` when there is no such VM.
    pub fn set_parts(
        &self,
        id: &VmId,
        image: &Digest,
        kernel: &Digest,
        strategy: DiskStrategy,
    ) -> Result<()> {
        self.update(
            "UPDATE vms SET image_digest = :image, kernel_digest = :kernel, strategy = :strategy
             WHERE id = :id",
            id,
            named_params! {
                ":id": id.as_str(),
                ":image": image.as_str(),
                ":kernel": kernel.as_str(),
                ":strategy": row::strategy_word(strategy),
            },
        )
    }

    /// Records what is to become of a VM. A reason why its removal failed is forgotten.
    ///
    /// # Errors
    /// `not_found` when there is no such VM.
    pub fn set_intent(&self, id: &VmId, intent: Intent) -> Result<()> {
        self.update(
            "UPDATE vms SET intent = :intent, broken_reason = NULL WHERE id = :id",
            id,
            named_params! { ":id": id.as_str(), ":intent": intent.word() },
        )
    }

    /// Records why a VM could not be removed.
    ///
    /// # Errors
    /// `not_found` when there is no such VM.
    pub fn set_broken(&self, id: &VmId, reason: &str) -> Result<()> {
        self.update(
            "UPDATE vms SET broken_reason = :reason WHERE id = :id",
            id,
            named_params! { ":id": id.as_str(), ":reason": reason },
        )
    }

    /// Records why a VM stopped, or that there is nothing to say about it.
    ///
    /// # Errors
    /// `not_found` when there is no such VM.
    pub fn set_stop_reason(&self, id: &VmId, reason: Option<&str>) -> Result<()> {
        self.update(
            "UPDATE vms SET stop_reason = :reason WHERE id = :id",
            id,
            named_params! { ":id": id.as_str(), ":reason": reason },
        )
    }

    /// Records what is known of the repository that was copied into a VM, as JSON.
    ///
    /// # Errors
    /// `not_found` when there is no such VM.
    pub fn set_workspace(&self, id: &VmId, workspace: &str) -> Result<()> {
        self.update(
            "UPDATE vms SET workspace = :workspace WHERE id = :id",
            id,
            named_params! { ":id": id.as_str(), ":workspace": workspace },
        )
    }

    /// Records that a VM is to be kept although nobody holds a lease on it.
    ///
    /// # Errors
    /// `not_found` when there is no such VM.
    pub fn set_lasting(&self, id: &VmId) -> Result<()> {
        self.update(
            "UPDATE vms SET ephemeral = 0 WHERE id = :id",
            id,
            named_params! { ":id": id.as_str() },
        )
    }

    /// Records what a VM is asked to be: processors, memory, the size of its disk and its
    /// network, all of them or none. The rest of a specification never changes.
    ///
    /// # Errors
    /// `not_found` when there is no such VM.
    pub fn set_spec(&self, id: &VmId, spec: &VmSpec) -> Result<()> {
        let changed = row::update_spec(&self.connection(), id, spec);
        self.found(changed, id)
    }

    /// Removes a VM; one that is not there is fine.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn remove(&self, id: &VmId) -> Result<()> {
        self.connection()
            .execute("DELETE FROM vms WHERE id = ?1", [id.as_str()])
            .map(drop)
            .map_err(|error| failed("remove a VM from", &self.path, error))
    }

    /// The VM with this name.
    ///
    /// # Errors
    /// `store_failed` for a row that no release of banger wrote.
    pub fn by_name(&self, name: &VmName) -> Result<Option<VmRow>> {
        let found = self.select("WHERE name = ?1", [name.as_str()])?;
        Ok(found.into_iter().next())
    }

    /// Every VM, in order of creation.
    ///
    /// # Errors
    /// `store_failed` for a row that no release of banger wrote.
    pub fn all(&self) -> Result<Vec<VmRow>> {
        self.select("", [])
    }

    fn select(&self, filter: &str, params: impl rusqlite::Params) -> Result<Vec<VmRow>> {
        let query = format!("SELECT * FROM vms {filter} ORDER BY created_at, id");
        let connection = self.connection();
        let read = || -> rusqlite::Result<Vec<Result<VmRow>>> {
            let mut statement = connection.prepare(&query)?;
            let rows = statement.query_map(params, |found| Ok(row::parse(found)))?;
            rows.collect()
        };
        let rows = read().map_err(|error| failed("read", &self.path, error))?;
        rows.into_iter()
            .map(|row| {
                row.map_err(|error| {
                    Error::new(
                        Code::Store,
                        format!("`{}` holds a VM that makes no sense", self.path.display()),
                    )
                    .because(error)
                })
            })
            .collect()
    }

    fn update(&self, sql: &str, id: &VmId, params: &[(&str, &dyn rusqlite::ToSql)]) -> Result<()> {
        let changed = self.connection().execute(sql, params);
        self.found(changed, id)
    }

    /// What a change of one row came to.
    fn found(&self, changed: rusqlite::Result<usize>, id: &VmId) -> Result<()> {
        match changed.map_err(|error| failed("change a VM in", &self.path, error))? {
            0 => Err(Error::new(Code::NotFound, format!("there is no VM `{id}`"))),
            _ => Ok(()),
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic inside rusqlite leaves no half statement behind: SQLite rolls back.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
