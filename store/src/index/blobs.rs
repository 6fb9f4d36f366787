//! Rows of `blobs` and `pins`.
//!
//! May touch: its tables. Knows nothing of files.

use rusqlite::{Connection, OptionalExtension, params};

use crate::digest::{BlobId, DiffId};
use crate::index::Count;

/// All that the index knows of a blob.
#[derive(Clone, Debug)]
pub(crate) struct BlobRow {
    pub(crate) id: BlobId,
    pub(crate) size_bytes: u64,
    pub(crate) media_type: Option<String>,
    /// For a packed layer: what it unpacks to.
    pub(crate) diff_id: Option<DiffId>,
}

const COLUMNS: &str = "digest, size, media_type, diff_id";

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<BlobRow> {
    Ok(BlobRow {
        id: row.get(0)?,
        size_bytes: row.get::<_, Count>(1)?.0,
        media_type: row.get(2)?,
        diff_id: row.get(3)?,
    })
}

pub(crate) fn find(connection: &Connection, id: BlobId) -> rusqlite::Result<Option<BlobRow>> {
    let query = format!("SELECT {COLUMNS} FROM blobs WHERE digest = ?1");
    connection.prepare_cached(&query)?.query_row([id], read).optional()
}

/// The packed forms of a layer, oldest first.
pub(crate) fn of_layer(connection: &Connection, diff_id: DiffId) -> rusqlite::Result<Vec<BlobRow>> {
    let query = format!("SELECT {COLUMNS} FROM blobs WHERE diff_id = ?1 ORDER BY sequence");
    connection.prepare_cached(&query)?.query_map([diff_id], read)?.collect()
}

/// Writes a row, or fills in what an older one does not say.
pub(crate) fn insert(connection: &Connection, row: &BlobRow) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO blobs VALUES (?1, ?2, ?3, ?4, (SELECT coalesce(max(sequence), 0) + 1 FROM blobs))
         ON CONFLICT (digest) DO UPDATE SET media_type = coalesce(excluded.media_type, media_type),
                                            diff_id = coalesce(excluded.diff_id, diff_id)",
    )?;
    statement.execute(params![row.id, Count(row.size_bytes), row.media_type, row.diff_id])?;
    Ok(())
}

pub(crate) fn remove(connection: &Connection, id: BlobId) -> rusqlite::Result<bool> {
    Ok(connection.prepare_cached("DELETE FROM blobs WHERE digest = ?1")?.execute([id])? == 1)
}

/// Keeps a blob from the collector for as long as `lease` lives.
pub(crate) fn pin(connection: &Connection, lease: &str, id: BlobId) -> rusqlite::Result<()> {
    connection.prepare_cached("INSERT OR IGNORE INTO pins VALUES (?1, ?2)")?.execute(params![lease, id])?;
    Ok(())
}

pub(crate) fn unpin_all(connection: &Connection, lease: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM pins WHERE lease = ?1")?.execute([lease])?;
    Ok(())
}
