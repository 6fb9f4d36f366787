//! Rows of `layers`: which layers are here and whether they can be trusted.
//!
//! May touch: its table. Knows nothing of trees.

use rusqlite::{Connection, OptionalExtension, params};

use crate::digest::DiffId;
use crate::index::Count;
use crate::layers::Layer;

/// All that the index knows of a layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerRow {
    pub(crate) layer: Layer,
    pub(crate) disk_size_bytes: u64,
    pub(crate) gaps: u32,
    /// Of the bytes on disk, those that share the blocks of an older layer.
    pub(crate) cloned_bytes: u64,
    pub(crate) synced: bool,
    pub(crate) boot_id: String,
}

/// Finds a row, trusted or not.
pub(crate) fn find(connection: &Connection, diff_id: DiffId) -> rusqlite::Result<Option<LayerRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT tar_size, disk_size, entry_count, synced, boot_id, gaps, cloned_size FROM layers WHERE diff_id = ?1",
    )?;
    let read = |row: &rusqlite::Row<'_>| {
        let count = |column: usize| row.get::<_, Count>(column).map(|count| count.0);
        Ok(LayerRow {
            layer: Layer { diff_id, tar_size_bytes: count(0)?, entry_count: count(2)? },
            disk_size_bytes: count(1)?,
            synced: row.get(3)?,
            boot_id: row.get(4)?,
            gaps: row.get(5)?,
            cloned_bytes: count(6)?,
        })
    };
    statement.query_row([diff_id], read).optional()
}

/// Writes a row, in place of an older one.
pub(crate) fn insert(connection: &Connection, row: &LayerRow) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO layers
         (diff_id, tar_size, disk_size, entry_count, synced, boot_id, gaps, cloned_size, sequence) VALUES
         (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, (SELECT coalesce(max(sequence), 0) + 1 FROM layers))",
    )?;
    let layer = &row.layer;
    statement.execute(params![
        layer.diff_id,
        Count(layer.tar_size_bytes),
        Count(row.disk_size_bytes),
        Count(layer.entry_count),
        row.synced,
        row.boot_id,
        row.gaps,
        Count(row.cloned_bytes)
    ])?;
    Ok(())
}

pub(crate) fn remove(connection: &Connection, diff_id: DiffId) -> rusqlite::Result<bool> {
    crate::index::files::remove(connection, diff_id)?;
    Ok(connection.prepare_cached("DELETE FROM layers WHERE diff_id = ?1")?.execute([diff_id])? == 1)
}

/// Layers written in this boot that no `syncfs` has covered yet.
pub(crate) fn unsynced(connection: &Connection, boot_id: &str) -> rusqlite::Result<Vec<DiffId>> {
    let mut statement =
        connection.prepare_cached("SELECT diff_id FROM layers WHERE synced = 0 AND boot_id = ?1")?;
    statement.query_map([boot_id], |row| row.get(0))?.collect()
}

pub(crate) fn mark_synced(connection: &Connection, diff_id: DiffId) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE layers SET synced = 1 WHERE diff_id = ?1")?.execute([diff_id])?;
    Ok(())
}
