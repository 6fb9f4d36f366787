//! Files with holes: GNU's old form (type `S`) and its PAX forms 0.0, 0.1 and 1.0.
//!
//! May touch: the reader it extends. Knows nothing of disk.

use std::io::BufRead;

use super::pax::Records;
use super::{BLOCK, Entry, Kind, Result, TarReader, bad, pax, text};
use crate::archive::{ArchiveError, LIMITS};

/// Where a file's content goes; the rest of it is holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sparse {
    pub(crate) real_size_bytes: u64,
    /// Offset and length, ascending.
    pub(crate) regions: Vec<(u64, u64)>,
}

impl<R: BufRead> TarReader<R> {
    /// Reads the map of a file with holes, where the entry is one.
    pub(super) fn sparse(
        &mut self,
        header: &[u8; BLOCK],
        entry: &mut Entry,
        records: Records,
    ) -> Result<Option<Sparse>> {
        let gnu = header[156] == b'S';
        if !gnu && !records.sparse.is_sparse {
            return Ok(None);
        }
        if entry.kind != Kind::File || (gnu && records.sparse.is_sparse) {
            return Err(bad(&entry.path, "it has holes in a way that makes no sense"));
        }
        let (real_size, numbers) = if gnu {
            (self.number(&header[483..495])?, self.gnu_map(header)?)
        } else {
            let sparse = records.sparse;
            if let Some(name) = sparse.name {
                self.check_name(&name, "a path")?;
                entry.path = name;
            }
            let real_size =
                sparse.real_size.ok_or_else(|| bad(&entry.path, "its map of holes has no size"))?;
            match (sparse.major.unwrap_or(0), sparse.minor.unwrap_or(0)) {
                (0, 0 | 1) => (real_size, sparse.map),
                (1, 0) => (real_size, self.map_before_content()?),
                _ => return Err(bad(&entry.path, "its map of holes is of an unknown version")),
            }
        };
        let regions = regions(&numbers, real_size, self.content_left)
            .ok_or_else(|| bad(&entry.path, "its map of holes does not fit its content"))?;
        Ok(Some(Sparse { real_size_bytes: real_size, regions }))
    }

    /// The old form: four pairs in the header, 21 in each block that follows.
    fn gnu_map(&mut self, header: &[u8; BLOCK]) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        self.gnu_pairs(&header[386..482], &mut numbers)?;
        let mut more = header[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            self.take_block(&mut block, "a sparse map")?;
            self.gnu_pairs(&block[..504], &mut numbers)?;
            more = block[504] != 0;
        }
        Ok(numbers)
    }

    fn gnu_pairs(&self, fields: &[u8], numbers: &mut Vec<u64>) -> Result<()> {
        for pair in fields.chunks_exact(24) {
            if text(pair).is_empty() {
                break;
            }
            numbers.push(self.number(&pair[..12])?);
            numbers.push(self.number(&pair[12..])?);
        }
        check_count(numbers.len() as u64 / 2)
    }

    /// Version 1.0: decimal lines in whole blocks before the content, counted as content.
    fn map_before_content(&mut self) -> Result<Vec<u64>> {
        let mut lines = MapLines { line: Vec::new(), block: [0; BLOCK], at: BLOCK };
        let count = lines.next(self)?;
        check_count(count)?;
        (0..count * 2).map(|_| lines.next(self)).collect()
    }
}

struct MapLines {
    line: Vec<u8>,
    block: [u8; BLOCK],
    at: usize,
}

impl MapLines {
    fn next<R: BufRead>(&mut self, reader: &mut TarReader<R>) -> Result<u64> {
        self.line.clear();
        loop {
            if self.at == BLOCK {
                if reader.content_left < BLOCK as u64 {
                    return Err(ArchiveError::Truncated { what: "a sparse map" });
                }
                reader.take_block(&mut self.block, "a sparse map")?;
                reader.content_left -= BLOCK as u64;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            if byte == b'\n' {
                return pax::number(&self.line).map_err(|what| reader.malformed(what));
            }
            self.line.push(byte);
            if self.line.len() > 20 {
                return Err(reader.malformed("a sparse map holds no numbers"));
            }
        }
    }
}

fn check_count(count: u64) -> Result<()> {
    if count > LIMITS.sparse_regions {
        return Err(ArchiveError::TooMuch { what: "regions of a sparse file", limit: LIMITS.sparse_regions });
    }
    Ok(())
}

/// Pairs that ascend, stay in the file and add up to the content.
fn regions(numbers: &[u64], real_size: u64, content: u64) -> Option<Vec<(u64, u64)>> {
    if !numbers.len().is_multiple_of(2) {
        return None;
    }
    let mut regions: Vec<(u64, u64)> = Vec::new();
    let (mut end, mut sum) = (0, 0_u64);
    for pair in numbers.chunks_exact(2) {
        let (offset, length) = (pair[0], pair[1]);
        if offset < end {
            return None;
        }
        end = offset.checked_add(length)?;
        sum = sum.checked_add(length)?;
        if length > 0 {
            regions.push((offset, length));
        }
    }
    (end <= real_size && sum == content && i64::try_from(real_size).is_ok()).then_some(regions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_maps_that_fit_are_taken() {
        for (numbers, real_size, content, fits) in [
            (&[0, 5, 10, 5][..], 20, 10, true),
            (&[20, 0], 20, 0, true),
            (&[], 7, 0, true),
            (&[0, 5, 4, 5], 20, 10, false),
            (&[10, 5, 0, 5], 20, 10, false),
            (&[0, 5], 4, 5, false),
            (&[0, 5], 20, 6, false),
            (&[0, u64::MAX, 1, 1], 20, 6, false),
            (&[0], 20, 0, false),
        ] {
            assert_eq!(regions(numbers, real_size, content).is_some(), fits, "{numbers:?}");
        }
    }
}
