//! Rows of `files`: what layers' files look like, for [`crate::layers`] to find equal ones. Only kept where
//! the file system can share blocks.
//!
//! May touch: its table. Knows nothing of trees.

use rusqlite::{Connection, params};

use crate::digest::{DiffId, Digest};

/// Equal samples mean files that may be equal.
#[derive(Clone, Debug)]
pub(crate) struct FileRow {
    pub(crate) sample: Digest,
    /// In the layer's tree, `/a/b`.
    pub(crate) path: Vec<u8>,
}

/// So many are tried.
const CANDIDATES: usize = 4;

/// Files with this sample.
pub(crate) fn like(connection: &Connection, sample: Digest) -> rusqlite::Result<Vec<(DiffId, Vec<u8>)>> {
    let mut statement =
        connection.prepare_cached("SELECT diff_id, path FROM files WHERE sample = ?1 LIMIT ?2")?;
    let limit = i64::try_from(CANDIDATES).unwrap_or(1);
    statement.query_map(params![sample, limit], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

pub(crate) fn insert(connection: &Connection, diff_id: DiffId, files: &[FileRow]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO files VALUES (?1, ?2, ?3)")?;
    files.iter().try_for_each(|file| statement.execute(params![file.sample, diff_id, file.path]).map(drop))
}

pub(crate) fn remove(connection: &Connection, diff_id: DiffId) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM files WHERE diff_id = ?1")?.execute([diff_id]).map(drop)
}
