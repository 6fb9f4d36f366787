//! Rows of `cache` and `context_memory`.
//!
//! May touch: its tables. Knows nothing of what a key means.

use rusqlite::{Connection, OptionalExtension, params};

use crate::cache::CacheRow;
use crate::digest::Digest;

use super::now_seconds;

const COLUMNS: &str = "key, layer, components, place, seconds, created";

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<CacheRow> {
    Ok(CacheRow {
        key: row.get(0)?,
        layer: row.get(1)?,
        components: row.get(2)?,
        place: row.get(3)?,
        seconds: row.get(4)?,
        created_seconds: row.get(5)?,
    })
}

pub(crate) fn find(connection: &Connection, key: Digest) -> rusqlite::Result<Option<CacheRow>> {
    let query = format!("SELECT {COLUMNS} FROM cache WHERE key = ?1");
    connection.prepare_cached(&query)?.query_row([key], read).optional()
}

/// The rows of one place, newest first.
pub(crate) fn at_place(connection: &Connection, place: &str) -> rusqlite::Result<Vec<CacheRow>> {
    let query =
        format!("SELECT {COLUMNS} FROM cache WHERE place = ?1 ORDER BY created DESC, used DESC LIMIT 16");
    connection.prepare_cached(&query)?.query_map([place], read)?.collect()
}

pub(crate) fn insert(connection: &Connection, row: &CacheRow) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("INSERT OR REPLACE INTO cache VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    let CacheRow { key, layer, components, place, seconds, created_seconds } = row;
    statement.execute(params![key, layer, components, place, seconds, created_seconds, now_seconds()])?;
    Ok(())
}

pub(crate) fn mark_used(connection: &Connection, key: Digest) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("UPDATE cache SET used = ?2 WHERE key = ?1")?;
    statement.execute(params![key, now_seconds()])?;
    Ok(())
}

pub(crate) fn memory(connection: &Connection, context: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    let mut statement = connection.prepare_cached("SELECT memory FROM context_memory WHERE context = ?1")?;
    statement.query_row([context], |row| row.get(0)).optional()
}

pub(crate) fn set_memory(connection: &Connection, context: &str, memory: &[u8]) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("INSERT OR REPLACE INTO context_memory VALUES (?1, ?2, ?3)")?;
    statement.execute(params![context, memory, now_seconds()])?;
    Ok(())
}
