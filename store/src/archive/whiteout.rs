//! Whiteouts: how a layer says that something of a lower layer is gone (OCI image-spec, layer.md).
//!
//! ```text
//! in the tar              in the tree (overlay form)
//! dir/.wh.name            dir/name, a character device 0:0
//! dir/.wh..wh..opq        an extended attribute of dir, `trusted.` or `user.overlay.opaque`
//! .wh..wh.<other>         nothing: bookkeeping of aufs, kept by the recipe only
//! ```
//!
//! May touch: its arguments. Knows nothing of disk.

pub(crate) const PREFIX: &[u8] = b".wh.";
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";

/// What the last component of an entry's path says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'n> {
    Plain,
    /// The name is gone.
    Hides(&'n [u8]),
    /// All that lower layers have in this directory is gone.
    HidesAll,
    /// Of no meaning to us.
    Bookkeeping,
    /// `.wh.` and nothing (or no name) after it.
    Invalid,
}

pub(crate) fn meaning(name: &[u8]) -> Meaning<'_> {
    if name == OPAQUE {
        return Meaning::HidesAll;
    }
    if name.starts_with(AUFS) {
        return Meaning::Bookkeeping;
    }
    match name.strip_prefix(PREFIX) {
        None => Meaning::Plain,
        Some(b"" | b"." | b"..") => Meaning::Invalid,
        Some(hidden) => Meaning::Hides(hidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whiteout_names_one_sibling() {
        for (name, expected) in [
            (&b"file"[..], Meaning::Plain),
            (b".wh", Meaning::Plain),
            (b"x.wh.y", Meaning::Plain),
            (b".wh.file", Meaning::Hides(b"file")),
            (b".wh..hidden", Meaning::Hides(b".hidden")),
            (b".wh....", Meaning::Hides(b"...")),
            (b".wh.wh.", Meaning::Hides(b"wh.")),
            (b".wh.", Meaning::Invalid),
            (b".wh..", Meaning::Invalid),
            (b".wh...", Meaning::Invalid),
            (b".wh..wh..opq", Meaning::HidesAll),
            (b".wh..wh.plnk", Meaning::Bookkeeping),
            (b".wh..wh.aufs", Meaning::Bookkeeping),
        ] {
            assert_eq!(meaning(name), expected, "{}", String::from_utf8_lossy(name));
        }
    }
}
