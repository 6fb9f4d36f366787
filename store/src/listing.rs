//! Listing: what a list of images shows, read from the index alone.
//!
//! No config is parsed: a thousand images take a few queries, whatever their configs hold.
//!
//! May touch: rows. Knows nothing of documents and folders.

use std::collections::HashMap;

use crate::digest::{BlobId, ImageId};
use crate::images::Images;
use crate::index::images as rows;
use crate::{Reference, StoreError};

/// An image as lists show it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub id: ImageId,
    pub manifest: Option<BlobId>,
    /// Oldest first.
    pub names: Vec<Reference>,
    /// Of the uncompressed layers.
    pub size_bytes: u64,
    /// As the config says it (RFC 3339, unchecked).
    pub created: Option<String>,
}

impl Images<'_> {
    /// All images, newest first, without their configs.
    pub fn listed(&self) -> Result<Vec<Listed>, StoreError> {
        let (rows, names) = self.store.index.read("list images", |connection| {
            let transaction = connection.unchecked_transaction()?;
            Ok((rows::listed(&transaction)?, rows::all_names(&transaction)?))
        })?;
        let mut by_image: HashMap<ImageId, Vec<Reference>> = HashMap::with_capacity(rows.len());
        for (id, name) in names {
            by_image.entry(id).or_default().extend(name.parse::<Reference>().ok());
        }
        let listed = |row: rows::ListedRow| Listed {
            names: by_image.remove(&row.id).unwrap_or_default(),
            id: row.id,
            manifest: row.manifest,
            size_bytes: row.size_bytes,
            created: row.created,
        };
        Ok(rows.into_iter().map(listed).collect())
    }

    /// Of each image that has layers in common with another: the bytes of those layers, uncompressed.
    pub fn shared_sizes(&self) -> Result<HashMap<ImageId, u64>, StoreError> {
        let sizes = self.store.index.read("compare images", rows::shared_sizes)?;
        Ok(sizes.into_iter().collect())
    }
}
