//! Manifests: one config and its packed layers (OCI image-spec, manifest.md; Docker schema 2).
//!
//! May touch: its arguments. Knows nothing of disk or network.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::or_default;
use super::descriptor::Descriptor;
use super::json::{self, DocumentError};
use super::media_type::{self, Kind};

const WHAT: &str = "image manifest";

/// The whole document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub config: Descriptor,
    #[serde(default, deserialize_with = "or_default")]
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Puts a manifest in OCI form together.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            config,
            layers,
            annotations: BTreeMap::new(),
        }
    }

    /// Reads a manifest; what could also be read as an index is refused.
    pub fn read(bytes: &[u8]) -> Result<Self, DocumentError> {
        let wrong = |problem: String| DocumentError::Wrong { what: WHAT, problem };
        let keys = json::keys(bytes);
        if keys.contains("manifests") {
            return Err(wrong("could as well be an index: it has `manifests`".to_owned()));
        }
        if keys.contains("fslayers") || keys.contains("signatures") {
            return Err(wrong("is of Docker's first schema, which is not supported".to_owned()));
        }
        let manifest: Self = json::read(WHAT, bytes)?;
        if manifest.schema_version != 2 {
            return Err(wrong(format!("has schema version {}, not 2", manifest.schema_version)));
        }
        if let Some(named) = &manifest.media_type
            && media_type::kind(named) != Some(Kind::Manifest)
        {
            return Err(wrong(format!("says that it is `{}`", named.escape_debug())));
        }
        if media_type::kind(&manifest.config.media_type) != Some(Kind::Config) {
            let found = manifest.config.media_type.escape_debug();
            return Err(wrong(format!("is not of an image: its config is `{found}`")));
        }
        let is_layer = |layer: &&Descriptor| media_type::kind(&layer.media_type) == Some(Kind::Layer);
        if let Some(other) = manifest.layers.iter().find(|layer| !is_layer(layer)) {
            let found = other.media_type.escape_debug();
            return Err(wrong(format!("is not of an image: a layer is `{found}`")));
        }
        Ok(manifest)
    }

    pub fn write(&self) -> Vec<u8> {
        json::write(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let config = Descriptor::of(media_type::CONFIG, b"{}");
        let layer = Descriptor::of(media_type::LAYER_GZIP, b"x");
        let mut value = serde_json::to_value(Manifest::new(config, vec![layer])).unwrap();
        change(&mut value);
        serde_json::to_vec(&value).unwrap()
    }

    #[test]
    fn a_manifest_reads_back_as_it_was_written() {
        let manifest = Manifest::read(&document(|_| {})).unwrap();
        assert_eq!(Manifest::read(&manifest.write()).unwrap(), manifest);
        // Docker's names and a missing media type are as good.
        assert!(
            Manifest::read(&document(|value| value["mediaType"] = media_type::DOCKER_MANIFEST.into()))
                .is_ok()
        );
        assert!(
            Manifest::read(&document(|value| drop(value.as_object_mut().unwrap().remove("mediaType"))))
                .is_ok()
        );
        assert!(Manifest::read(&document(|value| value["layers"] = serde_json::Value::Null)).is_ok());
    }

    #[test]
    fn what_is_ambiguous_or_no_image_is_refused() {
        let refused = |bytes: &[u8], word: &str| {
            let error = Manifest::read(bytes).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        refused(&document(|value| value["manifests"] = serde_json::json!([])), "index");
        refused(&document(|value| value["Manifests"] = serde_json::json!([])), "index");
        refused(&document(|value| value["fsLayers"] = serde_json::json!([])), "first schema");
        refused(&document(|value| value["schemaVersion"] = 1.into()), "schema version");
        refused(&document(|value| value["mediaType"] = media_type::INDEX.into()), "says that it is");
        refused(&document(|value| value["config"]["mediaType"] = "application/x".into()), "config");
        refused(&document(|value| value["layers"][0]["mediaType"] = "text/html".into()), "layer");
        refused(&document(|value| value["layers"][0]["digest"] = "sha256:../..".into()), "not valid");
        refused(&document(|value| value["layers"] = serde_json::json!({})), "not valid");
        refused(b"[]", "not valid");
    }
}
