//! The index: one `SQLite` file that says what the folders mean.
//!
//! Readers never wait (WAL). A writer takes the write lock at its first statement (`BEGIN
//! IMMEDIATE`), so no transaction fails half-way because another one came between. A commit is
//! always whole after a crash; only [`Commit::Durable`] ones are sure to be there after a power cut.
//! The log is not folded back when a process ends (that costs two fsyncs), but by `SQLite` as it grows.
//!
//! May touch: `index.db`. Knows nothing of the folders beside it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::StoreError;
use crate::digest::{BlobId, ChainId, DiffId, Digest, ImageId};

pub(crate) mod blobs;
pub(crate) mod cache;
pub(crate) mod containers;
pub(crate) mod files;
pub(crate) mod images;
pub(crate) mod layers;

/// The schema this program writes; a higher one in the file belongs to a newer program.
const FORMAT: i64 = 3;

/// How long a writer waits for another process's commit.
const BUSY: Duration = Duration::from_secs(30);

/// Migrations from format n to n + 1; the first makes an empty file format 1.
const MIGRATIONS: &[&str] =
    &[include_str!("schema.sql"), include_str!("schema-2.sql"), include_str!("schema-3-images.sql")];

/// The open database. Threads take turns.
#[derive(Debug)]
pub(crate) struct Index {
    connection: Mutex<Connection>,
}

/// What a power cut may do to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    /// May be lost (never torn) by a power cut.
    Soon,
    /// On disk, with all commits before it, when the call returns.
    Durable,
}

impl Index {
    /// Opens the database at `path`, made and brought to this format where needed.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let doing = |doing| move |source| StoreError::Index { doing, source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let mut connection = Connection::open_with_flags(path, flags).map_err(doing("open"))?;
        connection.busy_timeout(BUSY).map_err(doing("open"))?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(doing("open"))?;
        let found = format_of(&connection).map_err(doing("read"))?;
        if found > FORMAT {
            return Err(StoreError::NewerFormat { path: path.to_owned(), found, known: FORMAT });
        }
        if found < FORMAT {
            let folder = path.parent().unwrap_or(Path::new("."));
            // First openers migrate one after the other: a change of the journal mode that meets
            // another one fails at once, without the busy timeout.
            let turn = one_at_a_time(folder).map_err(StoreError::io("lock", folder))?;
            migrate_patiently(&mut connection).map_err(doing("bring up to date"))?;
            drop(turn);
        }
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// Runs queries that change nothing.
    pub(crate) fn read<T>(
        &self,
        doing: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        query(&self.lock()).map_err(|source| StoreError::Index { doing, source })
    }

    /// Runs `change` in one transaction that holds the write lock from its start.
    pub(crate) fn write<T>(
        &self,
        doing: &'static str,
        commit: Commit,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let run = |connection: &mut Connection| {
            let synchronous = if commit == Commit::Durable { "FULL" } else { "NORMAL" };
            connection.pragma_update(None, "synchronous", synchronous)?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = change(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run(&mut connection).map_err(|source| StoreError::Index { doing, source })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in a query rolled its transaction back: the connection itself is sound.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn format_of(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Holds all other migrators off for as long as the descriptor lives.
fn one_at_a_time(folder: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    rustix::fs::flock(&folder, FlockOperation::LockExclusive)?;
    Ok(folder)
}

/// Migrates; a reader that looks at the format meanwhile makes it try again, for as long as [`BUSY`].
fn migrate_patiently(connection: &mut Connection) -> rusqlite::Result<()> {
    let end = Instant::now() + BUSY;
    loop {
        match migrate(connection) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < end =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    // The journal mode can't change inside a transaction and is remembered in the file.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have done it while this one waited for the lock.
    let found = usize::try_from(format_of(&transaction)?).unwrap_or(0);
    for step in MIGRATIONS.iter().skip(found) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", FORMAT)?;
    transaction.commit()
}

/// Seconds since 1970, for display and for ages; order comes from `sequence`.
pub(crate) fn now_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A count or a size: `SQLite`'s integers are signed, ours are not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count(pub(crate) u64);

impl ToSql for Count {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let signed =
            i64::try_from(self.0).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        Ok(ToSqlOutput::from(signed))
    }
}

impl FromSql for Count {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let signed = value.as_i64()?;
        u64::try_from(signed).map(Self).map_err(|_| FromSqlError::OutOfRange(signed))
    }
}

impl ToSql for Digest {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.to_string()))
    }
}

impl FromSql for Digest {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::from_str(value.as_str()?).map_err(|invalid| FromSqlError::Other(Box::new(invalid)))
    }
}

macro_rules! sql_identity {
    ($($name:ident)*) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                self.0.to_sql()
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                Digest::column_result(value).map(Self)
            }
        }
    )*};
}

sql_identity!(BlobId DiffId ChainId ImageId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.db");
        drop(Index::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", FORMAT + 1).unwrap();
        drop(connection);
        let error = Index::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::NewerFormat { found, .. } if found == FORMAT + 1), "{error}");
    }

    #[test]
    fn an_index_of_every_older_format_is_brought_up_to_date_and_loses_nothing() {
        for older in 1..FORMAT {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("index.db");
            let connection = Connection::open(&path).unwrap();
            for step in MIGRATIONS.iter().take(usize::try_from(older).unwrap()) {
                connection.execute_batch(step).unwrap();
            }
            let row = "INSERT INTO layers (diff_id, tar_size, disk_size, entry_count, synced, boot_id, gaps, sequence)
                       VALUES (?1, 10, 20, 3, 1, '', 0, 7)";
            let diff_id = DiffId(Digest::of(b"a layer"));
            connection.execute(row, [diff_id]).unwrap();
            let config = br#"{"created":"2020-01-01T00:00:00Z"}"#;
            let image = ImageId(Digest::of(config));
            let row = "INSERT INTO images (id, config, created, size, sequence) VALUES (?1, ?2, 5, 10, 1)";
            connection.execute(row, rusqlite::params![image, config]).unwrap();
            connection.pragma_update(None, "user_version", older).unwrap();
            drop(connection);

            let index = Index::open(&path).unwrap();
            assert_eq!(index.read("read", format_of).unwrap(), FORMAT);
            let row = index.read("read", |connection| layers::find(connection, diff_id)).unwrap().unwrap();
            assert_eq!((row.disk_size_bytes, row.cloned_bytes), (20, 0));
            let listed = index.read("read", images::listed).unwrap();
            assert_eq!((listed[0].id, listed[0].created.as_deref()), (image, Some("2020-01-01T00:00:00Z")));
            index.write("write", Commit::Soon, |connection| layers::insert(connection, &row)).unwrap();
        }
    }

    #[test]
    fn a_failed_change_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        let failed = index.write("add a row", Commit::Soon, |transaction| {
            transaction.execute("INSERT INTO pins VALUES ('a', 'b')", [])?;
            transaction.execute("INSERT INTO nowhere VALUES (1)", [])
        });
        assert!(failed.is_err());
        let count: i64 =
            index.read("count", |c| c.query_row("SELECT count(*) FROM pins", [], |row| row.get(0))).unwrap();
        assert_eq!(count, 0);
    }

    #[test]
    fn many_first_openers_end_with_one_schema() {
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("index.db");
            let start = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        start.wait();
                        Index::open(&path).unwrap()
                    });
                }
            });
            assert_eq!(Index::open(&path).unwrap().read("read", format_of).unwrap(), FORMAT);
        }
    }
}
