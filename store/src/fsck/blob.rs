//! One blob: its file is there, is ours, and hashes to its name.
//!
//! May touch: the blob's file, which it only reads. Knows nothing of what the bytes mean.

use std::fs::File;
use std::io::Read;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::Checked;
use crate::blobs::place_of;
use crate::digest::Hasher;
use crate::index;
use crate::index::blobs::BlobRow;
use crate::{Store, StoreError};

const READ_BYTES: usize = 256 << 10;

pub(super) fn check(store: &Store, row: &BlobRow, quick: bool) -> Result<Checked, StoreError> {
    let mut checked = Checked::default();
    if let Err(why) = look(store, row, quick, &mut checked) {
        checked.damage(None, why);
    }
    if !checked.faults.is_empty() && is_gone(store, row)? {
        // Collected while it was read.
        checked.faults.clear();
    }
    Ok(checked)
}

fn look(store: &Store, row: &BlobRow, quick: bool, checked: &mut Checked) -> Result<(), String> {
    let place = place_of(row.id);
    let stat = match rustix::fs::statat(&store.dir, &place, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Err("it is missing".to_owned()),
        other => other.map_err(|errno| format!("it cannot be looked at: {errno}"))?,
    };
    if let Some(why) = foreign(&stat, FileType::RegularFile) {
        checked.damage(None, why);
    }
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(());
    }
    let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
    if size_bytes != row.size_bytes {
        checked.damage(None, format!("it has {size_bytes} bytes, not {}", row.size_bytes));
    }
    if quick {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&store.dir, &place, flags, Mode::empty())
        .map_err(|errno| format!("it cannot be opened: {errno}"))?;
    let mut file = File::from(file);
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("it cannot be read: {error}")),
        }
    }
    checked.bytes = hasher.count_bytes();
    let actual = hasher.finish();
    if actual != row.id.0 {
        checked.damage(None, format!("its content hashes to {actual}"));
    }
    Ok(())
}

/// What makes a file or folder not one that this store made: another kind, owner, mode, or more names.
pub(super) fn foreign(stat: &Stat, kind: FileType) -> Option<String> {
    let is_directory = kind == FileType::Directory;
    let expected = if is_directory { 0o700 } else { 0o600 };
    if FileType::from_raw_mode(stat.st_mode) != kind {
        return Some(format!("it is no {}", if is_directory { "directory" } else { "regular file" }));
    }
    if stat.st_mode & 0o7777 != expected {
        return Some(format!("its mode is {:04o}, not {expected:04o}", stat.st_mode & 0o7777));
    }
    let own = rustix::process::geteuid().as_raw();
    if stat.st_uid != own {
        return Some(format!("its owner is {}, not {own}", stat.st_uid));
    }
    (!is_directory && stat.st_nlink != 1).then(|| format!("it has {} names", stat.st_nlink))
}

fn is_gone(store: &Store, row: &BlobRow) -> Result<bool, StoreError> {
    let again = store.index.read("look up a blob", |c| index::blobs::find(c, row.id))?;
    Ok(again.is_none())
}
