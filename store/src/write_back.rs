//! Write-back: what a command writes goes to the disk while it is still writing.
//!
//! ```text
//! writer   ── 16 MiB ──┬── 16 MiB ──┬── …   ─→ finish: waits for the last one
//! beside it            └ syncfs     └ syncfs
//! ```
//! Without it all bytes wait in memory for the `syncfs` that makes a command durable, and the disk is
//! idle until then. This promises nothing: durability still comes from [`Store::make_durable`]. But the
//! kernel tells of a failed write only once for each open file (syncfs(2)), so a failure that is seen here must
//! end the command.
//!
//! May touch: the store's file system as a whole. Knows nothing of what is written.

use std::io;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use crate::{Store, StoreError};

/// So much is written before the disk is set to work.
const STEP_BYTES: u64 = 16 << 20;

/// Writes back what one writer wrote. Costs nothing before the first 16 MiB.
#[derive(Debug)]
pub struct WriteBack<'s> {
    store: &'s Store,
    since_bytes: u64,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    /// Asks for a round; holds one that waits.
    ask: Sender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl<'s> WriteBack<'s> {
    pub fn new(store: &'s Store) -> Self {
        Self { store, since_bytes: 0, running: None }
    }

    /// Says that so many bytes more were written.
    pub fn wrote(&mut self, count_bytes: u64) -> Result<(), StoreError> {
        self.since_bytes += count_bytes;
        if self.since_bytes < STEP_BYTES {
            return Ok(());
        }
        self.since_bytes = 0;
        let running = match &mut self.running {
            Some(running) => running,
            slot => slot.insert(start(&self.store.dir).map_err(failed(self.store))?),
        };
        // One that waits already covers these bytes too; one that is gone says why in `finish`.
        running.ask.try_send(()).ok();
        Ok(())
    }

    /// Waits for what was begun.
    pub fn finish(mut self) -> Result<(), StoreError> {
        let Some(Running { ask, thread }) = self.running.take() else { return Ok(()) };
        drop(ask);
        let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        ended.map_err(failed(self.store))
    }
}

fn failed(store: &Store) -> impl FnOnce(io::Error) -> StoreError {
    StoreError::io("write back", &store.root)
}

fn start(folder: &OwnedFd) -> io::Result<Running> {
    let folder = folder.try_clone()?;
    let (ask, asked) = crossbeam_channel::bounded(1);
    let work = move || {
        for () in asked {
            rustix::fs::syncfs(&folder)?;
        }
        Ok(())
    };
    let thread = std::thread::Builder::new().name("write-back".to_owned()).spawn(work)?;
    Ok(Running { ask, thread })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_there_only_for_much() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut write_back = WriteBack::new(&store);
        write_back.wrote(STEP_BYTES - 1).unwrap();
        assert!(write_back.running.is_none());
        write_back.wrote(1).unwrap();
        assert!(write_back.running.is_some());
        write_back.wrote(STEP_BYTES * 2).unwrap();
        write_back.finish().unwrap();
    }
}
