//! The tree that a tar means, worked out from its headers alone.
//!
//! ```text
//! tar ─read→ entries ─take→ names → what is there     the same steps as `unpack`, in memory
//! ```
//! What `unpack` does to a directory on disk happens here to a map, step for step: the last entry
//! wins, links inside the layer are followed, what is replaced and still needed is displaced. So the
//! result is what a tree on disk must be equal to. It takes a few hundred bytes of memory an entry.
//!
//! May touch: its arguments. Knows nothing of disk.

use std::collections::BTreeMap;
use std::io::BufRead;

use super::read::{Entry, Kind, TarReader};
use super::unpack::{Gaps, clean, flag};
use super::whiteout::{self, Meaning};
use super::{ArchiveError, Time, lossy};

const LINK_BUDGET: u32 = 40;

type Result<T> = std::result::Result<T, ArchiveError>;

/// What a tar leaves in a layer's folder.
#[derive(Debug, Default)]
pub(crate) struct ExpectedTree {
    /// Path without a leading slash → what is there.
    pub(crate) names: BTreeMap<Vec<u8>, Name>,
    pub(crate) inodes: Vec<Inode>,
    /// Replaced files that the recipe still reads.
    pub(crate) displaced: Vec<(Vec<u8>, usize)>,
    pub(crate) gaps: Gaps,
    /// What the root's own entry says.
    pub(crate) root: Option<Entry>,
    pub(crate) entry_count: u64,
    flags: u32,
    /// Path and time, in order of arrival: a later directory of the same path gets them, too.
    times: Vec<(Vec<u8>, Time)>,
    /// Of the entry before, as it is written and where it really is.
    parent: Option<(Vec<u8>, Vec<u8>)>,
}

/// One name in the tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    pub(crate) inode: usize,
    /// Whether the recipe reads content by this name.
    pub(crate) has_content: bool,
}

/// What one or more names lead to.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) made: Made,
    pub(crate) is_opaque: bool,
    /// `None` when nothing says it.
    pub(crate) mtime: Option<Time>,
}

#[derive(Debug)]
pub(crate) enum Made {
    Entry(Box<Entry>),
    /// A directory that no entry describes.
    Parent,
    Whiteout,
}

impl Inode {
    fn kind(&self) -> Kind {
        match &self.made {
            Made::Entry(entry) => entry.kind,
            Made::Parent => Kind::Directory,
            Made::Whiteout => Kind::Character,
        }
    }
}

impl ExpectedTree {
    /// Reads a tar to its end; the content of files is passed over.
    pub(crate) fn read(input: impl BufRead) -> Result<Self> {
        let mut reader = TarReader::new(input);
        let mut tree = Self::default();
        while let Some(entry) = reader.next()? {
            reader.literal.clear();
            tree.entry_count += 1;
            tree.take(entry)?;
        }
        reader.finish(|_| Ok(()))?;
        tree.finish();
        Ok(tree)
    }

    /// Bits of [`flag`].
    pub(crate) fn flags(&self) -> u32 {
        self.flags | self.gaps.flags()
    }

