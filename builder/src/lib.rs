//! The image builder: Containerfile in, image out.
//!
//! A build folds instructions over a draft of an image: each either changes the config or seals one
//! new layer, and its key says whether that was done before.
//!
//! May touch: the store and the sandbox, through their front doors. Knows nothing of terminals.
#![forbid(unsafe_code)]

pub mod containerfile;
pub mod context;
pub mod lint;
pub mod progress;
pub mod stage_graph;
