//! The image builder: Containerfile in, image out.
//!
//! A build folds instructions over a draft of an image: each either changes the config or seals one
//! new layer, and its key says whether that was done before.
//!
//! ```text
//! input ─parse→ tree ─plan→ stages that the target needs ─one thread each→ draft of the target
//!                                    each stage: base → instruction → step → key ─hit→ layer
//!                                                                              └miss→ scratch → apply → seal
//! draft of the target ─finish→ config → image → names
//! ```
//!
//! May touch: the store and the sandbox, through their front doors. Knows nothing of terminals.
#![forbid(unsafe_code)]

pub mod build;
pub mod cache_key;
pub mod containerfile;
pub mod context;
pub mod draft;
pub mod input;
pub mod lint;
pub mod options;
pub mod plan;
pub mod progress;
pub mod schedule;
pub mod scope;
pub mod stage;
pub mod stage_graph;
pub mod step;

pub use build::Cancel;
pub use input::{Input, InputError};
pub use options::{Options, Platform};
pub use schedule::{Built, build};

use containerfile::Diagnostic;
use stage_graph::StageGraphError;
use step::StepError;
use store::StoreError;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Containerfile can't be understood; the text is kept so that errors can point into it.
    #[error("cannot parse {file}")]
    Syntax { file: String, text: String, diagnostics: Vec<Diagnostic> },
    #[error("cannot plan the build of {file}")]
    Stages { file: String, source: StageGraphError },
    #[error("cannot build {file}, line {line}: {instruction}")]
    Step { file: String, line: usize, instruction: String, source: Box<StepError> },
    #[error("interrupted")]
    Cancelled,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot {doing}")]
    Io { doing: &'static str, source: std::io::Error },
}
