//! The index: `SQLite`'s own check, values that mean something, rows that point at what is there.
//!
//! May touch: the index, and manifests, which it only reads. Knows nothing of trees.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, Row};

use super::layer::chain;
use super::{Finding, Severity, Subject};
use crate::digest::{BlobId, DiffId, Digest, ImageId};
use crate::index::Count;
use crate::index::blobs::BlobRow;
use crate::index::images::ImageRow;
use crate::index::layers::LayerRow;
use crate::layers::Layer;
use crate::oci::config::ImageConfig;
use crate::oci::json;
use crate::oci::manifest::Manifest;
use crate::{Reference, Store, StoreError};

/// All rows at one moment.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) images: BTreeMap<ImageId, ImageRow>,
    pub(super) layers: BTreeMap<DiffId, LayerRow>,
    pub(super) blobs: BTreeMap<BlobId, BlobRow>,
    names: Vec<(String, ImageId)>,
    image_layers: BTreeMap<ImageId, Vec<DiffId>>,
    cached: Vec<DiffId>,
    containers: Vec<(String, ImageId)>,
    /// What `SQLite` or a value's own form says.
    broken: Vec<String>,
    /// Layer → the images that have it, by their configs and by the index.
    users: BTreeMap<DiffId, BTreeSet<ImageId>>,
}

pub(super) fn read(store: &Store) -> Result<Snapshot, StoreError> {
    let mut snapshot = Snapshot::default();
    store.index.read("check", |connection| {
        // One moment for all tables.
        let transaction = connection.unchecked_transaction()?;
        snapshot.read_tables(&transaction);
        Ok(())
    })?;
    for (image, layers) in &snapshot.image_layers {
        for layer in layers {
            snapshot.users.entry(*layer).or_default().insert(*image);
        }
    }
    for row in snapshot.images.values() {
        for layer in config(row).into_iter().flat_map(|config| config.rootfs.diff_ids) {
            snapshot.users.entry(layer).or_default().insert(row.id);
        }
    }
    Ok(snapshot)
}

impl Snapshot {
    fn read_tables(&mut self, connection: &Connection) {
        let broken = &mut self.broken;
        let told = table(connection, broken, "PRAGMA integrity_check", |row| row.get::<_, String>(0));
        broken.extend(told.into_iter().filter(|line| line != "ok"));
        let images = table(connection, broken, "SELECT id, config, manifest, size FROM images", |row| {
            let size_bytes = row.get::<_, Count>(3)?.0;
            Ok(ImageRow { id: row.get(0)?, config: row.get(1)?, manifest: row.get(2)?, size_bytes })
        });
        self.images = images.into_iter().map(|row| (row.id, row)).collect();
        let query = "SELECT diff_id, tar_size, disk_size, entry_count, synced, boot_id, gaps, cloned_size FROM layers";
        let layers = table(connection, broken, query, |row| {
            let count = |column: usize| row.get::<_, Count>(column).map(|count| count.0);
            Ok(LayerRow {
                layer: Layer { diff_id: row.get(0)?, tar_size_bytes: count(1)?, entry_count: count(3)? },
                disk_size_bytes: count(2)?,
                synced: row.get(4)?,
                boot_id: row.get(5)?,
                gaps: row.get(6)?,
                cloned_bytes: count(7)?,
            })
        });
        self.layers = layers.into_iter().map(|row| (row.layer.diff_id, row)).collect();
        let blobs = table(connection, broken, "SELECT digest, size, media_type, diff_id FROM blobs", |row| {
            let size_bytes = row.get::<_, Count>(1)?.0;
            Ok(BlobRow { id: row.get(0)?, size_bytes, media_type: row.get(2)?, diff_id: row.get(3)? })
        });
        self.blobs = blobs.into_iter().map(|row| (row.id, row)).collect();
        let query = "SELECT reference, image_id FROM names ORDER BY sequence, reference";
        self.names = table(connection, broken, query, |row| Ok((row.get(0)?, row.get(1)?)));
        let query = "SELECT image_id, diff_id FROM image_layers ORDER BY image_id, position";
        for (image, layer) in table(connection, broken, query, |row| Ok((row.get(0)?, row.get(1)?))) {
            self.image_layers.entry(image).or_default().push(layer);
        }
        let query = "SELECT DISTINCT layer FROM cache WHERE layer IS NOT NULL";
        self.cached = table(connection, broken, query, |row| row.get(0));
        let query = "SELECT name, image_id FROM containers WHERE image_id IS NOT NULL";
        self.containers = table(connection, broken, query, |row| Ok((row.get(0)?, row.get(1)?)));
    }

