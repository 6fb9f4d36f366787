//! Where a packed tree goes: into a hash and a recipe, or into a stream.
//!
//! May touch: the stream given. Knows nothing of trees.

use std::io::{self, Write};

use crate::archive::recipe::RecipeWriter;
use crate::digest::Hasher;

/// Takes a tar in pieces.
pub(super) trait Sink {
    /// Bytes of headers and padding.
    fn literal(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Says that the content of `path` comes next: `size_bytes` of it.
    fn begin_content(&mut self, path: &[u8], size_bytes: u64) -> io::Result<()>;

    fn content(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Hashes a tar that goes by and writes its recipe.
pub(super) struct HashAndRecipe<W: Write> {
    recipe: RecipeWriter<W>,
    hasher: Hasher,
    literal: Vec<u8>,
}

impl<W: Write> HashAndRecipe<W> {
    pub(super) fn new(recipe: W) -> io::Result<Self> {
        let literal = Vec::with_capacity(64 << 10);
        Ok(Self { recipe: RecipeWriter::new(recipe)?, hasher: Hasher::new(), literal })
    }

    /// Ends the recipe; the hash is of all that went by.
    pub(super) fn finish(mut self) -> io::Result<Hasher> {
        self.flush()?;
        self.recipe.finish()?.flush()?;
        Ok(self.hasher)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.literal);
        self.recipe.literal(&self.literal)?;
        self.literal.clear();
        Ok(())
    }
}

impl<W: Write> Sink for HashAndRecipe<W> {
    fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.literal.extend_from_slice(bytes);
        if self.literal.len() > 32 << 10 { self.flush() } else { Ok(()) }
    }

    fn begin_content(&mut self, path: &[u8], size_bytes: u64) -> io::Result<()> {
        self.flush()?;
        self.recipe.content(path, &[(0, size_bytes)])
    }

    fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        Ok(())
    }
}

/// The tar itself.
pub(super) struct Stream<'w>(pub(super) &'w mut dyn Write);

impl Sink for Stream<'_> {
    fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn begin_content(&mut self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
}
