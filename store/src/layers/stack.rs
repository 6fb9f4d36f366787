//! Stacks: layers, bottom to top, as trees to mount.
//!
//! May touch: the trees of layers. Knows nothing of mounts.

use std::os::fd::OwnedFd;

use super::Layers;
use crate::StoreError;
use crate::archive::unpack::flag;
use crate::digest::DiffId;

/// The trees of a stack, opened, bottom to top; what an overlay is mounted from.
///
/// While it lives, no collector takes its layers: keep it as long as the mount.
#[derive(Debug)]
pub struct Stack {
    pub trees: Vec<OwnedFd>,
    /// Which of them gives the root directory's attributes.
    pub(crate) root_tree: Option<usize>,
}

pub(super) fn open(layers: &Layers<'_>, stack: &[DiffId]) -> Result<Stack, StoreError> {
    let mut trees = Vec::with_capacity(stack.len() + 1);
    let mut root_tree = None;
    for diff_id in stack {
        let row = layers.row(*diff_id)?.ok_or(StoreError::MissingLayer(*diff_id))?;
        if row.gaps & flag::OPAQUE_ROOT != 0 {
            trees.clear();
            root_tree = None;
        }
        trees.push(layers.open_tree(*diff_id)?.ok_or(StoreError::MissingLayer(*diff_id))?);
        if row.gaps & flag::ROOT_GIVEN != 0 {
            root_tree = Some(trees.len() - 1);
        }
    }
    Ok(Stack { trees, root_tree })
}

impl Stack {
    /// A stack of one tree that is no layer: a folder of the host shown in a mount.
    pub fn of_tree(tree: OwnedFd) -> Self {
        Self { trees: vec![tree], root_tree: None }
    }
}
