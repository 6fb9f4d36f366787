//! Descriptors: an arrow from one document to the bytes that it names (OCI image-spec, descriptor.md).
//!
//! `urls` are read past: bytes come from where the document came from or not at all.
//!
//! May touch: its arguments. Knows nothing of disk or network.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::or_default;
use super::platform::Platform;
use crate::digest::{BlobId, Digest};

/// Where an image's name stands in an index: a whole name or a tag alone.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Where containerd and Docker 25 and later write the whole name.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// What `BuildKit` marks a manifest with that is no image.
const DOCKER_REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Names bytes by media type, digest and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default, deserialize_with = "or_default")]
    pub media_type: String,
    pub digest: Digest,
    #[serde(rename = "size")]
    pub size_bytes: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Describes `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size_bytes: bytes.len() as u64,
            annotations: BTreeMap::new(),
            platform: None,
        }
    }

    pub fn blob(&self) -> BlobId {
        BlobId(self.digest)
    }

    /// Whether it points at a statement about another image (provenance, SBOM), not at an image.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key(DOCKER_REFERENCE_TYPE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::json;

    #[test]
    fn only_a_canonical_digest_and_a_real_size_are_taken() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let parse = |digest: &str, size: &str| {
            let text = format!(r#"{{"mediaType":"x","digest":"{digest}","size":{size}}}"#);
            json::read::<Descriptor>("descriptor", text.as_bytes())
        };
        assert!(parse(&format!("sha256:{hex}"), "0").is_ok());
        for digest in [
            "",
            "sha256:",
            "sha256:../../..",
            &format!("sha512:{hex}{hex}"),
            &format!("sha256:{}", &hex[1..]),
            hex,
        ] {
            assert!(parse(digest, "0").is_err(), "{digest}");
        }
        for size in ["-1", "1.5", "1e3", "\"1\"", "null", "99999999999999999999"] {
            assert!(parse(&format!("sha256:{hex}"), size).is_err(), "{size}");
        }
        assert!(json::read::<Descriptor>("descriptor", br#"{"mediaType":"x","size":1}"#).is_err());
    }
}
