//! What is known of a container, as a file that its process keeps.
//!
//! ```text
//! containers/<id>/
//! ├── lock          locked by the process that runs it, as long as that lives
//! ├── record.json   this; replaced by rename, removed first
//! └── scratch/      what it wrote, once it has ended and is kept
//! ```
//!
//! A record that says "running" while nobody holds the lock is of a process that was killed. A
//! folder without a record and without a lock is half-made or half-removed, and is cleared. A kept
//! or named container also has a row in the index, which keeps its name and its image.
//!
//! May touch: `containers/`. Knows nothing of layers, sandboxes, terminals.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use store::{ImageId, Store};

use super::ContainerError;

/// What is known of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub name: String,
    pub image: ImageId,
    /// As the user named it.
    pub image_name: String,
    pub command: Vec<String>,
    /// Seconds since 1970.
    pub created: u64,
    pub state: State,
    /// Nothing is to stay when it has ended.
    pub remove: bool,
    pub labels: BTreeMap<String, String>,
    /// Volumes without a name, which go with the container.
    pub anonymous_volumes: Vec<String>,
    /// `None` in a record of an older rbuild, which did not say.
    #[serde(default)]
    pub named_volumes: Option<Vec<String>>,
    pub stop_signal: String,
}

/// Where a container is in its life: created → running → exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum State {
    Created,
    Running {
        /// `None` for the moment between the decision to start it and its first instruction.
        process: Option<Started>,
        /// Seconds since 1970.
        since: u64,
    },
    Exited {
        /// `None` when the process that would know was killed.
        code: Option<u8>,
        out_of_memory: bool,
        /// Seconds since 1970; `None` as above.
        at: Option<u64>,
    },
}

/// A process, told from a later one with its number by the time of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub pid: u32,
    /// Clock ticks since boot.
    pub ticks: u64,
}

impl State {
    /// docker's word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running { .. } => "running",
            Self::Exited { .. } => "exited",
        }
    }
}

const LOCK: &str = "lock";
const RECORD: &str = "record.json";
/// What the container wrote, once it has ended.
pub(super) const SCRATCH: &str = "scratch";

/// The folder of a container of this process, locked.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    _lock: File,
}

impl Folder {
    pub(super) fn make(store: &Store, id: &str) -> Result<Self, ContainerError> {
        let path = place(store, id);
        loop {
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                // Left by a cleaner that came between.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(ContainerError::io("make", &path))?,
            }
            let lock =
                File::options().create(true).truncate(false).write(true).mode(0o600).open(path.join(LOCK));
            let lock = match lock {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(ContainerError::io("open", &path.join(LOCK)))?,
            };
            lock.lock().map_err(ContainerError::io("lock", &path))?;
            let links = lock.metadata().map_err(ContainerError::io("look at", &path))?.nlink();
            // A cleaner that came before the lock took the folder for a dead one's.
            if links > 0 {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    pub(super) fn write(&self, record: &Record) -> Result<(), ContainerError> {
        let (place, half) = (self.path.join(RECORD), self.path.join("record.new"));
        let text = serde_json::to_vec(record).expect("strings and numbers are JSON");
        let write = || -> io::Result<()> {
            let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&half)?;
            file.write_all(&text)?;
            fs::rename(&half, &place)
        };
        write().map_err(ContainerError::io("write", &place))
    }

    /// Takes the folder away; the record first, so that half a folder is nobody's container.
    pub(super) fn remove(&self) -> Result<(), ContainerError> {
        remove_folder(&self.path).map_err(ContainerError::io("remove", &self.path))
    }
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_file(path.join(RECORD)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// All containers, newest first, each with the state that it is in.
pub fn list(store: &Store) -> Result<Vec<Record>, ContainerError> {
    let mut records = Vec::new();
    for id in ids(store)? {
        records.extend(read(store, &id)?);
    }
    records.sort_by(|one, other| other.created.cmp(&one.created).then_with(|| one.id.cmp(&other.id)));
    Ok(records)
}

/// Finds a container by name, id, or a beginning that only one id has.
pub fn find(store: &Store, wanted: &str) -> Result<Record, ContainerError> {
    let records = list(store)?;
    let exact = records.iter().find(|record| record.id == wanted || record.name == wanted);
    if let Some(record) = exact {
        return Ok(record.clone());
    }
    let mut beginning =
        records.into_iter().filter(|record| !wanted.is_empty() && record.id.starts_with(wanted));
    match (beginning.next(), beginning.next()) {
        (Some(record), None) => Ok(record),
        (Some(_), Some(_)) => Err(ContainerError::Ambiguous(wanted.to_owned())),
        (None, _) => Err(ContainerError::Unknown(wanted.to_owned())),
    }
}

/// Where the upper directory of a container that has ended lies.
pub fn upper_of(store: &Store, record: &Record) -> PathBuf {
    place(store, &record.id).join(SCRATCH).join("upper")
}

/// Keeps a container that has ended from being removed; `None` while its own process holds it.
pub fn hold(store: &Store, record: &Record) -> Result<Option<File>, ContainerError> {
    let path = place(store, &record.id).join(LOCK);
    let lock = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ContainerError::Unknown(record.name.clone()));
        }
        other => other.map_err(ContainerError::io("open", &path))?,
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(ContainerError::io("lock", &path)(source)),
    }
}

