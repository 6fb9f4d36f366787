//! Space: what the store's layers, blobs and cached steps take on disk.
//!
//! ```text
//! images        layers and blobs that images need
//! build cache   layers that cached steps need and no image
//! ```
//! Sizes are those that the collector counts (`gc`), so what is shown is what can be freed.
//!
//! May touch: rows. Knows nothing of folders.

use rusqlite::Connection;

use crate::digest::DiffId;
use crate::index::Count;
use crate::{Store, StoreError};

/// Counts and bytes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub layers: u64,
    pub layers_bytes: u64,
    /// Of the layers' bytes, those that share blocks with an older layer, and so take nothing.
    pub cloned_bytes: u64,
    pub images: u64,
    /// Images that a container was made from.
    pub images_in_use: u64,
    pub images_bytes: u64,
    pub cache_steps: u64,
    /// Cached steps whose layer an image has.
    pub cache_steps_in_use: u64,
    pub cache_bytes: u64,
}

/// A layer, and who needs it.
#[derive(Clone, Debug)]
pub struct LayerUse {
    pub diff_id: DiffId,
    pub tar_size_bytes: u64,
    pub disk_size_bytes: u64,
    pub cloned_bytes: u64,
    pub images: u64,
}

/// A cached step.
#[derive(Clone, Debug)]
pub struct CachedStep {
    pub key: String,
    pub place: String,
    /// On disk, of its layer.
    pub size_bytes: u64,
    /// Seconds since 1970.
    pub created: i64,
    /// Seconds since 1970.
    pub used: i64,
    /// An image has its layer too.
    pub in_use: bool,
}

const IN_IMAGE: &str = "EXISTS (SELECT 1 FROM image_layers WHERE diff_id = l.diff_id)";
const CACHED: &str = "EXISTS (SELECT 1 FROM cache WHERE layer = l.diff_id)";

impl Store {
    /// Counts what is there.
    pub fn space(&self) -> Result<Space, StoreError> {
        self.index.read("count what the store holds", |connection| {
            // One moment for all counts.
            let transaction = connection.unchecked_transaction()?;
            let number = |query: &str| number(&transaction, query);
            let layers = |what: &str, condition: &str| {
                number(&format!("SELECT coalesce(sum({what}), 0) FROM layers AS l WHERE {condition}"))
            };
            let blobs = number(
                "SELECT coalesce(sum(size), 0) FROM blobs AS b
                 WHERE EXISTS (SELECT 1 FROM images WHERE id = b.digest OR manifest = b.digest)
                    OR EXISTS (SELECT 1 FROM image_layers WHERE diff_id = b.diff_id)",
            )?;
            let cached_blobs = number(&format!(
                "SELECT coalesce(sum(b.size), 0) FROM blobs AS b JOIN layers AS l USING (diff_id)
                 WHERE {CACHED} AND NOT {IN_IMAGE}"
            ))?;
            Ok(Space {
                layers: layers("1", "1")?,
                layers_bytes: layers("disk_size", "1")?,
                cloned_bytes: layers("cloned_size", "1")?,
                images: number("SELECT count(*) FROM images")?,
                images_in_use: number(
                    "SELECT count(*) FROM images AS i
                     WHERE EXISTS (SELECT 1 FROM containers WHERE image_id = i.id)",
                )?,
                images_bytes: layers("disk_size", IN_IMAGE)? + blobs,
                cache_steps: number("SELECT count(*) FROM cache")?,
                cache_steps_in_use: number(
                    "SELECT count(*) FROM cache AS c
                     WHERE EXISTS (SELECT 1 FROM image_layers WHERE diff_id = c.layer)",
                )?,
                cache_bytes: layers("disk_size", &format!("{CACHED} AND NOT {IN_IMAGE}"))? + cached_blobs,
            })
        })
    }

    /// All layers, oldest first, with the number of images that have each.
    pub fn layer_uses(&self) -> Result<Vec<LayerUse>, StoreError> {
        self.index.read("list layers", |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT diff_id, tar_size, disk_size, cloned_size,
                        (SELECT count(DISTINCT image_id) FROM image_layers WHERE diff_id = l.diff_id)
                 FROM layers AS l ORDER BY sequence",
            )?;
            let read = |row: &rusqlite::Row<'_>| {
                let count = |column: usize| row.get::<_, Count>(column).map(|count| count.0);
                Ok(LayerUse {
                    diff_id: row.get(0)?,
                    tar_size_bytes: count(1)?,
                    disk_size_bytes: count(2)?,
                    cloned_bytes: count(3)?,
                    images: count(4)?,
                })
            };
            statement.query_map([], read)?.collect()
        })
    }

    /// All cached steps, oldest first.
    pub fn cached_steps(&self) -> Result<Vec<CachedStep>, StoreError> {
        self.index.read("list cached steps", |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT key, place, coalesce((SELECT disk_size FROM layers WHERE diff_id = c.layer), 0),
                        created, used, EXISTS (SELECT 1 FROM image_layers WHERE diff_id = c.layer)
                 FROM cache AS c ORDER BY created, key",
            )?;
            let read = |row: &rusqlite::Row<'_>| {
                Ok(CachedStep {
                    key: row.get(0)?,
                    place: row.get(1)?,
                    size_bytes: row.get::<_, Count>(2)?.0,
                    created: row.get(3)?,
                    used: row.get(4)?,
                    in_use: row.get(5)?,
                })
            };
            statement.query_map([], read)?.collect()
        })
    }
}

fn number(connection: &Connection, query: &str) -> rusqlite::Result<u64> {
    connection.query_row(query, [], |row| row.get::<_, Count>(0)).map(|count| count.0)
}
