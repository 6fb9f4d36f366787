//! `--chown` and USER: names looked up in the image's own `passwd` and `group`.
//!
//! May touch: the mounted tree's two files. Knows nothing of the host's users.

use std::fs::File;
use std::io::Read;

use runner::process;
use runner::sandbox::plan::User;
use rustix::fs::{FileType, OFlags};
use store::{ImagePath, RootDir};

use super::StepError;
use crate::context::walk::Stat;

/// A user database that is larger is an attack on our memory (CVE-2026-47262).
const LIMIT_BYTES: u64 = process::ACCOUNTS_BYTES_MAX as u64;

/// Resolves `user[:group]` as a process would have it.
pub fn user(root: &RootDir, spec: &str) -> Result<User, StepError> {
    let passwd = read_small(root, "/etc/passwd")?;
    let group = read_small(root, "/etc/group")?;
    Ok(process::resolve_user(spec, &passwd, &group)?)
}

/// Resolves `user[:group]` of `--chown`: a number without a group is its own group's number too.
pub fn owner(root: &RootDir, spec: &str) -> Result<(u32, u32), StepError> {
    if let Ok(number) = spec.parse::<u32>() {
        return Ok((number, number));
    }
    let resolved = user(root, spec)?;
    Ok((resolved.uid, resolved.gid))
}

/// Reads a regular file of the image; a missing one is empty.
fn read_small(root: &RootDir, path: &str) -> Result<Vec<u8>, StepError> {
    let failed = |source| StepError::Io { doing: format!("read {path} of the image"), source };
    let Ok(opened) = root.open(&ImagePath::new(path), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
    else {
        return Ok(Vec::new());
    };
    let stat = Stat::of_open(&opened).map_err(failed)?;
    if stat.kind != FileType::RegularFile || stat.size_bytes > LIMIT_BYTES {
        return Err(StepError::Invalid(format!("{path} of the image is no ordinary small file")));
    }
    let mut bytes = Vec::new();
    File::from(opened).take(LIMIT_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
