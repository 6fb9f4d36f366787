//! Image names.

/// A full image name: `registry/path:tag` or `registry/path@digest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// `docker.io`, `localhost`, `127.0.0.1:5000`.
    pub registry: String,
    /// `library/debian`.
    pub path: String,
    pub tag: Option<String>,
    pub digest: Option<crate::Digest>,
}

impl std::fmt::Display for Reference {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}
