//! A disk that remembers: one FUSE file below a loop device, which notes each write and each flush in order.
//!
//! ```text
//! the store → ext4 → /dev/loopN → FUSE file → Log [Write, Write, Flush, Write, …]
//!                                             └ images of any moment, in any order that a disk may choose
//! ```
//!
//! What stands before a flush is on the disk for good; what comes after may be there or not, whole or in part.
//!
//! May touch: a FUSE mount, memory. Knows nothing of rbuild.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};

/// The name of the one file.
pub(crate) const FILE: &str = "disk";
const FILE_NUMBER: INodeNo = INodeNo(2);
const FOREVER: Duration = Duration::from_hours(1);

/// One thing that the disk was told.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Write { offset: usize, data: Vec<u8> },
    Flush,
}

/// The disk's content now, and all that led there.
#[derive(Debug, Default)]
pub(crate) struct Log {
    content: Vec<u8>,
    pub(crate) events: Vec<Event>,
}

/// A disk in memory that is served until the value goes.
#[derive(Debug)]
pub(crate) struct Recorder {
    log: Arc<Mutex<Log>>,
    session: Option<BackgroundSession>,
}

impl Recorder {
    /// Serves a disk with this content as `folder/disk`.
    pub(crate) fn serve(content: Vec<u8>, folder: &Path) -> Self {
        let log = Arc::new(Mutex::new(Log { content, events: Vec::new() }));
        let disk = Disk { log: Arc::clone(&log) };
        let session = fuser::spawn_mount(disk, folder, &fuser::Config::default()).expect("a FUSE mount");
        Self { log, session: Some(session) }
    }

    /// How many events there have been.
    pub(crate) fn position(&self) -> usize {
        locked(&self.log).events.len()
    }

    /// Ends and returns what was told.
    pub(crate) fn end(mut self) -> Vec<Event> {
        let session = self.session.take().expect("it ends once");
        session.umount_and_join().expect("nobody uses the disk any more");
        std::mem::take(&mut locked(&self.log).events)
    }
}

/// A test that fails has poisoned nothing here: each event is noted whole.
fn locked(log: &Mutex<Log>) -> std::sync::MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Disk {
    log: Arc<Mutex<Log>>,
}

impl Disk {
    fn attributes(&self, number: INodeNo) -> FileAttr {
        let is_file = number == FILE_NUMBER;
        let size = if is_file { locked(&self.log).content.len() as u64 } else { 0 };
        FileAttr {
            ino: number,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == FILE {
            reply.entry(&FOREVER, &self.attributes(FILE_NUMBER), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(number));
    }

    /// Past the page cache, so that a write is here when it is done.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let log = locked(&self.log);
        let start = usize::try_from(offset).map_or(log.content.len(), |start| start.min(log.content.len()));
        let end = (start + size as usize).min(log.content.len());
        reply.data(&log.content[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut log = locked(&self.log);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let Some(place) = log.content.get_mut(offset..offset.saturating_add(data.len())) else {
            return reply.error(Errno::ENOSPC);
        };
        place.copy_from_slice(data);
        log.events.push(Event::Write { offset, data: data.to_vec() });
        reply.written(u32::try_from(data.len()).expect("FUSE writes are small"));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        locked(&self.log).events.push(Event::Flush);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}
