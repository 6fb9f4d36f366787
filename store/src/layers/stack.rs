//! Stacks: layers, bottom to top, as trees to mount.
//!
//! May touch: the trees of layers. Knows nothing of mounts.

use std::os::fd::OwnedFd;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::Layers;
use super::repair::{self, Floor};
use crate::archive::DIRECTORY;
use crate::archive::unpack::{Gaps, flag};
use crate::digest::DiffId;
use crate::{Store, StoreError};

/// The trees of a stack, opened, bottom to top; what an overlay is mounted from.
///
/// While it lives, no collector takes its layers: keep it as long as the mount.
#[derive(Debug)]
pub struct Stack {
    pub trees: Vec<OwnedFd>,
    /// Which of them gives the root directory's attributes.
    pub(crate) root_tree: Option<usize>,
}

/// Opens the trees; layers with gaps get the repair of this very stack on top.
pub(super) fn open(layers: Layers<'_>, stack: &[DiffId]) -> Result<Stack, StoreError> {
    let store = layers.store;
    let mut floors: Vec<Floor> = Vec::with_capacity(stack.len());
    let mut root_tree = None;
    for diff_id in uppermost(stack) {
        let row = layers.row(*diff_id)?.ok_or(StoreError::MissingLayer(*diff_id))?;
        if row.gaps & flag::OPAQUE_ROOT != 0 {
            floors.clear();
            root_tree = None;
        }
        let tree = layers.open_tree(*diff_id)?.ok_or(StoreError::MissingLayer(*diff_id))?;
        let gaps = if row.gaps & (flag::PARENTS | flag::LINKS) == 0 {
            Gaps::default()
        } else {
            repair::gaps_of(store, *diff_id)
                .map_err(StoreError::io("read the gaps of", layers.path_of(*diff_id)))?
        };
        if row.gaps & flag::ROOT_GIVEN != 0 {
            root_tree = Some(floors.len());
        }
        floors.push(Floor { diff_id: *diff_id, tree, gaps });
    }
    let has_gaps = floors.iter().any(|floor| floor.gaps != Gaps::default());
    let repair = if has_gaps { Some(repair::open(store, &floors)?) } else { None };
    let mut trees: Vec<OwnedFd> = floors.into_iter().map(|floor| floor.tree).collect();
    if trees.is_empty() {
        trees.push(empty_tree(store)?);
    }
    trees.extend(repair);
    Ok(Stack { trees, root_tree })
}

/// Each layer once, where it is uppermost: it covers all that it did further down, and no overlay
/// takes the same tree twice (`ELOOP`).
fn uppermost(stack: &[DiffId]) -> impl Iterator<Item = &DiffId> {
    let is_last = |(place, diff_id): &(usize, &DiffId)| !stack[place + 1..].contains(diff_id);
    stack.iter().enumerate().filter(is_last).map(|(_, diff_id)| diff_id)
}

/// The tree of the empty stack.
fn empty_tree(store: &Store) -> Result<OwnedFd, StoreError> {
    let failed = || StoreError::io("make", store.root.join("empty"));
    match rustix::fs::mkdirat(&store.dir, "empty", Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed()(errno)),
    }
    let tree = rustix::fs::openat(&store.dir, "empty", DIRECTORY, Mode::empty()).map_err(failed())?;
    rustix::fs::fchmod(&tree, Mode::from_raw_mode(0o755)).map_err(failed())?;
    Ok(tree)
}

impl Stack {
    /// A stack of one tree that is no layer: a folder of the host shown in a mount.
    pub fn of_tree(tree: OwnedFd) -> Self {
        Self { trees: vec![tree], root_tree: None }
    }

    /// Lays the upper directory of a scratch over it, which has taken the root of this stack.
    pub fn put_on_top(&mut self, upper: OwnedFd) {
        self.trees.push(upper);
        self.root_tree = Some(self.trees.len() - 1);
    }
}