    /// How many names each inode has, displaced ones included.
    pub(crate) fn link_counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.inodes.len()];
        let displaced = self.displaced.iter().map(|(_, inode)| *inode);
        for inode in self.names.values().map(|name| name.inode).chain(displaced) {
            counts[inode] += 1;
        }
        counts
    }

    fn take(&mut self, entry: Entry) -> Result<()> {
        let written = entry.path.clone();
        let path = clean(&written)?;
        let Some((name, dir)) = path.split_last() else {
            self.times.push((Vec::new(), entry.mtime));
            self.flags |= flag::ROOT_GIVEN;
            let before = self.root.take();
            self.root = Some(merged(before, entry));
            return Ok(());
        };
        let bad = |why| ArchiveError::BadEntry { path: lossy(&written), why };
        let is_mark = matches!(entry.kind, Kind::File | Kind::HardLink);
        match whiteout::meaning(name) {
            Meaning::Plain => {}
            Meaning::Invalid => return Err(bad("it is a whiteout of nothing")),
            _ if !is_mark => return Err(bad("it is named like a whiteout, but is no regular file")),
            Meaning::Hides(hidden) => {
                let real = join(&self.enter(dir)?, hidden);
                self.hide(real);
                return Ok(());
            }
            Meaning::HidesAll => {
                let real = self.enter(dir)?;
                if real.is_empty() {
                    self.flags |= flag::OPAQUE_ROOT;
                } else if let Some(name) = self.names.get(&real) {
                    self.inodes[name.inode].is_opaque = true;
                }
                return Ok(());
            }
            Meaning::Bookkeeping => return Ok(()),
        }
        let real = join(&self.enter(dir)?, name);
        match entry.kind {
            Kind::Directory => {
                self.parent = Some((path.join(&b'/'), real.clone()));
                self.directory(&real, entry);
            }
            Kind::HardLink => self.hard_link(real, &path, &entry)?,
            _ => {
                self.clear_way(&real);
                let has_content = entry.kind == Kind::File && entry.size_bytes > 0;
                let mtime = Some(entry.mtime);
                self.put(real, Made::Entry(Box::new(entry)), mtime, has_content);
            }
        }
        Ok(())
    }

    fn put(&mut self, real: Vec<u8>, made: Made, mtime: Option<Time>, has_content: bool) -> &mut Inode {
        self.names.insert(real, Name { inode: self.inodes.len(), has_content });
        self.inodes.push(Inode { made, is_opaque: false, mtime });
        self.inodes.last_mut().expect("one was pushed")
    }

    fn directory(&mut self, real: &[u8], entry: Entry) {
        self.times.push((real.to_vec(), entry.mtime));
        let known = self.names.get(real).map(|name| name.inode);
        match known.map(|inode| &mut self.inodes[inode]) {
            Some(inode) if inode.kind() == Kind::Directory => {
                let before = match std::mem::replace(&mut inode.made, Made::Parent) {
                    Made::Entry(before) => Some(*before),
                    Made::Parent | Made::Whiteout => None,
                };
                inode.made = Made::Entry(Box::new(merged(before, entry)));
            }
            other => {
                let hides = other.is_some_and(|inode| matches!(inode.made, Made::Whiteout));
                if known.is_some() {
                    self.clear_way(real);
                }
                self.put(real.to_vec(), Made::Entry(Box::new(entry)), None, false).is_opaque = hides;
            }
        }
        self.gaps.directories.remove(real);
    }

    fn hard_link(&mut self, real: Vec<u8>, path: &[&[u8]], entry: &Entry) -> Result<()> {
        let bad = |why| ArchiveError::BadEntry { path: lossy(&entry.path), why };
        let target = clean(&entry.link)?;
        let Some((target_name, target_dir)) = target.split_last() else {
            return Err(bad("it is a link to the root"));
        };
        let there = self.find_dir(target_dir).map(|dir| join(&dir, target_name));
        let Some(inode) = there.and_then(|there| self.names.get(&there)).map(|name| name.inode) else {
            self.clear_way(&real);
            self.gaps.links.insert(real, target.join(&b'/'));
            return Ok(());
        };
        if self.inodes[inode].kind() == Kind::Directory {
            return Err(bad("it is a hard link to a directory"));
        }
        if path != target {
            self.clear_way(&real);
            self.names.insert(real, Name { inode, has_content: false });
        }
        Ok(())
    }

    fn hide(&mut self, real: Vec<u8>) {
        match self.names.get(&real).map(|name| &mut self.inodes[name.inode]) {
            None => drop(self.put(real, Made::Whiteout, None, false)),
            Some(inode) if inode.kind() == Kind::Directory => {
                inode.is_opaque = true;
                self.gaps.directories.remove(&real);
            }
            Some(_) => {}
        }
    }

    fn clear_way(&mut self, real: &[u8]) {
        if !self.gaps.directories.is_empty() || !self.gaps.links.is_empty() {
            self.gaps.forget(real);
        }
        let Some(top) = self.names.remove(real) else { return };
        let mut gone = vec![(real.to_vec(), top)];
        if self.inodes[top.inode].kind() == Kind::Directory {
            // `0` is the byte after the slash.
            let (from, to) = ([real, b"/"].concat(), [real, b"0"].concat());
            gone.extend(self.names.range(from..to).map(|(path, name)| (path.clone(), *name)));
        }
        for (path, name) in gone {
            self.names.remove(&path);
            if name.has_content {
                self.displaced.push((path, name.inode));
            }
        }
    }

    /// The real path of a directory that an entry is put into; what is missing is made.
    fn enter(&mut self, dir: &[&[u8]]) -> Result<Vec<u8>> {
        let text = dir.join(&b'/');
        if let Some((written, real)) = &self.parent
            && *written == text
        {
            return Ok(real.clone());
        }
        let bad = |why| ArchiveError::BadEntry { path: lossy(&text), why };
        let mut todo: Vec<Vec<u8>> = dir.iter().rev().map(|part| part.to_vec()).collect();
        let mut real = Vec::new();
        let mut budget = LINK_BUDGET;
        while let Some(name) = todo.pop() {
            if name == b".." {
                pop(&mut real);
                continue;
            }
            let here = join(&real, &name);
            match self.names.get(&here).map(|name| &self.inodes[name.inode]) {
                None => self.make_parent(here.clone(), false),
                Some(Inode { made: Made::Whiteout, .. }) => {
                    self.names.remove(&here);
                    self.make_parent(here.clone(), true);
                }
                Some(inode) if inode.kind() == Kind::Directory => {}
                Some(Inode { made: Made::Entry(entry), .. }) if entry.kind == Kind::Symlink => {
                    budget = budget.checked_sub(1).ok_or_else(|| bad("it lies behind too many links"))?;
                    follow(&entry.link, &mut real, &mut todo);
                    continue;
                }
                Some(_) => return Err(bad("it is no directory, and entries lie in it")),
            }
            real = here;
        }
        self.parent = Some((text, real.clone()));
        Ok(real)
    }

    fn make_parent(&mut self, real: Vec<u8>, is_opaque: bool) {
        if !is_opaque {
            self.gaps.directories.insert(real.clone());
        }
        self.put(real, Made::Parent, None, false).is_opaque = is_opaque;
    }

    /// Finds a directory, links followed; `None` when it is not here.
    fn find_dir(&self, dir: &[&[u8]]) -> Option<Vec<u8>> {
        let mut todo: Vec<Vec<u8>> = dir.iter().rev().map(|part| part.to_vec()).collect();
        let mut real = Vec::new();
        let mut budget = LINK_BUDGET;
        while let Some(name) = todo.pop() {
            if name == b".." {
                pop(&mut real);
                continue;
            }
            let here = join(&real, &name);
            let inode = &self.inodes[self.names.get(&here)?.inode];
            match &inode.made {
                Made::Entry(entry) if entry.kind == Kind::Symlink => {
                    budget = budget.checked_sub(1)?;
                    follow(&entry.link, &mut real, &mut todo);
                }
                _ if inode.kind() == Kind::Directory => real = here,
                _ => return None,
            }
        }
        Some(real)
    }

    fn finish(&mut self) {
        for (path, time) in std::mem::take(&mut self.times) {
            if let Some(name) = self.names.get(&path)
                && let inode = &mut self.inodes[name.inode]
                && inode.kind() == Kind::Directory
            {
                inode.mtime = Some(time);
            }
        }
        self.parent = None;
    }
}

/// A directory's later entry sets all but the attributes that only an earlier one names.
fn merged(before: Option<Entry>, mut entry: Entry) -> Entry {
    for (name, value) in before.into_iter().flat_map(|before| before.xattrs) {
        if !entry.xattrs.iter().any(|(known, _)| *known == name) {
            entry.xattrs.push((name, value));
        }
    }
    entry
}

fn follow(target: &[u8], real: &mut Vec<u8>, todo: &mut Vec<Vec<u8>>) {
    if target.starts_with(b"/") {
        real.clear();
    }
    let parts = target.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    todo.extend(parts.rev().map(<[u8]>::to_vec));
}

fn pop(real: &mut Vec<u8>) {
    real.truncate(real.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}
