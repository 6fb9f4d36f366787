//! A root file system as a tar: the one layer of a new image.
//!
//! May touch: the stream given, the store through its methods. Knows nothing of Containerfiles: what
//! changes the config is applied by the caller.

use std::io::Read;

use super::{Loaded, TransferError};
use crate::layers::Expected;
use crate::oci::config::{ContainerConfig, History, ImageConfig, RootFs};
use crate::oci::json;
use crate::oci::platform::Platform;
use crate::{Reference, Store};

/// What the image says beside its layer.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    pub config: ContainerConfig,
    pub platform: Platform,
    /// RFC 3339.
    pub created: String,
    /// The comment of its one line of history.
    pub message: String,
    pub name: Option<Reference>,
}

/// Makes an image of a tar of any compression.
pub fn import_root(
    store: &Store,
    packed: &mut (dyn Read + Send),
    options: ImportOptions,
) -> Result<Loaded, TransferError> {
    let imported = store.layers().import(packed, Expected::default(), false);
    let imported =
        imported.map_err(|source| TransferError::Layer { name: "root file system".to_owned(), source })?;
    let config = ImageConfig {
        created: Some(options.created.clone()),
        architecture: options.platform.architecture,
        os: options.platform.os,
        variant: options.platform.variant,
        config: options.config,
        rootfs: RootFs { diff_ids: vec![imported.layer.diff_id], ..RootFs::default() },
        history: vec![History {
            created: Some(options.created),
            comment: Some(options.message),
            ..History::default()
        }],
        ..ImageConfig::default()
    };
    let image = store.images().add(&json::write(&config), None)?;
    let names = super::set_names(store, options.name.into_iter().collect(), image)?;
    Ok(Loaded { image, names })
}
