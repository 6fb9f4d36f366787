//! What the index knows of containers: which names are taken, and which images they need.
//!
//! The records themselves are files in `containers/<id>/`, kept by the runner.
//!
//! May touch: the index. Knows nothing of records, sandboxes, files.

use crate::digest::ImageId;
use crate::index::{Commit, containers};
use crate::{Store, StoreError};

/// The containers of a store.
#[derive(Clone, Copy, Debug)]
pub struct Containers<'s> {
    pub(crate) store: &'s Store,
}

impl Containers<'_> {
    /// Takes `name` for container `id` and keeps `image` for it; or returns the id that has the name.
    pub fn add(&self, id: &str, name: &str, image: ImageId) -> Result<Option<String>, StoreError> {
        self.store.index.write("add a container", Commit::Soon, |transaction| {
            let holder = containers::named(transaction, name)?;
            if holder.is_none() {
                containers::insert(transaction, id, name, image)?;
            }
            Ok(holder)
        })
    }

    /// Lets go of a container's name and image; one that is not there is fine.
    pub fn remove(&self, id: &str) -> Result<bool, StoreError> {
        let known = self.store.index.read("look for a container", |connection| {
            connection.prepare_cached("SELECT 1 FROM containers WHERE id = ?1")?.exists([id])
        })?;
        if !known {
            return Ok(false);
        }
        self.store
            .index
            .write("remove a container", Commit::Soon, |transaction| containers::remove(transaction, id))
    }

    /// The containers that were made from an image, oldest first.
    pub fn of_image(&self, image: ImageId) -> Result<Vec<String>, StoreError> {
        self.store
            .index
            .read("list containers of an image", |connection| containers::of_image(connection, image))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    #[test]
    fn a_name_belongs_to_one_container_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let image = ImageId(Digest::of(b"image"));
        assert_eq!(store.containers().add("1", "web", image).unwrap(), None);
        assert_eq!(store.containers().add("2", "web", image).unwrap(), Some("1".to_owned()));
        assert_eq!(store.containers().add("2", "db", image).unwrap(), None);
        assert_eq!(store.containers().of_image(image).unwrap(), ["1", "2"]);
        assert!(store.containers().remove("1").unwrap());
        assert!(!store.containers().remove("1").unwrap());
        assert_eq!(store.containers().add("3", "web", image).unwrap(), None);
    }
}