    /// The names of the images that a damaged thing hits.
    pub(super) fn hit_by(&self, subject: &Subject) -> Vec<String> {
        let mut images: BTreeSet<ImageId> = BTreeSet::new();
        match subject {
            Subject::Image(id) => drop(images.insert(*id)),
            Subject::Layer(id) => images.extend(self.users.get(id).into_iter().flatten()),
            Subject::Blob(id) => {
                let is_own = |row: &&ImageRow| row.manifest == Some(*id) || row.id.0 == id.0;
                images.extend(self.images.values().filter(is_own).map(|row| row.id));
                let layer = self.blobs.get(id).and_then(|row| row.diff_id);
                images.extend(layer.and_then(|layer| self.users.get(&layer)).into_iter().flatten());
            }
            Subject::Name(_) | Subject::Index | Subject::Place(_) => {}
        }
        images.into_iter().flat_map(|id| self.labels(id)).collect()
    }

    fn labels(&self, id: ImageId) -> Vec<String> {
        let familiar =
            |name: &str| name.parse::<Reference>().map_or(name.to_owned(), |name| name.to_string());
        let of_image = self.names.iter().filter(|(_, image)| *image == id);
        let names: Vec<String> = of_image.map(|(name, _)| familiar(name)).collect();
        if names.is_empty() { vec![id.0.hex()[..12].to_owned()] } else { names }
    }
}

