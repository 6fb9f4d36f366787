//! Seal: an upper directory becomes a layer without a byte of it being written again.
//!
//! May touch: the scratch, and what `layers` lends. Knows nothing of what wrote the scratch.

use std::os::fd::AsFd;

use super::import::Staged;
use super::share::share;
use super::{Layer, Layers, SealOptions};
use crate::StoreError;
use crate::archive::pack::pack;
use crate::archive::unpack::flag;
use crate::digest::DiffId;
use crate::index::layers::LayerRow;
use crate::scratch::Scratch;

pub(super) fn seal(layers: Layers<'_>, scratch: Scratch, options: SealOptions) -> Result<Layer, StoreError> {
    let store = layers.store;
    let root_changed =
        scratch.root_changed().map_err(StoreError::io("look at", scratch.path.join("upper")))?;
    let Scratch { path, upper, work, folder, .. } = scratch;
    drop(work);
    let layer = folder
        .make_inside("layer", rustix::fs::Mode::RWXU)
        .map_err(StoreError::io("make a folder in", &path))?;
    let staged = Staged { folder, layer };
    let recipe = staged.recipe_file(store)?;
    let packed = pack(upper.as_fd(), store.overlay, options.clamp_mtime_seconds, root_changed, recipe)?;
    rustix::fs::renameat(&staged.folder.dir, "upper", &staged.layer, "tree")
        .map_err(StoreError::io("move", path.join("upper")))?;
    let shared = share(store, &staged.folder, staged.layer.as_fd())?;
    let row = LayerRow {
        layer: Layer {
            diff_id: DiffId(packed.digest),
            tar_size_bytes: packed.tar_size_bytes,
            entry_count: packed.entry_count,
        },
        disk_size_bytes: packed.disk_size_bytes,
        gaps: if root_changed { flag::ROOT_GIVEN } else { 0 },
        cloned_bytes: shared.saved_bytes,
        synced: false,
        boot_id: store.boot_id()?.to_owned(),
    };
    layers.publish(&staged.folder, &row, &shared.files)?;
    Ok(row.layer)
}
