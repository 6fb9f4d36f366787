//! The store as one value: the folder, its index and its small stores.
//!
//! Opening is the hot path of `run`: the folder, its version, the index's format and a look for dead
//! processes' leftovers, nothing more. Everything else is found out when it is first needed.
//!
//! May touch: the store's own folder. Knows nothing of layers' and images' insides.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::archive::ArchiveError;
use crate::blobs::Blobs;
use crate::cache::Cache;
use crate::digest::{BlobId, DiffId, Digest};
use crate::images::Images;
use crate::index::{self, Commit, Index};
use crate::layers::Layers;
use crate::lease::{self, Lease};

pub(crate) const FOLDERS: [&str; 9] =
    ["blobs", "blobs/sha256", "layers", "scratch", "containers", "volumes", "leases", "staging", "trash"];

/// An open store. Threads may share it; other processes may have it open too.
#[derive(Debug)]
pub struct Store {
    pub(crate) root: PathBuf,
    pub(crate) dir: OwnedFd,
    pub(crate) index: Index,
    pub(crate) overlay: OverlayForm,
    dead_leases: Vec<String>,
    lease: Mutex<Option<Arc<Lease>>>,
    /// Layers that this process leans on: locked folders, which no collector takes.
    held: Mutex<HashMap<DiffId, OwnedFd>>,
    has_pins: AtomicBool,
    boot_id: OnceLock<String>,
    /// Whether the file system shares blocks between files, once somebody asked.
    pub(crate) can_clone: OnceLock<bool>,
}

/// Which extended attributes overlayfs reads in this store's trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlayForm {
    /// `trusted.overlay.*`: root of the machine.
    Trusted,
    /// `user.overlay.*` (mount option `userxattr`): root of a user namespace.
    User,
}

impl OverlayForm {
    fn word(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::User => "user",
        }
    }

    /// The attribute that makes a directory hide all below it.
    pub fn opaque_xattr(self) -> &'static str {
        match self {
            Self::Trusted => "trusted.overlay.opaque",
            Self::User => "user.overlay.opaque",
        }
    }
}

