//! Files and folders that appear whole or not at all, durably.
//!
//! ```text
//! O_TMPFILE in the folder of PATH ─write, fsync→ link as a hidden name ─rename→ PATH ─fsync of the folder
//! ```
//! A file that is killed half-way was never in the folder. Where the file system knows no `O_TMPFILE`
//! the hidden name is there from the start.
//!
//! May touch: the paths given. Knows nothing of what is written.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

const BUFFER_BYTES: usize = 256 << 10;

/// Writes a file in place of what was there; a device or a pipe is written to, not replaced.
pub(crate) fn write_file<T>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let context = || format!("cannot write {}", path.display());
    if path.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        let output = File::options().write(true).open(path).with_context(context)?;
        if output.is_terminal() {
            bail!("{} is a terminal: name a file", path.display());
        }
        return write_all(&output, write).with_context(context);
    }
    // A link stays a link.
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let half = beside(path).with_context(context)?;
    let unnamed = rustix::fs::open(parent(path), OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, FILE_MODE);
    let (output, is_named) = match unnamed {
        Ok(output) => (File::from(output), false),
        Err(_) => (File::create_new(&half).with_context(context)?, true),
    };
    let put = || -> anyhow::Result<T> {
        let written = write_all(&output, write)?;
        output.sync_all()?;
        if !is_named {
            let open = format!("/proc/self/fd/{}", output.as_raw_fd());
            rustix::fs::linkat(CWD, open, CWD, &half, AtFlags::SYMLINK_FOLLOW)?;
        }
        fs::rename(&half, path)?;
        sync_folder(parent(path))?;
        Ok(written)
    };
    let result = put().with_context(context);
    if result.is_err() {
        // Best effort: the error above says what went wrong.
        drop(fs::remove_file(&half));
    }
    result
}

/// Makes a folder in place of an empty one or of none; what `fill` writes it has synced.
pub(crate) fn make_folder<T>(
    path: &Path,
    fill: impl FnOnce(&Path) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let context = || format!("cannot write {}", path.display());
    if path.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty: name a new folder", path.display());
    }
    let half = beside(path).with_context(context)?;
    fs::create_dir(&half).with_context(context)?;
    let put = || -> anyhow::Result<T> {
        let filled = fill(&half)?;
        fs::rename(&half, path)?;
        sync_folder(parent(path))?;
        Ok(filled)
    };
    let result = put().with_context(context);
    if result.is_err() {
        // Best effort: the error above says what went wrong.
        drop(fs::remove_dir_all(&half));
    }
    result
}

/// Writes through a buffer.
pub(crate) fn write_all<T>(
    output: &File,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut output = BufWriter::with_capacity(BUFFER_BYTES, output);
    let written = write(&mut output)?;
    output.flush()?;
    Ok(written)
}

/// What `open(2)` and the umask make of a file that nothing is said about.
const FILE_MODE: Mode =
    Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP).union(Mode::WGRP).union(Mode::ROTH).union(Mode::WOTH);

/// A hidden name beside `path`, which no other process uses.
fn beside(path: &Path) -> anyhow::Result<PathBuf> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".rbuild-{:016x}", u64::from_ne_bytes(random)));
    Ok(parent(path).join(name))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    match File::open(path)?.sync_all() {
        // Some file systems have nothing to sync there.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}
