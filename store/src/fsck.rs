//! Fsck: says what of a store is damaged and which images that hits; mends what can be made again.
//!
//! ```text
//! rows      index.db holds together, and points at what is there          (`rows`)
//! blobs     file → hash = name                                            (`blob`)
//! layers    recipe + tree → tar → hash = name; tree = what the tar means  (`layer`)
//! folders   modes and owners of the store's own; what no row speaks of    (`folders`)
//! mend      a source that hashes right → staging → in place of the damaged (`mend`)
//! ```
//! Other processes may work meanwhile: a layer is locked as by any reader, and what is gone when it is
//! looked at a second time was collected, not lost. Nothing is mended but by something that has the
//! right hash, and nothing that is in use is replaced.
//!
//! Not seen: what the index says and nothing else does (the letters of a name, times of rows).
//!
//! May touch: with `repair` all of the store. Knows nothing of terminals.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::{Serialize, Serializer};

use crate::digest::{BlobId, DiffId, ImageId};
use crate::index::blobs::BlobRow;
use crate::index::layers::LayerRow;
use crate::{Store, StoreError};

mod blob;
mod folders;
mod layer;
mod mend;
mod rows;

use rows::Snapshot;

/// What to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct FsckOptions {
    /// Leave the content of files and blobs unread.
    pub quick: bool,
    /// Make again what can be made again.
    pub repair: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Not as it was written.
    Damage,
    /// Whole, but worth knowing.
    Note,
    /// Belongs to nothing; `prune` takes it.
    Garbage,
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Index,
    Name(String),
    Layer(DiffId),
    Image(ImageId),
    Blob(BlobId),
    /// A file or folder of the store, below its root.
    Place(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index => f.write_str("index"),
            Self::Name(name) => write!(f, "name {name}"),
            Self::Image(id) => write!(f, "image {id}"),
            Self::Layer(id) => write!(f, "layer {id}"),
            Self::Blob(id) => write!(f, "blob {id}"),
            Self::Place(place) => write!(f, "folder {place}"),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub subject: Subject,
    /// In the layer, without a leading slash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub why: String,
    /// Names of the images that it hits; short IDs of those without a name.
    pub images: Vec<String>,
    /// What a repair did about it, or why it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    pub repaired: bool,
}

/// All that was found.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FsckReport {
    pub findings: Vec<Finding>,
    pub images: u64,
    pub layers: u64,
    pub blobs: u64,
    /// Of blobs and of uncompressed layers that were read and hashed.
    pub checked_bytes: u64,
}

impl FsckReport {
    /// Damage that is still there.
    pub fn damage(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Damage && !finding.repaired)
    }

    fn damaged_subjects(&self) -> BTreeSet<Subject> {
        self.damage().map(|finding| finding.subject.clone()).collect()
    }
}

/// What is wrong with one layer or blob, before it is known whom that hits.
#[derive(Debug, Default)]
struct Checked {
    faults: Vec<Fault>,
    bytes: u64,
}

#[derive(Debug)]
struct Fault {
    severity: Severity,
    path: Option<String>,
    why: String,
}

impl Checked {
    fn damage(&mut self, path: Option<String>, why: impl Into<String>) {
        self.faults.push(Fault { severity: Severity::Damage, path, why: why.into() });
    }

    fn note(&mut self, why: impl Into<String>) {
        self.faults.push(Fault { severity: Severity::Note, path: None, why: why.into() });
    }
}

impl Store {
    /// Checks all of the store; with `repair` also mends it and checks once more.
    pub fn fsck(&self, options: FsckOptions) -> Result<FsckReport, StoreError> {
        let mut report = check(self, options.quick)?;
        if !options.repair || report.damage().next().is_none() {
            return Ok(report);
        }
        let outcomes = mend::mend(self, &report.damaged_subjects());
        let again = check(self, options.quick)?;
        let still = again.damaged_subjects();
        let before = report.damaged_subjects();
        for finding in report.findings.iter_mut().filter(|finding| finding.severity == Severity::Damage) {
            finding.repaired = !still.contains(&finding.subject);
            finding.outcome = outcomes.get(&finding.subject).cloned();
        }
        let is_new =
            |finding: &Finding| finding.severity == Severity::Damage && !before.contains(&finding.subject);
        report.findings.extend(again.findings.into_iter().filter(is_new));
        Ok(report)
    }
}

/// One piece of work for a thread; large ones come first.
enum Job<'s> {
    Layer(&'s LayerRow),
    Blob(&'s BlobRow),
}

fn check(store: &Store, quick: bool) -> Result<FsckReport, StoreError> {
    let snapshot = rows::read(store)?;
    let mut report = FsckReport {
        images: snapshot.images.len() as u64,
        layers: snapshot.layers.len() as u64,
        blobs: snapshot.blobs.len() as u64,
        ..FsckReport::default()
    };
    let mut jobs: Vec<(u64, Job<'_>)> = Vec::new();
    jobs.extend(snapshot.layers.values().map(|row| (row.layer.tar_size_bytes, Job::Layer(row))));
    jobs.extend(snapshot.blobs.values().map(|row| (row.size_bytes, Job::Blob(row))));
    jobs.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    let queue = Mutex::new(jobs.into_iter().map(|(_, job)| job).collect::<VecDeque<_>>());
    let done: Mutex<Vec<(Subject, Checked)>> = Mutex::default();
    let work = || -> Result<(), StoreError> {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let checked = match next {
                None => return Ok(()),
                Some(Job::Layer(row)) => {
                    (Subject::Layer(row.layer.diff_id), layer::check(store, row, quick)?)
                }
                Some(Job::Blob(row)) => (Subject::Blob(row.id), blob::check(store, row, quick)?),
            };
            done.lock().unwrap_or_else(PoisonError::into_inner).push(checked);
        }
    };
    let count = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().map(join).collect::<Result<Vec<()>, StoreError>>()
    })?;
    for (subject, checked) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        report.checked_bytes += checked.bytes;
        report.findings.extend(found(&snapshot, &subject, checked));
    }
    report.findings.extend(rows::check(store, &snapshot));
    report.findings.extend(folders::check(store, &snapshot)?);
    report.findings.sort_by(|one, other| {
        (one.severity, &one.subject, &one.path).cmp(&(other.severity, &other.subject, &other.path))
    });
    Ok(report)
}

fn found(snapshot: &Snapshot, subject: &Subject, checked: Checked) -> Vec<Finding> {
    let images = snapshot.hit_by(subject);
    let finding = |fault: Fault| Finding {
        severity: fault.severity,
        subject: subject.clone(),
        path: fault.path,
        why: fault.why,
        images: images.clone(),
        outcome: None,
        repaired: false,
    };
    checked.faults.into_iter().map(finding).collect()
}

/// What became of each subject.
type Outcomes = BTreeMap<Subject, String>;
