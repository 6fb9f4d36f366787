//! Rows of `images`, `names` and `image_layers`.
//!
//! A name is kept in its full form (`docker.io/library/debian:12`), so that equal names are equal rows.
//!
//! May touch: its tables, sizes in `layers`, image IDs in `containers`. Knows nothing of documents.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Count, now_seconds};
use crate::digest::{BlobId, DiffId, ImageId};

/// All that the index knows of an image.
#[derive(Clone, Debug)]
pub(crate) struct ImageRow {
    pub(crate) id: ImageId,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Option<BlobId>,
    pub(crate) size_bytes: u64,
}

const COLUMNS: &str = "id, config, manifest, size";

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<ImageRow> {
    let size_bytes = row.get::<_, Count>(3)?.0;
    Ok(ImageRow { id: row.get(0)?, config: row.get(1)?, manifest: row.get(2)?, size_bytes })
}

pub(crate) fn find(connection: &Connection, id: ImageId) -> rusqlite::Result<Option<ImageRow>> {
    let query = format!("SELECT {COLUMNS} FROM images WHERE id = ?1");
    connection.prepare_cached(&query)?.query_row([id], read).optional()
}

/// All images, newest first.
pub(crate) fn list(connection: &Connection) -> rusqlite::Result<Vec<ImageRow>> {
    let query = format!("SELECT {COLUMNS} FROM images ORDER BY sequence DESC");
    connection.prepare_cached(&query)?.query_map([], read)?.collect()
}

/// What a list shows of an image.
#[derive(Debug)]
pub(crate) struct ListedRow {
    pub(crate) id: ImageId,
    pub(crate) manifest: Option<BlobId>,
    pub(crate) size_bytes: u64,
    /// As its config says.
    pub(crate) created: Option<String>,
}

/// All images, newest first, from one index that holds no configs.
const LISTED: &str = "SELECT id, manifest, size, config_created FROM images ORDER BY sequence DESC";

pub(crate) fn listed(connection: &Connection) -> rusqlite::Result<Vec<ListedRow>> {
    let read = |row: &rusqlite::Row<'_>| {
        let size_bytes = row.get::<_, Count>(2)?.0;
        Ok(ListedRow { id: row.get(0)?, manifest: row.get(1)?, size_bytes, created: row.get(3)? })
    };
    connection.prepare_cached(LISTED)?.query_map([], read)?.collect()
}

/// All names with what they point at, oldest first.
pub(crate) fn all_names(connection: &Connection) -> rusqlite::Result<Vec<(ImageId, String)>> {
    let mut statement =
        connection.prepare_cached("SELECT image_id, reference FROM names ORDER BY sequence, reference")?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Of each image that shares layers with another: the size of those layers.
pub(crate) fn shared_sizes(connection: &Connection) -> rusqlite::Result<Vec<(ImageId, u64)>> {
    let mut statement = connection.prepare_cached(
        "SELECT i.image_id, sum(l.tar_size) FROM image_layers AS i JOIN layers AS l USING (diff_id)
         WHERE EXISTS (SELECT 1 FROM image_layers WHERE diff_id = i.diff_id AND image_id <> i.image_id)
         GROUP BY i.image_id",
    )?;
    statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, Count>(1)?.0)))?.collect()
}

/// The images whose IDs start so, at most two: more than one is all that a caller asks.
pub(crate) fn starting_with(connection: &Connection, prefix: &str) -> rusqlite::Result<Vec<ImageId>> {
    // `g` sorts behind all hex digits. A range, unlike LIKE, walks the primary key.
    let mut statement =
        connection.prepare_cached("SELECT id FROM images WHERE id >= ?1 AND id < ?1 || 'g' LIMIT 2")?;
    statement.query_map([prefix], |row| row.get(0))?.collect()
}

pub(crate) fn with_manifest(connection: &Connection, manifest: BlobId) -> rusqlite::Result<Vec<ImageId>> {
    let mut statement = connection.prepare_cached("SELECT id FROM images WHERE manifest = ?1")?;
    statement.query_map([manifest], |row| row.get(0))?.collect()
}