/// What a container's own folder takes on disk: all that it wrote, once it has ended.
pub fn disk_size(store: &Store, record: &Record) -> Result<u64, ContainerError> {
    let path = place(store, &record.id);
    crate::disk::size_of(&path).map_err(ContainerError::io("measure", &path))
}

/// A record whose process was killed is taken away if nothing of it was to stay, and so is half a folder.
pub fn clear_dead(store: &Store) -> Result<(), ContainerError> {
    for id in ids(store)? {
        let path = place(store, &id);
        let Some(_lock) = lock_of_the_dead(&path)? else { continue };
        match read_file(&path)? {
            Some(record) if record.remove => take_away(store, &record)?,
            Some(_) => {}
            None => remove_folder(&path).map_err(ContainerError::io("remove", &path))?,
        }
    }
    Ok(())
}

/// Removes a container that does not run: row, volumes without a name, folder.
pub(super) fn take_away(store: &Store, record: &Record) -> Result<(), ContainerError> {
    store.containers().remove(&record.id)?;
    for volume in &record.anonymous_volumes {
        crate::volumes::remove(store, volume)?;
    }
    let path = place(store, &record.id);
    remove_folder(&path).map_err(ContainerError::io("remove", &path))
}

/// What a container does once it is neither being made nor being started: with a process, or ended.
/// `None` when it is gone.
pub(super) fn settled(store: &Store, id: &str) -> Result<Option<Record>, ContainerError> {
    loop {
        match read(store, id)? {
            // Its own process is about to write what comes next.
            Some(Record { state: State::Created | State::Running { process: None, .. }, .. }) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return Ok(other),
        }
    }
}

/// Waits until the process that runs a container is gone or has let go of it.
pub(super) fn wait_until_free(store: &Store, id: &str) -> Result<(), ContainerError> {
    let path = place(store, id).join(LOCK);
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.and_then(|lock| lock.lock()).map_err(ContainerError::io("lock", &path)),
    }
}

fn read(store: &Store, id: &str) -> Result<Option<Record>, ContainerError> {
    let path = place(store, id);
    let Some(mut record) = read_file(&path)? else { return Ok(None) };
    let is_unfinished = !matches!(record.state, State::Exited { .. });
    if is_unfinished && lock_of_the_dead(&path)?.is_some() {
        // It may have ended between the two looks.
        match read_file(&path)? {
            Some(later) if matches!(later.state, State::Exited { .. }) => return Ok(Some(later)),
            Some(_) => record.state = State::Exited { code: None, out_of_memory: false, at: None },
            None => return Ok(None),
        }
    }
    Ok(Some(record))
}

fn read_file(folder: &Path) -> Result<Option<Record>, ContainerError> {
    let path = folder.join(RECORD);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(ContainerError::io("read", &path))?,
    };
    let record = serde_json::from_slice(&text).map_err(io::Error::from);
    record.map(Some).map_err(ContainerError::io("read", &path))
}

/// The lock, if no process holds it.
fn lock_of_the_dead(folder: &Path) -> Result<Option<File>, ContainerError> {
    let path = folder.join(LOCK);
    let lock = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(ContainerError::io("open", &path))?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(ContainerError::io("lock", &path)(source)),
    }
}

fn ids(store: &Store) -> Result<Vec<String>, ContainerError> {
    let folder = store.root().join("containers");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(ContainerError::io("list", &folder))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let name = entry.map_err(ContainerError::io("list", &folder))?.file_name();
        ids.extend(name.into_string().ok().filter(|name| store::Digest::from_hex(name).is_ok()));
    }
    Ok(ids)
}

fn place(store: &Store, id: &str) -> PathBuf {
    store.root().join("containers").join(id)
}
