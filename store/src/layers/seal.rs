//! Seal.
use super::{Layer, Layers, SealOptions};
use crate::StoreError;
use crate::scratch::Scratch;

pub(super) fn seal(layers: &Layers<'_>, scratch: Scratch, options: SealOptions) -> Result<Layer, StoreError> {
    todo!("{layers:?} {scratch:?} {options:?}")
}
