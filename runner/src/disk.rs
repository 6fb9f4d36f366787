//! What a folder takes on disk, as `du` counts.
//!
//! May touch: files' metadata. Knows nothing of what they are.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Of each block that `st_blocks` counts, whatever the file system's own.
const BLOCK_BYTES: u64 = 512;

/// The bytes below a folder and its own; a file with several names counts once, what goes meanwhile not at all.
pub(crate) fn size_of(folder: &Path) -> io::Result<u64> {
    let mut size_bytes = 0;
    let mut seen = HashSet::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        if found.nlink() == 1 || found.is_dir() || seen.insert((found.dev(), found.ino())) {
            size_bytes += found.blocks() * BLOCK_BYTES;
        }
        if found.is_dir() {
            match fs::read_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => {
                    for entry in other? {
                        left.push(entry?.path());
                    }
                }
            }
        }
    }
    Ok(size_bytes)
}
