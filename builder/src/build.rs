//! One build: what all its stages share while they run.
//!
//! May touch: the store and the network, through their front doors. Knows nothing of instructions.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use runner::network::{Mode, Network, NetworkError};
use store::{Digest, Store};

use crate::input::Input;
use crate::options::Options;
use crate::progress::Progress;
use crate::scope::Globals;

/// What all stages of a build share.
#[derive(Clone, Copy)]
pub struct Build<'b> {
    pub store: &'b Store,
    pub input: &'b Input,
    pub options: &'b Options,
    pub globals: &'b Globals,
    pub progress: &'b dyn Progress,
    pub cancel: &'b Cancel,
    pub networks: &'b Networks,
    pub permits: &'b Permits,
    /// Continues lines and escapes in words.
    pub escape: char,
}

impl std::fmt::Debug for Build<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Build").field("file", &self.input.file_name).finish_non_exhaustive()
    }
}

/// Stops a build: every step that runs is killed, no other starts.
#[derive(Debug)]
pub struct Cancel {
    event: OwnedFd,
    flag: AtomicBool,
}

impl Cancel {
    pub fn new() -> std::io::Result<Self> {
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        Ok(Self { event, flag: AtomicBool::new(false) })
    }

    /// Stops the build; may be called from any thread, any number of times.
    pub fn cancel(&self) {
        self.flag.store(true, Ordering::SeqCst);
        // The counter can't overflow: nobody calls this 2^64 times. It stays readable for all who poll.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// The networks of a build: one of each mode, made when the first step needs it.
#[derive(Debug)]
pub struct Networks {
    id: String,
    open: Mutex<HashMap<&'static str, Arc<Network>>>,
    count: AtomicUsize,
}

impl Networks {
    /// `id` names links and rules, so that what a killed build leaves can be found.
    pub fn new(id: String) -> Self {
        Self { id, open: Mutex::default(), count: AtomicUsize::new(0) }
    }

    /// The network of `mode`.
    pub fn get(&self, mode: Mode) -> Result<Arc<Network>, NetworkError> {
        let name = match mode {
            Mode::None => "none",
            Mode::Host => "host",
            Mode::Private => "private",
        };
        let mut open = self.open.lock().expect("no thread panics while it makes a network");
        if let Some(network) = open.get(name) {
            return Ok(Arc::clone(network));
        }
        let network = Arc::new(Network::open(mode, &self.id)?);
        open.insert(name, Arc::clone(&network));
        Ok(network)
    }

    /// A name for the next sandbox of this build.
    pub fn sandbox_id(&self) -> String {
        format!("{}-{}", self.id, self.count.fetch_add(1, Ordering::Relaxed))
    }
}

/// How many steps may run at once. A stage that waits for another holds no permit.
#[derive(Debug)]
pub struct Permits {
    free: Mutex<usize>,
    returned: Condvar,
}

/// A permit; dropping it lets the next step run.
#[derive(Debug)]
pub struct Permit<'p>(&'p Permits);

impl Permits {
    pub fn new(count: usize) -> Self {
        Self { free: Mutex::new(count.max(1)), returned: Condvar::new() }
    }

    pub fn take(&self) -> Permit<'_> {
        let free = self.free.lock().expect("no thread panics while it counts permits");
        let mut free = self
            .returned
            .wait_while(free, |free| *free == 0)
            .expect("no thread panics while it counts permits");
        *free -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().expect("no thread panics while it counts permits") += 1;
        self.0.returned.notify_one();
    }
}

/// One hash over many parts; their borders count.
pub fn digest_of_parts<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> Digest {
    let mut hasher = store::digest::Hasher::new();
    for part in parts {
        hash_part(&mut hasher, part);
    }
    hasher.finish()
}

/// Adds one part with its border.
pub fn hash_part(hasher: &mut store::digest::Hasher, part: &[u8]) {
    hasher.update(&(part.len() as u64).to_le_bytes());
    hasher.update(part);
}
