//! Images: a config over a stack of layers, and the names that point at them.
//!
//! ```text
//! name ─→ image ID = hash of the config ─→ layers, bottom to top
//!                                       └→ manifest, when it came with one
//! ```
//!
//! An image is there as soon as its row is; a name is the last thing that is written, after all
//! that it leads to has reached the disk. Removing goes the other way round: rows, then bytes.
//!
//! May touch: its tables. Knows nothing of how an image came in.

use crate::digest::{BlobId, DiffId, Digest, ImageId};
use crate::gc::Collected;
use crate::index::images as rows;
use crate::index::{Commit, containers};
use crate::oci::config::ImageConfig;
use crate::oci::json::{self, DocumentError};
use crate::{Reference, Store, StoreError};

/// The images of a store.
#[derive(Clone, Copy, Debug)]
pub struct Images<'s> {
    pub(crate) store: &'s Store,
}

/// An image that the store holds.
#[derive(Clone, Debug)]
pub struct Image {
    pub id: ImageId,
    pub config: ImageConfig,
    /// Bottom to top, as in the config's `rootfs`.
    pub layers: Vec<DiffId>,
    /// The manifest it came with, when it came with one (its bytes are a blob).
    pub manifest: Option<BlobId>,
    pub names: Vec<Reference>,
    /// Of the uncompressed layers.
    pub size_bytes: u64,
}

/// What was taken away, or would be.
#[derive(Clone, Debug)]
pub struct Pruned {
    pub images: Vec<Image>,
    pub collected: Collected,
}

/// What a prune takes.
#[derive(Clone, Copy, Debug)]
pub struct PruneOptions {
    /// Images with names too.
    pub all: bool,
    /// A layer that a cached step came to stays.
    pub keep_cache: bool,
}

/// What came of the removal of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    Done,
    /// By the containers with these names; nothing was removed.
    UsedBy(Vec<String>),
    /// It got one more name meanwhile; nothing was removed.
    Renamed,
}

/// Why there is no such image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("more than one image has an ID that starts with `{0}`")]
    Ambiguous(String),
    #[error("cannot read the config of image {id}")]
    Config { id: ImageId, source: DocumentError },
}

