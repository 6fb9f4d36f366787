//! The documents of `docker save`: `manifest.json`, and what stood there before it (`repositories`).
//!
//! May touch: its arguments. Knows nothing of disk or network.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::or_default;
use super::json::{self, DocumentError};

/// One image in `manifest.json`; its paths are names of entries of the same archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ArchivedImage {
    pub config: String,
    #[serde(default, deserialize_with = "or_default")]
    pub repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub layers: Vec<String>,
}

/// `repositories`: repository → tag → the ID of the uppermost layer.
pub type Repositories = BTreeMap<String, BTreeMap<String, String>>;

/// Reads `manifest.json`.
pub fn read_manifest(bytes: &[u8]) -> Result<Vec<ArchivedImage>, DocumentError> {
    json::read("manifest.json", bytes)
}

/// Reads `repositories`.
pub fn read_repositories(bytes: &[u8]) -> Result<Repositories, DocumentError> {
    json::read("file `repositories`", bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_writes_null_for_no_tags() {
        let images =
            read_manifest(br#"[{"Config":"a.json","RepoTags":null,"Layers":["b.tar"],"Parent":"x"}]"#)
                .unwrap();
        assert_eq!(images[0].layers, ["b.tar"]);
        assert!(images[0].repo_tags.is_empty());
        assert!(read_manifest(br#"[{"RepoTags":null}]"#).is_err());
        assert!(read_manifest(br#"{"Config":"a.json"}"#).is_err());
        assert!(read_repositories(br#"{"a":{"latest":"b"}}"#).is_ok());
    }
}
