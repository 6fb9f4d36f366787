//! Warnings.
use crate::containerfile::{Containerfile, Diagnostic};
pub fn check(_: &Containerfile) -> Vec<Diagnostic> { Vec::new() }
