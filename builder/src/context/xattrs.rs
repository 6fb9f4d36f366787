//! Extended attributes as a layer keeps them: read by descriptor, as one sorted byte string.
//!
//! `security.capability` and `user.*` belong to a file; what a security module or an overlay keeps
//! for itself (`security.selinux`, `trusted.*`, `user.overlay.*`, `system.*`) does not travel.
//!
//! May touch: the open file given. Knows nothing of stores, steps.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Name and value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// Largest list and largest value that the kernel has (`xattr(7)`).
const LIMIT: usize = 64 * 1024;

/// Reads what travels with the file.
pub fn read(file: impl AsFd) -> io::Result<Vec<Xattr>> {
    let mut small = [0_u8; 512];
    let names = match rustix::fs::flistxattr(&file, &mut small[..]) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(count) => small[..count].to_vec(),
        Err(Errno::RANGE) => {
            let mut large = vec![0_u8; LIMIT];
            let count = rustix::fs::flistxattr(&file, &mut large[..])?;
            large.truncate(count);
            large
        }
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| travels(name)) {
        let mut value = vec![0_u8; LIMIT];
        let count = rustix::fs::fgetxattr(&file, name, &mut value[..])?;
        value.truncate(count);
        found.push((name.to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}

/// Gives an open file these attributes.
pub fn write(file: impl AsFd, xattrs: &[Xattr]) -> io::Result<()> {
    for (name, value) in xattrs {
        rustix::fs::fsetxattr(&file, &name[..], value, XattrFlags::empty())?;
    }
    Ok(())
}

/// Whether an attribute belongs to the file.
pub fn travels(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// One byte string: lengths (u32, little endian) and bytes in turn.
pub fn encode(xattrs: &[Xattr]) -> Vec<u8> {
    let mut out = Vec::new();
    for bytes in xattrs.iter().flat_map(|(name, value)| [name, value]) {
        let length = u32::try_from(bytes.len()).expect("the kernel has no longer ones");
        out.extend(length.to_le_bytes());
        out.extend(bytes);
    }
    out
}

/// Reads back what [`encode`] wrote.
pub fn decode(mut bytes: &[u8]) -> Vec<Xattr> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (part, rest) = rest.split_at(length.min(rest.len()));
        parts.push(part.to_vec());
        bytes = rest;
    }
    parts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_encoding() {
        let xattrs = vec![(b"user.a".to_vec(), vec![0, 1, 255]), (b"user.b".to_vec(), Vec::new())];
        assert_eq!(decode(&encode(&xattrs)), xattrs);
        assert!(decode(&encode(&[])).is_empty());
    }

    #[test]
    fn bookkeeping_of_others_does_not_travel() {
        for (name, expected) in [
            ("security.capability", true),
            ("user.mime", true),
            ("user.overlay.opaque", false),
            ("trusted.overlay.redirect", false),
            ("security.selinux", false),
            ("system.posix_acl_access", false),
        ] {
            assert_eq!(travels(name.as_bytes()), expected, "{name}");
        }
    }
}
