//! Rows of `containers`: names that are taken, and images that are in use.
//!
//! May touch: its table. Knows nothing of what a container is.

use rusqlite::{Connection, OptionalExtension, params};

use crate::digest::ImageId;
use crate::index::now_seconds;

pub(crate) fn insert(connection: &Connection, id: &str, name: &str, image: ImageId) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO containers (id, name, record, image_id, state, created, sequence)
         VALUES (?1, ?2, '', ?3, '', ?4, (SELECT coalesce(max(sequence), 0) + 1 FROM containers))",
    )?;
    statement.execute(params![id, name, image, now_seconds()])?;
    Ok(())
}

/// The container that has a name.
pub(crate) fn named(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    let mut statement = connection.prepare_cached("SELECT id FROM containers WHERE name = ?1")?;
    statement.query_row([name], |row| row.get(0)).optional()
}

pub(crate) fn remove(connection: &Connection, id: &str) -> rusqlite::Result<bool> {
    Ok(connection.prepare_cached("DELETE FROM containers WHERE id = ?1")?.execute([id])? == 1)
}

pub(crate) fn of_image(connection: &Connection, image: ImageId) -> rusqlite::Result<Vec<String>> {
    let mut statement =
        connection.prepare_cached("SELECT id FROM containers WHERE image_id = ?1 ORDER BY sequence")?;
    statement.query_map([image], |row| row.get(0))?.collect()
}
