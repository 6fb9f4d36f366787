//! One overlay by `mount(2)`: for kernels before 6.8, which take all lower folders in one option.
//!
//! `fsconfig` cuts an option off at 255 bytes there, 14 names in procfs; `mount(2)` takes a page. But it mounts at
//! a place, so this is done where nobody sees it:
//!
//! ```text
//! a thread ─unshare→ its own copy of all mounts
//!          ─open───→ each folder once more, in the copy: the kernel stacks none of another namespace
//!          ─mount──→ over /proc, which the copy does not need any more
//!          ─clone──→ a detached mount; the copy goes with the thread
//! ```
//!
//! The folders are found again by name and compared by inode. Names of folders never stand in the option, only
//! numbers of descriptors, so no character in them means anything.
//!
//! May touch: the mount namespace of a thread that it makes. Knows nothing of stacks and scratches.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags};

use super::{FIXED_OPTIONS, RootfsError, at, failed, proc_name};
use crate::sandbox::user_ns::Mapping;

/// What `mount(2)` reads of its options, the closing 0 included.
const PAGE_BYTES: usize = 4096;
/// Where the overlay is mounted in the thread's namespace: a folder that every root has.
const PLACE: &str = "/proc";

/// Mounts `lowers`, top to bottom, below the upper and work folders (read-only without); → a detached mount.
pub(super) fn mount(
    lowers: &[BorrowedFd<'_>],
    uppers: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
) -> Result<OwnedFd, RootfsError> {
    std::thread::scope(|scope| {
        let mounting = scope.spawn(|| mount_in_own_namespace(lowers, uppers));
        mounting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn mount_in_own_namespace(
    lowers: &[BorrowedFd<'_>],
    uppers: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
) -> Result<OwnedFd, RootfsError> {
    // The working directory becomes the thread's own with it.
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| {
        failed("unshare(CLONE_NEWNS)")(rustix::io::Errno::from_raw_os_error(errno as i32))
    })?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change(c"/", private).map_err(failed("mount(MS_PRIVATE)"))?;
    let reopened = lowers.iter().map(|lower| reopen(*lower)).collect::<Result<Vec<_>, _>>()?;
    let uppers = uppers.map(|(upper, work)| Ok((reopen(upper)?, reopen(work)?))).transpose()?;

    let names: Vec<String> = reopened.iter().map(|lower| lower.as_raw_fd().to_string()).collect();
    let mut options = format!("lowerdir={}", names.join(":"));
    let mut flags = MountFlags::NODEV;
    match &uppers {
        Some((upper, work)) => {
            options += &format!(",upperdir={},workdir={},volatile", upper.as_raw_fd(), work.as_raw_fd());
        }
        None => flags |= MountFlags::RDONLY,
    }
    for (key, value) in FIXED_OPTIONS {
        options += &format!(",{}={}", key.to_string_lossy(), value.to_string_lossy());
    }
    if !Mapping::current().is_initial() {
        options += ",userxattr";
    }
    if options.len() >= PAGE_BYTES {
        return Err(RootfsError::TooManyLayers { count: lowers.len() });
    }
    let options = std::ffi::CString::new(options).expect("words and numbers hold no 0");
    rustix::process::chdir(c"/proc/self/fd").map_err(failed("chdir(/proc/self/fd)"))?;
    rustix::mount::mount(c"overlay", PLACE, c"overlay", flags, &*options).map_err(failed("mount(2)"))?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, PLACE, clone).map_err(failed("open_tree"))
}

/// Opens the folder behind a descriptor once more, in the mount namespace that the thread has now.
fn reopen(folder: BorrowedFd<'_>) -> Result<OwnedFd, RootfsError> {
    let link = PathBuf::from(proc_name(folder));
    let path = fs::read_link(&link).map_err(at("read", &link))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&path, flags, Mode::empty());
    let opened = opened.map_err(|errno| at("open once more", &path)(errno.into()))?;
    let inode = |folder: BorrowedFd<'_>| rustix::fs::fstat(folder).map(|stat| (stat.st_dev, stat.st_ino));
    let same = inode(folder).and_then(|first| Ok(first == inode(opened.as_fd())?));
    if same.map_err(failed("fstat"))? {
        return Ok(opened);
    }
    Err(at("open once more", &path)(std::io::Error::other("another folder has its name now")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn folder(path: &Path) -> OwnedFd {
        fs::create_dir_all(path).unwrap();
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test left out is said")]
    fn many_folders_with_odd_names_are_stacked_and_nobody_else_sees_the_mount() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("left out: this needs root");
            return;
        }
        let home = tempfile::Builder::new().prefix("a:b,c\\d e\n").tempdir().unwrap();
        let lowers: Vec<OwnedFd> = (0..200).map(|n| folder(&home.path().join(n.to_string()))).collect();
        for n in 0..200 {
            fs::write(home.path().join(format!("{n}/file-{n}")), "").unwrap();
            fs::write(home.path().join(format!("{n}/who")), n.to_string()).unwrap();
        }
        let (upper, work) = (folder(&home.path().join("upper")), folder(&home.path().join("work")));
        let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let working_directory = std::env::current_dir().unwrap();
        let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(AsFd::as_fd).collect();

        let mounted = mount(&lowers, Some((upper.as_fd(), work.as_fd()))).unwrap();
        let inside = PathBuf::from(proc_name(mounted.as_fd()));
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 201);
        assert_eq!(fs::read_to_string(inside.join("who")).unwrap(), "0", "the first one lies on top");
        fs::write(inside.join("new"), "").unwrap();
        assert!(home.path().join("upper/new").exists());
        assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
        assert_eq!(std::env::current_dir().unwrap(), working_directory);

        let fixed = mount(&lowers, None).unwrap();
        let inside = PathBuf::from(proc_name(fixed.as_fd()));
        let refused = fs::write(inside.join("new"), "").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
}