impl Images<'_> {
    /// Finds an image by name, `name@digest`, ID or a unique beginning of an ID (docker's rules).
    ///
    /// A name is looked for before the beginning of an ID, so an image may be called `cafe`.
    pub fn find(&self, name: &str) -> Result<Option<Image>, StoreError> {
        match self.find_id(name)? {
            Some(id) => self.get(id),
            None => Ok(None),
        }
    }

    /// Whether `name` is (the beginning of) an ID rather than a name, for an image that [`Self::find`] finds.
    pub fn is_id(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.find_by_reference(name)?.is_none())
    }

    /// The image with this ID.
    pub fn get(&self, id: ImageId) -> Result<Option<Image>, StoreError> {
        let found = self.store.index.read("find an image", |connection| {
            let row = rows::find(connection, id)?;
            row.map(|row| Ok((row, rows::names(connection, id)?))).transpose()
        })?;
        found.map(|(row, names)| image(&row, &names)).transpose()
    }

    /// All images, newest first.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let found = self.store.index.read("list images", |connection| {
            let rows = rows::list(connection)?.into_iter();
            rows.map(|row| Ok((rows::names(connection, row.id)?, row))).collect::<rusqlite::Result<Vec<_>>>()
        })?;
        found.into_iter().map(|(names, row)| image(&row, &names)).collect()
    }

    /// Records an image from the exact bytes of its config; every layer must be here.
    pub fn add(&self, config: &[u8], manifest: Option<BlobId>) -> Result<ImageId, StoreError> {
        let id = ImageId(Digest::of(config));
        let layers = parse(id, config)?.rootfs.diff_ids;
        for layer in &layers {
            // Asked here and not of the rows alone: a layer that was lost in a power cut does not count.
            if !self.store.layers().contains(*layer)? {
                return Err(StoreError::MissingLayer(*layer));
            }
        }
        let missing = self.store.index.write("record an image", Commit::Soon, |transaction| {
            rows::insert(transaction, id, config, manifest, &layers)
        })?;
        match missing {
            Some(layer) => Err(StoreError::MissingLayer(layer)),
            None => Ok(id),
        }
    }

    /// Remembers the manifest that an image without one went out with: it is the image's digest from now on.
    pub fn set_manifest(&self, image: ImageId, manifest: BlobId) -> Result<(), StoreError> {
        let set = |transaction: &rusqlite::Transaction<'_>| rows::set_manifest(transaction, image, manifest);
        self.store.index.write("remember a manifest", Commit::Soon, set)
    }

    /// The exact bytes of an image's config.
    pub fn config_bytes(&self, id: ImageId) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self.store.index.read("find an image", |connection| rows::find(connection, id))?;
        Ok(row.map(|row| row.config))
    }

    /// Points `name` at `image`, durably, and returns what it pointed at before.
    pub fn set_name(&self, name: &Reference, image: ImageId) -> Result<Option<ImageId>, StoreError> {
        let before = self.set_names(std::slice::from_ref(name), image)?;
        Ok(before.into_iter().next().flatten())
    }

    /// Points all `names` at `image`, durably and at once; returns what each pointed at before.
    pub fn set_names(&self, names: &[Reference], image: ImageId) -> Result<Vec<Option<ImageId>>, StoreError> {
        // The commit below makes durable what this one leaves to it.
        self.store.sync_layers(Commit::Soon)?;
        self.store.index.write("name an image", Commit::Durable, |transaction| {
            // A collector in another process may have taken it since it was recorded.
            if rows::find(transaction, image)?.is_none() {
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            let set = |name: &Reference| rows::set_name(transaction, &key(name), image);
            names.iter().map(set).collect()
        })
    }

    /// Takes a name away; the image stays.
    pub fn remove_name(&self, name: &Reference) -> Result<bool, StoreError> {
        let remove = |transaction: &rusqlite::Transaction<'_>| rows::remove_name(transaction, &key(name));
        self.store.index.write("take a name away", Commit::Durable, remove)
    }

    /// Takes names away, all or none; returns the first that is not there.
    pub fn remove_names(&self, names: &[Reference]) -> Result<Option<Reference>, StoreError> {
        self.store.index.write("take names away", Commit::Durable, |transaction| {
            for name in names {
                if rows::named(transaction, &key(name))?.is_none() {
                    return Ok(Some(name.clone()));
                }
            }
            names.iter().try_for_each(|name| rows::remove_name(transaction, &key(name)).map(drop))?;
            Ok(None)
        })
    }

    /// Takes an image and its names away, and every layer and blob that nothing else needs.
    ///
    /// Layers that this process has in flight do not count as needed: see [`Store::collect`].
    pub fn remove(&self, image: ImageId) -> Result<(), StoreError> {
        let remove = |transaction: &rusqlite::Transaction<'_>| rows::remove(transaction, image);
        self.store.index.write("remove an image", Commit::Durable, remove)?;
        self.store.collect(true, false).map(drop)
    }

    /// As [`Self::remove`], if it still has just the names it was seen with and no container was made from it.
    pub fn remove_as_seen(&self, seen: &Image) -> Result<Removal, StoreError> {
        let removal = self.store.index.write("remove an image", Commit::Durable, |transaction| {
            let users = rows::containers(transaction, seen.id)?;
            if !users.is_empty() {
                return Ok(Removal::UsedBy(users));
            }
            let names = rows::names(transaction, seen.id)?;
            let is_seen = |name: &String| seen.names.iter().any(|seen| key(seen) == *name);
            if !names.iter().all(is_seen) {
                return Ok(Removal::Renamed);
            }
            rows::remove(transaction, seen.id)?;
            Ok(Removal::Done)
        })?;
        if removal == Removal::Done {
            self.store.collect(true, false)?;
        }
        Ok(removal)
    }

    /// Takes away images that no container was made from (without `all`: only those without a name),
    /// and every layer and blob that nothing else needs; without `keep_cache` the build cache too.
    pub fn prune(&self, all: bool, keep_cache: bool, dry_run: bool) -> Result<Pruned, StoreError> {
        self.prune_chosen(self.list()?, PruneOptions { all, keep_cache }, dry_run.then_some(&[]))
    }

    /// As [`Self::prune`], of these images only. With `as_without` nothing is changed, and it is told what
    /// would go if the containers with these IDs were not there.
    pub fn prune_chosen(
        &self,
        mut images: Vec<Image>,
        options: PruneOptions,
        as_without: Option<&[String]>,
    ) -> Result<Pruned, StoreError> {
        let mut removed = Vec::new();
        // Inside the transaction: a container or a name may point at one of them since it was listed.
        let mut remove = |connection: &rusqlite::Connection| -> rusqlite::Result<()> {
            for id in as_without.unwrap_or_default() {
                containers::remove(connection, id)?;
            }
            for image in images.drain(..) {
                let is_taken = options.all || rows::names(connection, image.id)?.is_empty();
                let is_free = is_taken && rows::containers(connection, image.id)?.is_empty();
                if is_free && rows::remove(connection, image.id)? {
                    removed.push(image);
                }
            }
            Ok(())
        };
        let collected = if as_without.is_some() {
            self.store.foresee_after(options.keep_cache, &mut remove)?
        } else {
            self.store.index.write("remove images", Commit::Durable, |transaction| remove(transaction))?;
            self.store.collect(options.keep_cache, false)?
        };
        Ok(Pruned { images: removed, collected })
    }

    /// The names of the containers that were made from an image.
    pub fn containers(&self, image: ImageId) -> Result<Vec<String>, StoreError> {
        self.store.index.read("list containers", |connection| rows::containers(connection, image))
    }

    fn find_id(self, name: &str) -> Result<Option<ImageId>, StoreError> {
        if let Ok(digest) = name.parse::<Digest>().or_else(|_| Digest::from_hex(name)) {
            let id = ImageId(digest);
            return Ok(self.config_bytes(id)?.map(|_| id));
        }
        if let Some(id) = self.find_by_reference(name)? {
            return Ok(Some(id));
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if !(2..64).contains(&hex.len()) || !hex.bytes().all(is_hex) {
            return Ok(None);
        }
        let prefix = format!("sha256:{hex}");
        let found =
            self.store.index.read("find an image", |connection| rows::starting_with(connection, &prefix))?;
        match found[..] {
            [] => Ok(None),
            [id] => Ok(Some(id)),
            _ => Err(ImageError::Ambiguous(hex.to_owned()).into()),
        }
    }

    fn find_by_reference(self, name: &str) -> Result<Option<ImageId>, StoreError> {
        let Ok(reference) = name.parse::<Reference>() else {
            return Ok(None);
        };
        let reference = reference.or_latest();
        self.store.index.read("find a name", |connection| {
            let Some(digest) = reference.digest else {
                return rows::named(connection, &key(&reference));
            };
            // With a digest the tag says nothing: the digest decides.
            let by_digest = Reference { tag: None, ..reference.clone() };
            if let Some(id) = rows::named(connection, &key(&by_digest))? {
                return Ok(Some(id));
            }
            for id in rows::with_manifest(connection, BlobId(digest))? {
                let names = rows::names(connection, id)?;
                let of_repository = |name: &Reference| name.repository() == reference.repository();
                if names.iter().filter_map(|name| name.parse().ok()).any(|name| of_repository(&name)) {
                    return Ok(Some(id));
                }
            }
            Ok(None)
        })
    }
}

/// What a name is kept under.
fn key(name: &Reference) -> String {
    name.clone().or_latest().full()
}

fn parse(id: ImageId, config: &[u8]) -> Result<ImageConfig, StoreError> {
    Ok(json::read("image config", config).map_err(|source| ImageError::Config { id, source })?)
}

fn image(row: &rows::ImageRow, names: &[String]) -> Result<Image, StoreError> {
    let config = parse(row.id, &row.config)?;
    Ok(Image {
        id: row.id,
        layers: config.rootfs.diff_ids.clone(),
        config,
        manifest: row.manifest,
        names: names.iter().filter_map(|name| name.parse().ok()).collect(),
        size_bytes: row.size_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store in which images without layers can be recorded.
    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        (folder, store)
    }

    fn add(store: &Store, architecture: &str) -> ImageId {
        let config = format!(r#"{{"architecture":"{architecture}","os":"linux"}}"#);
        store.images().add(config.as_bytes(), None).unwrap()
    }

    fn name(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn an_image_is_found_by_any_name_it_has_and_by_its_id() {
        let (_folder, store) = store();
        let images = store.images();
        let id = add(&store, "amd64");
        assert_eq!(images.set_name(&name("debian"), id).unwrap(), None);
        assert_eq!(images.set_name(&name("quay.io/me/app:1"), id).unwrap(), None);
        let hex = id.0.hex();
        for text in [
            "debian",
            "debian:latest",
            "docker.io/library/debian",
            "index.docker.io/debian",
            "quay.io/me/app:1",
            &id.to_string(),
            &hex,
            &hex[..12],
            &hex[..2],
            &format!("sha256:{}", &hex[..12]),
        ] {
            assert_eq!(images.find(text).unwrap().unwrap().id, id, "{text}");
        }
        for text in
            ["debian:12", "me/app:1", "", "..", &hex[..1], "sha256:", "Debian", "zz", &hex.to_uppercase()]
        {
            assert!(images.find(text).unwrap().is_none(), "{text}");
        }
        let found = images.get(id).unwrap().unwrap();
        let names: Vec<String> = found.names.iter().map(Reference::to_string).collect();
        assert_eq!(names, ["debian:latest", "quay.io/me/app:1"]);
    }

    #[test]
    fn a_name_wins_over_the_beginning_of_an_id_and_two_ids_are_ambiguous() {
        let (_folder, store) = store();
        let images = store.images();
        // 300 images: by the pigeonhole principle two of them share their first two digits.
        let ids: Vec<ImageId> = (0..300).map(|number| add(&store, &number.to_string())).collect();
        let start = |id: &ImageId| id.0.hex()[..2].to_owned();
        let (first, second) = ids
            .iter()
            .enumerate()
            .find_map(|(place, id)| {
                ids[..place].iter().find(|other| start(other) == start(id)).map(|other| (*other, *id))
            })
            .unwrap();
        let ambiguous = images.find(&start(&first)).unwrap_err();
        assert!(ambiguous.to_string().contains("more than one"), "{ambiguous}");
        images.set_name(&name(&start(&first)), second).unwrap();
        assert_eq!(images.find(&start(&first)).unwrap().unwrap().id, second);
        assert!(!images.is_id(&start(&first)).unwrap());
        assert_eq!(images.list().unwrap()[0].id, ids[299], "newest first");
    }

    #[test]
    fn a_name_moves_and_goes_and_the_image_stays() {
        let (_folder, store) = store();
        let images = store.images();
        let [one, two] = ["a", "b"].map(|architecture| add(&store, architecture));
        images.set_name(&name("app"), one).unwrap();
        assert_eq!(images.set_name(&name("app:latest"), two).unwrap(), Some(one));
        assert!(images.get(one).unwrap().unwrap().names.is_empty());
        assert!(images.remove_name(&name("docker.io/library/app")).unwrap());
        assert!(!images.remove_name(&name("app")).unwrap());
        assert!(images.find("app").unwrap().is_none());
        assert_eq!(images.list().unwrap().len(), 2);
        images.remove(two).unwrap();
        assert!(images.get(two).unwrap().is_none());
        assert!(images.set_name(&name("app"), two).is_err(), "a name never points at nothing");
    }

    #[test]
    fn what_was_named_or_used_since_it_was_looked_at_stays() {
        let (_folder, store) = store();
        let images = store.images();
        let ids = ["a", "b", "c"].map(|architecture| add(&store, architecture));
        let seen = images.list().unwrap();
        images.set_name(&name("late"), ids[0]).unwrap();
        store.containers().add("1", "user", ids[1]).unwrap();
        let options = PruneOptions { all: false, keep_cache: true };
        let foreseen = images.prune_chosen(seen.clone(), options, Some(&[])).unwrap();
        assert_eq!(foreseen.images.iter().map(|image| image.id).collect::<Vec<_>>(), [ids[2]]);
        let without = images.prune_chosen(seen.clone(), options, Some(&["1".to_owned()])).unwrap();
        assert_eq!(without.images.len(), 2);
        assert_eq!(images.list().unwrap().len(), 3, "a dry run changes nothing");
        assert_eq!(images.prune_chosen(seen.clone(), options, None).unwrap().images.len(), 1);

        let of = |id: ImageId| seen.iter().find(|image| image.id == id).unwrap();
        assert_eq!(images.remove_as_seen(of(ids[0])).unwrap(), Removal::Renamed);
        assert_eq!(images.remove_as_seen(of(ids[1])).unwrap(), Removal::UsedBy(vec!["user".to_owned()]));
        assert_eq!(images.list().unwrap().len(), 2);
        store.containers().remove("1").unwrap();
        assert_eq!(images.remove_as_seen(of(ids[1])).unwrap(), Removal::Done);
        assert!(images.get(ids[1]).unwrap().is_none());
    }

    #[test]
    fn names_go_all_or_none() {
        let (_folder, store) = store();
        let images = store.images();
        images.set_names(&[name("a"), name("b")], add(&store, "amd64")).unwrap();
        assert_eq!(images.remove_names(&[name("a"), name("c")]).unwrap(), Some(name("c")));
        assert!(images.find("a").unwrap().is_some());
        assert_eq!(images.remove_names(&[name("a"), name("b")]).unwrap(), None);
        assert!(images.find("a").unwrap().is_none() && images.find("b").unwrap().is_none());
    }

    #[test]
    fn an_image_whose_layer_is_not_here_is_refused() {
        let (_folder, store) = store();
        let layer = Digest::of(b"no such layer");
        let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#);
        let error = store.images().add(config.as_bytes(), None).unwrap_err();
        assert!(matches!(error, StoreError::MissingLayer(missing) if missing.0 == layer), "{error}");
        assert!(store.images().add(b"[]", None).is_err());
        assert!(store.images().list().unwrap().is_empty());
    }

    #[test]
    fn a_digest_finds_the_image_that_came_with_that_manifest() {
        let (_folder, store) = store();
        let images = store.images();
        let manifest = store.blobs().add(b"{}").unwrap();
        let id = images.add(br#"{"os":"linux"}"#, Some(manifest)).unwrap();
        images.set_name(&name("app:1"), id).unwrap();
        assert_eq!(images.find(&format!("app@{manifest}")).unwrap().unwrap().id, id);
        assert_eq!(images.find(&format!("app:2@{manifest}")).unwrap().unwrap().id, id);
        assert!(images.find(&format!("other@{manifest}")).unwrap().is_none());
        assert!(images.find(&format!("app@{}", Digest::of(b"x"))).unwrap().is_none());
    }
}