/// Writes an image and its layers; an image that is there gets the manifest it now came with.
///
/// Returns the first layer that is not here, and has then written nothing.
pub(crate) fn insert(
    connection: &Connection,
    id: ImageId,
    config: &[u8],
    manifest: Option<BlobId>,
    layers: &[DiffId],
) -> rusqlite::Result<Option<DiffId>> {
    let mut size_bytes = 0_u64;
    for layer in layers {
        let mut statement = connection.prepare_cached("SELECT tar_size FROM layers WHERE diff_id = ?1")?;
        match statement.query_row([layer], |row| row.get::<_, Count>(0)).optional()? {
            Some(Count(size)) => size_bytes = size_bytes.saturating_add(size),
            None => return Ok(Some(*layer)),
        }
    }
    let mut statement = connection.prepare_cached(
        "INSERT INTO images (id, config, manifest, created, size, sequence, config_created)
         VALUES (?1, ?2, ?3, ?4, ?5, (SELECT coalesce(max(sequence), 0) + 1 FROM images),
                 CASE WHEN json_valid(CAST(?2 AS TEXT)) THEN json_extract(CAST(?2 AS TEXT), '$.created') END)
         ON CONFLICT (id) DO UPDATE SET manifest = coalesce(excluded.manifest, manifest)",
    )?;
    statement.execute(params![id, config, manifest, now_seconds(), Count(size_bytes)])?;
    let mut statement =
        connection.prepare_cached("INSERT OR IGNORE INTO image_layers VALUES (?1, ?2, ?3)")?;
    for (position, layer) in (0_i64..).zip(layers) {
        statement.execute(params![id, position, layer])?;
    }
    Ok(None)
}

/// Gives an image that has no manifest one; an image that is gone stays gone.
pub(crate) fn set_manifest(connection: &Connection, id: ImageId, manifest: BlobId) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("UPDATE images SET manifest = ?2 WHERE id = ?1 AND manifest IS NULL")?;
    statement.execute(params![id, manifest])?;
    Ok(())
}

/// Removes an image, its names and its hold on its layers.
pub(crate) fn remove(connection: &Connection, id: ImageId) -> rusqlite::Result<bool> {
    connection.prepare_cached("DELETE FROM names WHERE image_id = ?1")?.execute([id])?;
    connection.prepare_cached("DELETE FROM image_layers WHERE image_id = ?1")?.execute([id])?;
    Ok(connection.prepare_cached("DELETE FROM images WHERE id = ?1")?.execute([id])? == 1)
}

/// What a name points at.
pub(crate) fn named(connection: &Connection, name: &str) -> rusqlite::Result<Option<ImageId>> {
    let mut statement = connection.prepare_cached("SELECT image_id FROM names WHERE reference = ?1")?;
    statement.query_row([name], |row| row.get(0)).optional()
}

/// The names of an image, oldest first.
pub(crate) fn names(connection: &Connection, id: ImageId) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection
        .prepare_cached("SELECT reference FROM names WHERE image_id = ?1 ORDER BY sequence, reference")?;
    statement.query_map([id], |row| row.get(0))?.collect()
}

/// Points a name at an image and returns what it pointed at before.
pub(crate) fn set_name(
    connection: &Connection,
    name: &str,
    id: ImageId,
) -> rusqlite::Result<Option<ImageId>> {
    let before = named(connection, name)?;
    if before == Some(id) {
        return Ok(before);
    }
    // A name that moves is the newest of the image it moves to.
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO names VALUES (?1, ?2, (SELECT coalesce(max(sequence), 0) + 1 FROM names))",
    )?;
    statement.execute(params![name, id])?;
    Ok(before)
}

pub(crate) fn remove_name(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    Ok(connection.prepare_cached("DELETE FROM names WHERE reference = ?1")?.execute([name])? == 1)
}

/// The names of the containers that were made from an image.
pub(crate) fn containers(connection: &Connection, id: ImageId) -> rusqlite::Result<Vec<String>> {
    let mut statement =
        connection.prepare_cached("SELECT name FROM containers WHERE image_id = ?1 ORDER BY sequence")?;
    statement.query_map([id], |row| row.get(0))?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::index::{Commit, Index};

    #[test]
    fn a_list_reads_no_config_and_bears_configs_that_say_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        let configs: [(&[u8], Option<&str>); 4] = [
            (br#"{"created":"2020-01-02T03:04:05Z"}"#, Some("2020-01-02T03:04:05Z")),
            (b"{}", None),
            (b"\xff no JSON", None),
            (br#"{"created":null}"#, None),
        ];
        for (config, _) in configs {
            let id = ImageId(Digest::of(config));
            index.write("add", Commit::Soon, |t| insert(t, id, config, None, &[])).unwrap();
        }
        let found = index.read("list", listed).unwrap();
        let created: Vec<Option<&str>> = found.iter().rev().map(|row| row.created.as_deref()).collect();
        assert_eq!(created, configs.map(|(_, created)| created));
        let plan: String = index
            .read("explain", |c| c.query_row(&format!("EXPLAIN QUERY PLAN {LISTED}"), [], |row| row.get(3)))
            .unwrap();
        assert!(plan.contains("COVERING INDEX images_listed"), "{plan}");
    }
}
