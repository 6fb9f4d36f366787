//! The build context and other trees that COPY and ADD take files from.
//!
//! ```text
//! Source = a root directory (host folder, or a stack mounted read-only)
//!        + what of it may be seen (ignore rules, for the context)
//!        + what its files hashed to before (memory, for the context)
//! ```
//!
//! A file that the rules ignore is never opened, hashed or copied. Every access goes through
//! [`RootDir`], so links and `..` stay inside.
//!
//! May touch: the folder given. Knows nothing of stores, sandboxes, stages.

pub mod ignore;
pub mod memory;
pub mod path_pattern;
pub mod pattern;
pub mod select;
pub mod walk;
pub mod xattrs;

use std::sync::Mutex;

use store::RootDir;

use ignore::IgnoreRules;
use memory::Memory;

/// A tree that files are taken from.
#[derive(Debug)]
pub struct Source {
    pub root: RootDir,
    pub rules: IgnoreRules,
    /// Learns as files are hashed.
    pub memory: Mutex<Memory>,
    /// Files keep their owners (a stage, an image); else they become root's (the context).
    pub keeps_owners: bool,
}

impl Source {
    /// A tree in which everything may be seen: a stage or an image.
    pub fn of_stack(root: RootDir) -> Self {
        Self { root, rules: IgnoreRules::default(), memory: Mutex::default(), keeps_owners: true }
    }
}
