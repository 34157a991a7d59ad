//! The schema, its history, and how a database is brought up to date.
//!
//! Migrations only go forward and are never edited once released. To add one: append it to
//! [`MIGRATIONS`], adapt `row.rs`, and add a test that migrates a copy of the older form.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_model::{Code, Error, IoContext, Result};
use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::{M, Migrations};

use crate::error::failed;

/// The steps from nothing to the present schema.
pub(crate) const MIGRATIONS: &[M<'static>] = &[
    M::up(
        "CREATE TABLE vms (
            id            TEXT    NOT NULL PRIMARY KEY,
            name          TEXT    NOT NULL UNIQUE,
            image         TEXT    NOT NULL,
            kernel        TEXT    NOT NULL,
            vcpus         INTEGER NOT NULL,
            memory        INTEGER NOT NULL,
            disk_size     INTEGER NOT NULL,
            overlay_size  INTEGER NOT NULL,
            nat           INTEGER NOT NULL,
            vmm           TEXT    NOT NULL,
            image_digest  TEXT,
            kernel_digest TEXT,
            strategy      TEXT,
            machine_id    TEXT    NOT NULL,
            ephemeral     INTEGER NOT NULL,
            intent        TEXT    NOT NULL CHECK (intent IN ('creating', 'present', 'deleting')),
            broken_reason TEXT,
            created_at    TEXT    NOT NULL
        ) STRICT;",
    ),
    M::up("ALTER TABLE vms ADD COLUMN stop_reason TEXT;"),
    M::up("ALTER TABLE vms ADD COLUMN workspace TEXT;"),
];

/// Opens a database and brings it up to date with these migrations.
pub(crate) fn open(path: &Path, migrations: &[M<'static>]) -> Result<Connection> {
    // SQLite would make the file with the umask's mode; its side files take on this one's.
    let made = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io("create", path, error)),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection =
        Connection::open_with_flags(path, flags).map_err(|error| failed("open", path, error))?;

    let version: u32 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|error| failed("read", path, error))?;
    let newest = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    if version > newest {
        return Err(Error::new(
            Code::Store,
            format!(
                "the database `{}` was written by a newer release of banger (schema {version}, \
                 this release knows up to {newest})",
                path.display()
            ),
        )
        .hint("use that release or a newer one"));
    }

    configure(&connection).map_err(|error| failed("set up", path, error))?;
    if version < newest {
        if version > 0 {
            back_up(&connection, path, version)?;
        }
        Migrations::from_slice(migrations)
            .to_latest(&mut connection)
            .map_err(|error| match error {
                rusqlite_migration::Error::RusqliteError { err, .. } => {
                    failed("bring up to date", path, err)
                }
                other => Error::new(
                    Code::Store,
                    format!("cannot bring the database `{}` up to date", path.display()),
                )
                .because(other),
            })?;
    }
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    // The answer is the mode that is in force; another one than asked for still works.
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Rows are few and small: half a MiB of pages holds them all.
    connection.pragma_update(None, "cache_size", -512)?;
    Ok(())
}

/// The copy made of a database with this schema before it is brought up to date.
pub(crate) fn backup_path(path: &Path, version: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".v{version}.backup"));
    PathBuf::from(name)
}

/// Copies the database, so that the copy is either absent or complete and on the disk.
fn back_up(connection: &Connection, path: &Path, version: u32) -> Result<()> {
    let target = backup_path(path, version);
    let staged = target.with_extension("backup-part");
    match fs::remove_file(&staged) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("remove", &staged, error)),
    }
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&staged)
        .at("create", &staged)?;
    connection
        .backup("main", &staged, None)
        .map_err(|error| failed("copy", path, error))?;
    file.sync_all().at("write", &staged)?;
    fs::rename(&staged, &target).at("create", &target)?;
    if let Some(dir) = target.parent() {
        let dir_file = fs::File::open(dir).at("open", dir)?;
        dir_file.sync_all().at("write", dir)?;
    }
    Ok(())
}