/// Why a store can't be opened or a change to it can't be finished.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {doing} in the store's index")]
    Index { doing: &'static str, source: rusqlite::Error },
    #[error("{path} has format {found}, this rbuild knows formats up to {known}: use a newer rbuild")]
    NewerFormat { path: PathBuf, found: i64, known: i64 },
    #[error("{path} is no store that can be trusted: {why}")]
    NotOurs { path: PathBuf, why: String },
    #[error("{what} {expected} arrived damaged: its content hashes to {actual}")]
    WrongContent { what: &'static str, expected: Digest, actual: Digest },
    #[error("{what} {expected} arrived damaged: {expected_bytes} bytes were announced, {actual_bytes} came")]
    WrongSize { what: &'static str, expected: Digest, expected_bytes: u64, actual_bytes: u64 },
    #[error("layer {0} is not in the store")]
    MissingLayer(DiffId),
    #[error("layer {0} is in use: end what uses it and try again")]
    LayerInUse(DiffId),
    #[error("blob {0} is not in the store")]
    MissingBlob(BlobId),
    #[error("blob {id} has {size_bytes} bytes, more than the {limit_bytes} that such a document may have")]
    BlobTooLarge { id: BlobId, size_bytes: u64, limit_bytes: u64 },
    #[error(transparent)]
    Image(#[from] crate::images::ImageError),
    #[error("cannot unpack a layer")]
    Archive(#[from] ArchiveError),
}

impl StoreError {
    /// For `map_err` on a call that was `doing` something to `path`.
    pub(crate) fn io<E: Into<io::Error>>(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source: source.into() }
    }
}

impl Store {
    /// Opens the store at `root`, made if it is not there, and clears what dead processes left.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).map_err(StoreError::io("find", root))?;
        let dir = open_root(&root)?;
        let overlay = match read_version(&root, &dir)? {
            Some(overlay) => overlay,
            None => lay_out(&root, &dir)?,
        };
        let index = Index::open(&root.join("index.db"))?;
        let mut store = Self {
            root,
            dir,
            index,
            overlay,
            dead_leases: Vec::new(),
            lease: Mutex::new(None),
            held: Mutex::new(HashMap::new()),
            has_pins: AtomicBool::new(false),
            boot_id: OnceLock::new(),
            can_clone: OnceLock::new(),
        };
        store.dead_leases = store.clear_dead()?;
        Ok(store)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Which attributes the trees use, and so which option the overlay mount needs.
    pub fn overlay_form(&self) -> OverlayForm {
        self.overlay
    }

    /// The folder of cache mounts, opened; made when it is first asked for.
    pub fn cache_mounts(&self) -> io::Result<OwnedFd> {
        match rustix::fs::mkdirat(&self.dir, c"cache-mounts", Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.dir, c"cache-mounts", flags, Mode::empty())?)
    }

    /// The name of this process's lease: what else it makes in the system (a cgroup, a link) can be
    /// named after it, and be cleared by whoever finds the name in [`Store::dead_leases`].
    pub fn lease_name(&self) -> Result<String, StoreError> {
        Ok(self.lease()?.name.clone())
    }

    /// The leases whose leftovers were cleared when this store was opened.
    pub fn dead_leases(&self) -> &[String] {
        &self.dead_leases
    }

    /// Whether the process that has this lease lives.
    pub fn lease_is_alive(&self, name: &str) -> Result<bool, StoreError> {
        lease::is_alive(self.dir.as_fd(), name)
            .map_err(StoreError::io("look at lease", self.root.join("leases").join(name)))
    }

    /// Bytes named by hash.
    pub fn blobs(&self) -> Blobs<'_> {
        Blobs { store: self }
    }

    /// File changes named by the hash of their tar.
    pub fn layers(&self) -> Layers<'_> {
        Layers { store: self }
    }

    /// Configs over layers, and their names.
    pub fn images(&self) -> Images<'_> {
        Images { store: self }
    }

    /// Names and images of containers.
    pub fn containers(&self) -> crate::containers::Containers<'_> {
        crate::containers::Containers { store: self }
    }

    /// What build steps came to before.
    pub fn cache(&self) -> Cache<'_> {
        Cache { store: self }
    }

    /// Makes all that was written so far survive a power cut: one `syncfs`, then the rows that say so.
    ///
    /// Called once per command, before the name is written (`images().set_name` calls it itself).
    pub fn make_durable(&self) -> Result<(), StoreError> {
        self.sync_layers(Commit::Durable)
    }

    /// Syncs layers that no `syncfs` has covered; with [`Commit::Soon`] the caller commits durably next.
    pub(crate) fn sync_layers(&self, commit: Commit) -> Result<(), StoreError> {
        // Rows are read before the sync: a layer that another process adds meanwhile is not covered.
        let boot = self.boot_id()?;
        let covered = self.index.read("list new layers", |c| index::layers::unsynced(c, boot))?;
        if !covered.is_empty() {
            rustix::fs::syncfs(&self.dir).map_err(StoreError::io("sync", &self.root))?;
        } else if commit == Commit::Soon {
            return Ok(());
        }
        self.index.write("make layers durable", commit, |transaction| {
            covered.iter().try_for_each(|id| index::layers::mark_synced(transaction, *id))
        })
    }

    /// This process's lease, taken when it is first needed.
    pub(crate) fn lease(&self) -> Result<Arc<Lease>, StoreError> {
        let mut slot = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lease) = &*slot {
            return Ok(Arc::clone(lease));
        }
        let taken = Lease::take(self.dir.as_fd())
            .map_err(StoreError::io("take a lease in", self.root.join("leases")))?;
        Ok(Arc::clone(slot.insert(Arc::new(taken))))
    }

    /// Says that rows in `pins` carry this process's lease.
    pub(crate) fn note_pins(&self) {
        self.has_pins.store(true, Ordering::Relaxed);
    }

    /// Layers that stay as long as this value lives.
    pub(crate) fn held(&self) -> MutexGuard<'_, HashMap<DiffId, OwnedFd>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names the run of the kernel, from start to power-off.
    pub(crate) fn boot_id(&self) -> Result<&str, StoreError> {
        const PATH: &str = "/proc/sys/kernel/random/boot_id";
        if let Some(id) = self.boot_id.get() {
            return Ok(id);
        }
        let text = std::fs::read_to_string(PATH).map_err(StoreError::io("read", PATH))?;
        Ok(self.boot_id.get_or_init(|| text.trim().to_owned()))
    }

    fn clear_dead(&self) -> Result<Vec<String>, StoreError> {
        let dead = lease::find_dead(self.dir.as_fd())
            .map_err(StoreError::io("look for leftovers in", &self.root))?;
        let mut names = Vec::new();
        for lease in dead {
            names.push(lease.name.clone());
            self.index.write("drop a dead process's pins", Commit::Soon, |transaction| {
                index::blobs::unpin_all(transaction, &lease.name)
            })?;
            lease.clear(self.dir.as_fd()).map_err(StoreError::io("clear leftovers in", &self.root))?;
        }
        Ok(names)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let lease = self.lease.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(lease) = lease else { return };
        if !self.has_pins.load(Ordering::Relaxed) {
            return;
        }
        let unpinned = self.index.write("drop pins", Commit::Soon, |transaction| {
            index::blobs::unpin_all(transaction, &lease.name)
        });
        if unpinned.is_err() {
            // The lease file must outlive its pins: the next process to open the store clears both.
            std::mem::forget(lease);
        }
    }
}

