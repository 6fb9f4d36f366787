//! Seal: the upper directory of a scratch becomes a layer.
//!
//! ```text
//! scratch/<…>/upper ─pack→ headers ─→ recipe, hash          one walk, each file read once
//!                        └ content ─→ hash
//! scratch/<…>/upper ─rename→ staging/<…>/layer/tree ─publish→ layers/<diff id>/tree
//! ```
//! Nothing is written twice and nothing is unpacked that was just packed.
//!
//! May touch: `staging/`, the scratch, and what `layers` lends. Knows nothing of mounts, of steps.

use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::os::fd::AsFd;

use rustix::fs::AtFlags;

use super::import::Staged;
use super::{Layer, Layers, SealOptions};
use crate::StoreError;
use crate::archive::pack::{self, PackOptions, Sink};
use crate::archive::recipe::RecipeWriter;
use crate::digest::{DiffId, Hasher};
use crate::index::layers::LayerRow;
use crate::scratch::Scratch;

pub(super) fn seal(layers: &Layers<'_>, scratch: Scratch, options: SealOptions) -> Result<Layer, StoreError> {
    let store = layers.store;
    let staged = Staged::make(store)?;
    let mut sink = Sealer {
        recipe: RecipeWriter::new(staged.recipe_file(store)?)
            .map_err(StoreError::io("write a recipe in", &scratch.path))?,
        hasher: Hasher::new(),
        buffer: vec![0; 256 << 10],
    };
    let pack_options =
        PackOptions { clamp_mtime_seconds: options.clamp_mtime_seconds, strip_overlay_notes: true };
    let packed = pack::pack(scratch.upper.as_fd(), pack_options, &mut sink)
        .map_err(StoreError::io("pack", scratch.path.join("upper")))?;
    let finished =
        sink.recipe.finish().and_then(|out| out.into_inner().map_err(io::IntoInnerError::into_error));
    finished.map_err(StoreError::io("write a recipe in", &scratch.path))?;
    let tar_size_bytes = sink.hasher.count_bytes();
    let diff_id = DiffId(sink.hasher.finish());

    rustix::fs::unlinkat(&staged.layer, "tree", AtFlags::REMOVEDIR)
        .and_then(|()| rustix::fs::renameat(&scratch.folder.dir, "upper", &staged.layer, "tree"))
        .map_err(StoreError::io("move", scratch.path.join("upper")))?;
    let layer = Layer { diff_id, tar_size_bytes, entry_count: packed.entry_count };
    let row = LayerRow {
        layer: layer.clone(),
        disk_size_bytes: packed.content_bytes,
        gaps: 0,
        synced: false,
        boot_id: store.boot_id()?.to_owned(),
    };
    layers.publish(&staged.folder, &row)?;
    Ok(layer)
}

/// Hashes the tar and writes its recipe.
struct Sealer {
    recipe: RecipeWriter<BufWriter<File>>,
    hasher: Hasher,
    buffer: Vec<u8>,
}

impl Sink for Sealer {
    fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.recipe.literal(bytes)
    }

    fn content(&mut self, path: &[u8], mut file: File, size_bytes: u64) -> io::Result<()> {
        let mut left = size_bytes;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            match file.read(&mut self.buffer[..wanted]) {
                Ok(0) => return Err(pack::shrunk(path)),
                Ok(count) => {
                    self.hasher.update(&self.buffer[..count]);
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.recipe.content(path, &[(0, size_bytes)])
    }
}
