//! Unpacks a layer's tar into a tree in overlay form, and writes its recipe.
//!
//! ```text
//! <layer>/tree/        entries, one by one; parents by descriptor, never through a link
//! <layer>/recipe       see `recipe`
//! <layer>/displaced/   content that later entries replaced
//! <layer>/gaps         what only a lower layer can say: parents without an entry, links to its files
//! ```
//! The tree is private until it is whole, so its only enemy is the archive itself. Links inside the
//! layer are resolved component by component to a real path, which is what the recipe names.
//! Times of directories are set last: each child would change them.
//!
//! May touch: the layer's folder given. Knows nothing of the store or of lower layers.

use std::io::{BufRead, Write};
use std::os::fd::BorrowedFd;

use super::read::{Entry, Kind, TarReader};
use super::recipe::RecipeWriter;
use super::whiteout::{self, Meaning};
use super::{ArchiveError, LIMITS, lossy};
use crate::OverlayForm;

mod attributes;
mod gaps;
mod parent;
mod tree;

pub(crate) use attributes::{DEVICE_XATTR, is_carried};
pub(crate) use gaps::{Gaps, flag};
use tree::TreeWriter;

/// What came of an archive.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) entry_count: u64,
    /// About what the files take on disk.
    pub(crate) disk_size_bytes: u64,
    /// Bits of [`flag`].
    pub(crate) gap_flags: u32,
}

type Result<T> = std::result::Result<T, ArchiveError>;

/// Unpacks all of `input` into `layer`, which holds an empty `tree/`.
pub(crate) fn unpack(
    input: impl BufRead,
    layer: BorrowedFd<'_>,
    overlay: OverlayForm,
    recipe: impl Write,
) -> Result<Unpacked> {
    let mut reader = TarReader::new(input);
    let mut recipe = RecipeWriter::new(recipe).map_err(recipe_error)?;
    let mut tree = TreeWriter::new(layer, overlay)?;
    let mut unpacked_bytes = 0_u64;
    let mut entry_count = 0;
    while let Some(entry) = reader.next()? {
        recipe.literal(&std::mem::take(&mut reader.literal)).map_err(recipe_error)?;
        entry_count += 1;
        let real_size = entry.sparse.as_ref().map_or(entry.size_bytes, |sparse| sparse.real_size_bytes);
        unpacked_bytes = unpacked_bytes.saturating_add(real_size);
        if unpacked_bytes > LIMITS.unpacked_bytes {
            return Err(ArchiveError::TooMuch { what: "bytes of all files", limit: LIMITS.unpacked_bytes });
        }
        take_entry(&mut reader, &mut recipe, &mut tree, &entry)?;
    }
    reader.finish(|bytes| recipe.literal(bytes).map_err(recipe_error))?;
    recipe.finish().and_then(|mut out| out.flush()).map_err(recipe_error)?;
    let disk_size_bytes = tree.disk_size_bytes;
    Ok(Unpacked { entry_count, disk_size_bytes, gap_flags: tree.finish()? })
}

fn take_entry<R: BufRead, W: Write>(
    reader: &mut TarReader<R>,
    recipe: &mut RecipeWriter<W>,
    tree: &mut TreeWriter<'_>,
    entry: &Entry,
) -> Result<()> {
    let path = clean(&entry.path)?;
    let Some(name) = path.last() else {
        return tree.set_root(entry);
    };
    let is_mark = matches!(entry.kind, Kind::File | Kind::HardLink);
    let bad = |why| ArchiveError::BadEntry { path: lossy(&entry.path), why };
    match whiteout::meaning(name) {
        Meaning::Plain => {}
        Meaning::Invalid => return Err(bad("it is a whiteout of nothing")),
        _ if !is_mark => return Err(bad("it is named like a whiteout, but is no regular file")),
        Meaning::Hides(hidden) => {
            tree.hide(&path, hidden, entry)?;
            return skip_content(reader, recipe);
        }
        Meaning::HidesAll => {
            tree.hide_all(&path, entry)?;
            return skip_content(reader, recipe);
        }
        Meaning::Bookkeeping => return skip_content(reader, recipe),
    }
    match entry.kind {
        Kind::File => take_file(reader, recipe, tree, entry, &path),
        Kind::Directory => tree.directory(&path, entry),
        Kind::HardLink => tree.hard_link(&path, &clean(&entry.link)?, entry),
        Kind::Symlink => tree.symlink(&path, entry),
        Kind::Character | Kind::Block | Kind::Fifo => tree.device(&path, entry),
    }
}

fn take_file<R: BufRead, W: Write>(
    reader: &mut TarReader<R>,
    recipe: &mut RecipeWriter<W>,
    tree: &mut TreeWriter<'_>,
    entry: &Entry,
    path: &[&[u8]],
) -> Result<()> {
    let mut file = tree.open_file(path, entry)?;
    if entry.size_bytes > 0 {
        let whole = [(0, entry.size_bytes)];
        let regions = entry.sparse.as_ref().map_or(&whole[..], |sparse| &sparse.regions);
        recipe.content(&file.path, regions).map_err(recipe_error)?;
        for (offset, length) in regions {
            let mut left = *length;
            if entry.sparse.is_some() {
                file.seek(*offset)?;
            }
            while left > 0 {
                let bytes = reader.content()?;
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                file.write(&bytes[..count])?;
                reader.consume(count);
                left -= count as u64;
            }
        }
    }
    tree.close_file(&file, entry)
}

/// Makes what one entry describes, empty, as `tree/<name>`: what its attributes come to on this file system.
pub(crate) fn make_one(
    layer: BorrowedFd<'_>,
    overlay: OverlayForm,
    name: &[u8],
    entry: &Entry,
) -> Result<()> {
    let mut tree = TreeWriter::new(layer, overlay)?;
    match entry.kind {
        Kind::File => tree.open_file(&[name], entry).and_then(|file| tree.close_file(&file, entry))?,
        Kind::Directory => tree.directory(&[name], entry)?,
        Kind::Symlink => tree.symlink(&[name], entry)?,
        Kind::HardLink => {}
        Kind::Character | Kind::Block | Kind::Fifo => tree.device(&[name], entry)?,
    }
    tree.finish().map(drop)
}

/// Content of what makes no file stays in the recipe.
fn skip_content<R: BufRead, W: Write>(reader: &mut TarReader<R>, recipe: &mut RecipeWriter<W>) -> Result<()> {
    loop {
        let bytes = reader.content()?;
        if bytes.is_empty() {
            return Ok(());
        }
        recipe.literal(bytes).map_err(recipe_error)?;
        let count = bytes.len();
        reader.consume(count);
    }
}

/// The components of a path, `.` and inner `..` resolved; none for the root.
pub(crate) fn clean(path: &[u8]) -> Result<Vec<&[u8]>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() {
                    return Err(ArchiveError::EscapingEntry { path: lossy(path) });
                }
            }
            _ => parts.push(part),
        }
    }
    Ok(parts)
}

fn recipe_error(source: std::io::Error) -> ArchiveError {
    ArchiveError::Entry { doing: "write the recipe of", path: "the layer".to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        for (path, expected) in [
            (&b"a/b"[..], Some("a/b")),
            (b"./a//b/.", Some("a/b")),
            (b"/abs", Some("abs")),
            (b"./", Some("")),
            (b"a/../b", Some("b")),
            (b"../x", None),
            (b"a/../../x", None),
            (b"..", None),
        ] {
            let parts = clean(path).ok().map(|parts| String::from_utf8(parts.join(&b'/')).unwrap());
            assert_eq!(parts.as_deref(), expected, "{}", lossy(path));
        }
    }
}