fn open_root(root: &Path) -> Result<OwnedFd, StoreError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let refuse = |why: &str| StoreError::NotOurs { path: root.to_owned(), why: why.to_owned() };
    let dir = match rustix::fs::open(root, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(root).map_err(StoreError::io("make", root))?;
            rustix::fs::open(root, flags, Mode::empty())
        }
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(refuse("it is not a directory (a link does not count)"));
        }
        other => other,
    };
    let dir = dir.map_err(StoreError::io("open", root))?;
    let stat = rustix::fs::fstat(&dir).map_err(StoreError::io("look at", root))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(refuse(&format!("it belongs to uid {}", stat.st_uid)));
    }
    Ok(dir)
}

/// Reads `version`; `None` when the folder has not been laid out.
fn read_version(root: &Path, dir: &OwnedFd) -> Result<Option<OverlayForm>, StoreError> {
    let path = root.join("version");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, "version", flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.map_err(StoreError::io("open", &path))?,
    };
    let stat = rustix::fs::fstat(dir).map_err(StoreError::io("look at", root))?;
    if stat.st_mode & 0o077 != 0 {
        let why =
            format!("its mode is {:o}, so others can reach into it (0700 is safe)", stat.st_mode & 0o7777);
        return Err(StoreError::NotOurs { path: root.to_owned(), why });
    }
    let mut buffer = [0; 64];
    let count = rustix::io::read(&file, &mut buffer).map_err(StoreError::io("read", &path))?;
    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
    let mut words = text.split_whitespace();
    match (words.next(), words.next().and_then(|word| word.parse().ok()), words.next()) {
        (Some("rbuild-store"), Some(1), Some("trusted")) => Ok(Some(OverlayForm::Trusted)),
        (Some("rbuild-store"), Some(1), Some("user")) => Ok(Some(OverlayForm::User)),
        (Some("rbuild-store"), Some(found), _) if found > 1 => {
            Err(StoreError::NewerFormat { path, found, known: 1 })
        }
        _ => Err(StoreError::NotOurs { path, why: format!("it says `{}`", text.trim().escape_debug()) }),
    }
}