/// The rows that can be read; one that can't be is noted.
fn table<T>(
    connection: &Connection,
    broken: &mut Vec<String>,
    query: &str,
    mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Vec<T> {
    let table = query.split("FROM ").nth(1).unwrap_or(query);
    let table = table.split(' ').next().unwrap_or(table).to_owned();
    let mut rows = Vec::new();
    let mut run = || -> rusqlite::Result<()> {
        let mut statement = connection.prepare(query)?;
        let mut found = statement.query([])?;
        while let Some(row) = found.next()? {
            match read(row) {
                Ok(value) => rows.push(value),
                Err(error) => broken.push(format!("a row of table {table} makes no sense: {error}")),
            }
        }
        Ok(())
    };
    if let Err(error) = run() {
        broken.push(format!("table {table} cannot be read: {error}"));
    }
    rows
}

/// The config of an image whose bytes are what its ID says.
pub(super) fn config(row: &ImageRow) -> Option<ImageConfig> {
    if Digest::of(&row.config) != row.id.0 {
        return None;
    }
    json::read("image config", &row.config).ok()
}

/// Findings of the index, worst first in no order.
pub(super) fn check(store: &Store, snapshot: &Snapshot) -> Vec<Finding> {
    let mut found = Findings { snapshot, all: Vec::new() };
    for why in &snapshot.broken {
        found.add(Severity::Damage, Subject::Index, why.clone());
    }
    for row in snapshot.images.values() {
        found.image(store, row);
    }
    let configs: BTreeSet<&ImageId> = snapshot.images.keys().collect();
    for id in snapshot.image_layers.keys().filter(|id| !configs.contains(id)) {
        found.add(Severity::Damage, Subject::Image(*id), "it has layers, but is not in the index".to_owned());
    }
    for (name, id) in &snapshot.names {
        if !configs.contains(id) {
            let why = format!("it points at image {id}, which is not here");
            found.add(Severity::Damage, Subject::Name(name.clone()), why);
        } else if name.parse::<Reference>().is_err() {
            found.add(Severity::Damage, Subject::Name(name.clone()), "it is no name of an image".to_owned());
        }
    }
    for (layer, users) in &snapshot.users {
        if !snapshot.layers.contains_key(layer) && !users.is_empty() {
            found.add(Severity::Damage, Subject::Layer(*layer), "it is not in the index".to_owned());
        }
    }
    for layer in snapshot.cached.iter().filter(|layer| !snapshot.layers.contains_key(layer)) {
        let why = format!("a cached step came to layer {layer}, which is not here: it runs again");
        found.add(Severity::Garbage, Subject::Index, why);
    }
    for (name, id) in snapshot.containers.iter().filter(|(_, id)| !configs.contains(id)) {
        let why = format!("container `{name}` was made from image {id}, which is not here");
        found.add(Severity::Note, Subject::Index, why);
    }
    found.all
}

struct Findings<'s> {
    snapshot: &'s Snapshot,
    all: Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, severity: Severity, subject: Subject, why: String) {
        let images = self.snapshot.hit_by(&subject);
        self.all.push(Finding { severity, subject, path: None, why, images, outcome: None, repaired: false });
    }

    fn image(&mut self, store: &Store, row: &ImageRow) {
        let subject = Subject::Image(row.id);
        let actual = Digest::of(&row.config);
        if actual != row.id.0 {
            self.add(Severity::Damage, subject.clone(), format!("its config hashes to {actual}"));
        }
        let listed = self.snapshot.image_layers.get(&row.id).cloned().unwrap_or_default();
        if let Some(config) = config(row)
            && config.rootfs.diff_ids != listed
        {
            let why = "the index gives it other layers than its config".to_owned();
            self.add(Severity::Damage, subject.clone(), why);
        }
        let sizes: Option<Vec<u64>> = listed
            .iter()
            .map(|layer| self.snapshot.layers.get(layer).map(|row| row.layer.tar_size_bytes))
            .collect();
        if let Some(size) = sizes.map(|sizes| sizes.into_iter().sum::<u64>())
            && size != row.size_bytes
        {
            let why = format!("the index says that it has {} bytes, its layers have {size}", row.size_bytes);
            self.add(Severity::Damage, subject.clone(), why);
        }
        let Some(manifest) = row.manifest else { return };
        if !self.snapshot.blobs.contains_key(&manifest) {
            self.add(Severity::Damage, subject, format!("its manifest {manifest} is not here"));
            return;
        }
        // One that can't be read is damage of the blob.
        if let Ok(bytes) = store.blobs().read(manifest) {
            self.manifest(row.id, &listed, manifest, &bytes);
        }
    }

    fn manifest(&mut self, image: ImageId, layers: &[DiffId], id: BlobId, bytes: &[u8]) {
        let subject = Subject::Image(image);
        let manifest = match Manifest::read(bytes) {
            Ok(manifest) => manifest,
            Err(error) => {
                let why = format!("its manifest {id} makes no sense: {}", chain(&error));
                return self.add(Severity::Damage, subject, why);
            }
        };
        if manifest.config.digest != image.0 || manifest.layers.len() != layers.len() {
            return self.add(Severity::Damage, subject, format!("its manifest {id} is of another image"));
        }
        for (packed, layer) in manifest.layers.iter().zip(layers) {
            let row = self.snapshot.blobs.get(&packed.blob());
            match row {
                _ if packed.digest == layer.0 => {}
                Some(row) if row.diff_id == Some(*layer) => {}
                Some(_) => {
                    let why = format!("the index does not say that blob {} is layer {layer}", packed.digest);
                    self.add(Severity::Damage, subject.clone(), why);
                }
                None => {
                    let why = format!(
                        "blob {}, the packed form of layer {layer}, is not kept: it leaves with another manifest",
                        packed.digest
                    );
                    self.add(Severity::Note, subject.clone(), why);
                }
            }
        }
    }
}
