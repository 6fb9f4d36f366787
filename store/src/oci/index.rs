//! Indexes: several manifests, each for a platform (OCI image-spec, image-index.md; Docker manifest lists).
//!
//! May touch: its arguments. Knows nothing of disk or network.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::or_default;
use super::descriptor::Descriptor;
use super::json::{self, DocumentError};
use super::media_type::{self, Kind};
use super::platform::Platform;

const WHAT: &str = "image index";

/// The whole document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}

/// The `oci-layout` file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutMark {
    #[serde(rename = "imageLayoutVersion")]
    pub version: String,
}

impl ImageIndex {
    /// Puts an index in OCI form together.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            manifests,
            annotations: BTreeMap::new(),
        }
    }

    /// Reads an index; what could also be read as a manifest is refused.
    pub fn read(bytes: &[u8]) -> Result<Self, DocumentError> {
        let wrong = |problem: String| DocumentError::Wrong { what: WHAT, problem };
        let keys = json::keys(bytes);
        if ["layers", "config", "fslayers"].iter().any(|key| keys.contains(*key)) {
            return Err(wrong("could as well be a manifest: it has `layers` or `config`".to_owned()));
        }
        let index: Self = json::read(WHAT, bytes)?;
        if index.schema_version != 2 {
            return Err(wrong(format!("has schema version {}, not 2", index.schema_version)));
        }
        if let Some(named) = &index.media_type
            && media_type::kind(named) != Some(Kind::Index)
        {
            return Err(wrong(format!("says that it is `{}`", named.escape_debug())));
        }
        Ok(index)
    }

    pub fn write(&self) -> Vec<u8> {
        json::write(self)
    }

    /// The manifest (or nested index) for `wanted`: the first that fits; one without a platform fits last.
    pub fn choose(&self, wanted: &Platform) -> Option<&Descriptor> {
        let mut images = self.manifests.iter().filter(|manifest| !manifest.is_attestation());
        let fits = |manifest: &&Descriptor| {
            manifest.platform.as_ref().is_some_and(|offered| wanted.accepts(offered))
        };
        images.clone().find(fits).or_else(|| images.find(|manifest| manifest.platform.is_none()))
    }

    /// The platforms that there are images for, for an error.
    pub fn platforms(&self) -> String {
        let images = self.manifests.iter().filter(|manifest| !manifest.is_attestation());
        let names: Vec<String> =
            images.filter_map(|manifest| manifest.platform.as_ref()).map(Platform::to_string).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

impl LayoutMark {
    pub fn write() -> Vec<u8> {
        json::write(&Self { version: "1.0.0".to_owned() })
    }

    /// Checks that `bytes` are an `oci-layout` file of the one version there is.
    pub fn check(bytes: &[u8]) -> Result<(), DocumentError> {
        let mark: Self = json::read("oci-layout file", bytes)?;
        if mark.version.starts_with("1.") {
            return Ok(());
        }
        let problem = format!("is of version `{}`, not 1", mark.version.escape_debug());
        Err(DocumentError::Wrong { what: "oci-layout file", problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: Option<&str>, content: &[u8]) -> Descriptor {
        let mut descriptor = Descriptor::of(media_type::MANIFEST, content);
        descriptor.platform = platform.map(|text| text.parse().unwrap());
        descriptor
    }

    #[test]
    fn the_image_for_this_platform_is_chosen() {
        let here: Platform = "linux/amd64".parse().unwrap();
        let mut attestation = entry(None, b"c");
        attestation.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
        let index = ImageIndex::new(vec![
            attestation,
            entry(Some("linux/arm64"), b"a"),
            entry(Some("linux/amd64"), b"b"),
        ]);
        assert_eq!(index.choose(&here), index.manifests.get(2));
        assert_eq!(index.choose(&"linux/s390x".parse().unwrap()), None);
        assert_eq!(index.platforms(), "linux/arm64, linux/amd64");
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        let good = ImageIndex::new(vec![entry(None, b"a")]);
        assert_eq!(ImageIndex::read(&good.write()).unwrap(), good);
        for (key, value) in [
            ("layers", serde_json::json!([])),
            ("Config", serde_json::json!({})),
            ("schemaVersion", 3.into()),
            ("mediaType", media_type::MANIFEST.into()),
        ] {
            let mut document = serde_json::to_value(&good).unwrap();
            document[key] = value;
            assert!(ImageIndex::read(&serde_json::to_vec(&document).unwrap()).is_err(), "{key}");
        }
        assert!(LayoutMark::check(&LayoutMark::write()).is_ok());
        assert!(LayoutMark::check(br#"{"imageLayoutVersion":"2.0.0"}"#).is_err());
    }
}
