//! Media types: the OCI names, and Docker's names for the same things.
//!
//! May touch: its arguments. Knows nothing of disk or network.

use crate::archive::compress::Compression;

pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// What a descriptor points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Index,
    Manifest,
    Config,
    Layer,
}

/// Tells what a media type names; `None` for what is no part of an image.
pub fn kind(media_type: &str) -> Option<Kind> {
    // Layers "not for distribution" are layers like others once their bytes are there.
    let of_layer = |prefix: &str| {
        let rest = media_type.strip_prefix(prefix);
        rest.is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
    };
    match media_type {
        INDEX | DOCKER_INDEX => Some(Kind::Index),
        MANIFEST | DOCKER_MANIFEST => Some(Kind::Manifest),
        CONFIG | DOCKER_CONFIG => Some(Kind::Config),
        _ if of_layer(LAYER)
            || of_layer("application/vnd.oci.image.layer.nondistributable.v1.tar")
            || of_layer(DOCKER_LAYER)
            || of_layer("application/vnd.docker.image.rootfs.foreign.diff.tar") =>
        {
            Some(Kind::Layer)
        }
        _ => None,
    }
}

/// The OCI name of a layer packed so; `None` when OCI has none.
pub fn layer(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::None => Some(LAYER),
        Compression::Gzip => Some(LAYER_GZIP),
        Compression::Zstd => Some(LAYER_ZSTD),
        Compression::Xz | Compression::Bzip2 => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_of_names_are_known_and_nothing_else() {
        for (media_type, expected) in [
            (INDEX, Some(Kind::Index)),
            (DOCKER_INDEX, Some(Kind::Index)),
            (DOCKER_MANIFEST, Some(Kind::Manifest)),
            (CONFIG, Some(Kind::Config)),
            (LAYER, Some(Kind::Layer)),
            (LAYER_ZSTD, Some(Kind::Layer)),
            (DOCKER_LAYER_GZIP, Some(Kind::Layer)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Kind::Layer)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Kind::Layer)),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
            ("application/vnd.oci.image.layer.v1.tarball", None),
            ("application/vnd.docker.distribution.manifest.v1+prettyjws", None),
            ("application/vnd.in-toto+json", None),
            ("", None),
        ] {
            assert_eq!(kind(media_type), expected, "{media_type}");
        }
    }
}
