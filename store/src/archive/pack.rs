//! Packs a tree.