/// Makes an empty folder a store; `version` comes last, so a half-made one is made again.
fn lay_out(root: &Path, dir: &OwnedFd) -> Result<OverlayForm, StoreError> {
    let names = crate::folder::names_in(dir.as_fd()).map_err(StoreError::io("list", root))?;
    let known =
        |name: &[u8]| FOLDERS.iter().any(|folder| folder.as_bytes() == name) || name.starts_with(b"index.db");
    if let Some(name) = names
        .iter()
        .find(|name| !matches!(name.to_bytes(), b"lost+found" | b"version") && !known(name.to_bytes()))
    {
        let why = format!(
            "it has no `version` but holds `{}`; a new store needs an empty folder",
            name.to_string_lossy()
        );
        return Err(StoreError::NotOurs { path: root.to_owned(), why });
    }
    rustix::fs::fchmod(dir, Mode::RWXU).map_err(StoreError::io("protect", root))?;
    for folder in FOLDERS {
        match rustix::fs::mkdirat(dir, folder, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(StoreError::io("make", root.join(folder))(errno)),
        }
    }
    let overlay = probe_overlay_form(root)?;
    let lease = Arc::new(Lease::take(dir.as_fd()).map_err(StoreError::io("take a lease in", root))?);
    let half = format!("staging/{}", lease.next_name());
    let version = root.join("version");
    let write = || -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, &half, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::io::write(&file, format!("rbuild-store 1 {}\n", overlay.word()).as_bytes())?;
        rustix::fs::fsync(&file)?;
        rustix::fs::renameat(dir, &half, dir, "version")?;
        Ok(rustix::fs::fsync(dir)?)
    };
    write().map_err(StoreError::io("write", version))?;
    Ok(overlay)
}

/// Asks the kernel which attributes this process may set.
fn probe_overlay_form(root: &Path) -> Result<OverlayForm, StoreError> {
    let folder = root.join("staging");
    let name = OverlayForm::Trusted.opaque_xattr();
    match rustix::fs::lsetxattr(&folder, name, b"y", XattrFlags::empty()) {
        Ok(()) => {
            match rustix::fs::lremovexattr(&folder, name) {
                // Another process that makes the same store asks the same question.
                Ok(()) | Err(Errno::NODATA) => Ok(OverlayForm::Trusted),
                Err(errno) => Err(StoreError::io("look at", folder)(errno)),
            }
        }
        Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP) => Ok(OverlayForm::User),
        Err(errno) => Err(StoreError::io("look at", folder)(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_store_is_closed_to_others_and_opens_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deep/store");
        drop(Store::open(&root).unwrap());
        assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
        let store = Store::open(&root).unwrap();
        assert!(store.dead_leases().is_empty());
        assert_eq!(std::fs::read_dir(root.join("staging")).unwrap().count(), 0);
    }

    #[test]
    fn folders_that_are_no_store_of_ours_are_refused() {
        let refused = |make: fn(&Path)| {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("store");
            make(&root);
            let error = Store::open(&root).unwrap_err();
            assert!(
                matches!(error, StoreError::NotOurs { .. } | StoreError::NewerFormat { .. }),
                "{error:?}"
            );
        };
        refused(|root| std::os::unix::fs::symlink("/tmp", root).unwrap());
        refused(|root| std::fs::write(root, "").unwrap());
        refused(|root| {
            std::fs::create_dir(root).unwrap();
            std::fs::write(root.join("thesis.txt"), "").unwrap();
        });
        refused(|root| {
            drop(Store::open(root).unwrap());
            std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755)).unwrap();
        });
        refused(|root| {
            drop(Store::open(root).unwrap());
            std::fs::write(root.join("version"), "rbuild-store 2 trusted\n").unwrap();
        });
    }

    #[test]
    fn what_the_dead_left_is_cleared_and_what_the_living_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let living = Store::open(dir.path()).unwrap();
        let name = living.lease_name().unwrap();
        let (kept, gone) = (format!("scratch/{name}-7"), "scratch/00000000000000aa-0/upper/x");
        std::fs::create_dir_all(dir.path().join(&kept)).unwrap();
        std::fs::create_dir_all(dir.path().join(gone)).unwrap();
        std::fs::create_dir_all(dir.path().join("staging/00000000000000bb-0/x")).unwrap();
        std::fs::write(dir.path().join("leases/00000000000000aa"), "").unwrap();

        let second = Store::open(dir.path()).unwrap();
        assert_eq!(second.dead_leases(), ["00000000000000aa", "00000000000000bb"]);
        assert!(dir.path().join(&kept).exists());
        assert!(!dir.path().join("scratch/00000000000000aa-0").exists());
        assert!(!dir.path().join("staging/00000000000000bb-0").exists());
        assert!(!dir.path().join("leases/00000000000000aa").exists());
        assert!(second.lease_is_alive(&name).unwrap());
        drop(living);
        assert!(!second.lease_is_alive(&name).unwrap());
    }
}
