//! Any tree at all: sealed, streamed, imported again, it is the same tree, the same tar, the same id.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use store::layers::{Expected, SealOptions};
use store::{DiffId, Digest, Store};

#[derive(Clone, Debug)]
enum Node {
    File(Vec<u8>),
    Directory(bool),
    Symlink(Vec<u8>),
    Fifo,
    Device(u32, u32),
    Whiteout,
    HardLink(usize),
}

#[derive(Clone, Debug)]
struct Item {
    parent: usize,
    name: Vec<u8>,
    node: Node,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattr: Option<Vec<u8>>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![8 => 97..=99_u8, 1 => 1..=46_u8, 1 => 48..=255_u8];
    prop_oneof![9 => prop::collection::vec(byte.clone(), 1..5), 1 => prop::collection::vec(byte, 90..255)]
}

fn item() -> impl Strategy<Value = Item> {
    let node = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(Node::File),
        4 => prop::bool::weighted(0.2).prop_map(Node::Directory),
        1 => name().prop_map(Node::Symlink),
        1 => Just(Node::Fifo),
        1 => (1..300_u32, 0..300_u32).prop_map(|(major, minor)| Node::Device(major, minor)),
        1 => Just(Node::Whiteout),
        1 => any::<usize>().prop_map(Node::HardLink),
    ];
    let id = prop_oneof![3 => Just(0_u32), 1 => 0..5_000_000_u32];
    let mtime = (prop_oneof![3 => 0..2_000_000_000_i64, 1 => -2_000_000_000..0_i64], 0..1_000_000_000_u32);
    let xattr = prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..50));
    (any::<usize>(), name(), node, 0..0o10000_u32, (id.clone(), id), mtime, xattr).prop_map(
        |(parent, name, node, mode, owner, mtime, xattr)| Item {
            parent,
            name,
            node,
            mode,
            owner,
            mtime,
            xattr,
        },
    )
}

/// Makes the items below `top`; those that can't be (a name twice, a dot) are left out.
fn make(top: &Path, items: &[Item]) {
    let mut directories = vec![top.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut made: Vec<(PathBuf, &Item)> = Vec::new();
    for item in items {
        if matches!(&item.name[..], b"." | b"..") || item.name.starts_with(b".wh.") {
            continue;
        }
        let path = directories[item.parent % directories.len()].join(OsStr::from_bytes(&item.name));
        if path.symlink_metadata().is_ok() || path.as_os_str().len() - top.as_os_str().len() > 2000 {
            continue;
        }
        let node = |kind, major, minor| {
            rustix::fs::mknodat(CWD, &path, kind, Mode::RUSR, rustix::fs::makedev(major, minor)).unwrap();
        };
        match &item.node {
            Node::File(content) => {
                std::fs::write(&path, content).unwrap();
                files.push(path.clone());
            }
            Node::Directory(opaque) => {
                std::fs::create_dir(&path).unwrap();
                if *opaque {
                    rustix::fs::lsetxattr(&path, "trusted.overlay.opaque", b"y", XattrFlags::empty())
                        .unwrap();
                }
                directories.push(path.clone());
            }
            Node::Symlink(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
            Node::Fifo => node(FileType::Fifo, 0, 0),
            Node::Device(major, minor) => node(FileType::BlockDevice, *major, *minor),
            Node::Whiteout => {
                node(FileType::CharacterDevice, 0, 0);
                continue;
            }
            Node::HardLink(_) if files.is_empty() => continue,
            Node::HardLink(which) => {
                std::fs::hard_link(&files[which % files.len()], &path).unwrap();
                continue;
            }
        }
        made.push((path, item));
    }
    for (path, item) in made.iter().rev() {
        std::os::unix::fs::lchown(path, Some(item.owner.0), Some(item.owner.1)).unwrap();
        if !matches!(item.node, Node::Symlink(_)) {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(item.mode)).unwrap();
        }
        if let (Some(value), Node::File(_) | Node::Directory(_)) = (&item.xattr, &item.node) {
            rustix::fs::lsetxattr(path, "user.note", value, XattrFlags::empty()).unwrap();
        }
        let time = Timespec { tv_sec: item.mtime.0, tv_nsec: i64::from(item.mtime.1) };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// All that a layer keeps of a tree.
fn facts(top: &Path) -> BTreeMap<PathBuf, String> {
    let mut facts = BTreeMap::new();
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut todo = vec![top.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = path.symlink_metadata().unwrap();
        let mut fact = format!("{:o}", meta.mode());
        let is_whiteout = meta.rdev() == 0 && meta.mode() & 0o170_000 == 0o020_000;
        if is_whiteout {
            "whiteout".clone_into(&mut fact);
        } else if path != top {
            fact = format!("{fact} {}:{} {} {}", meta.uid(), meta.gid(), meta.mtime(), meta.rdev());
        }
        let mut value = [0; 64];
        for name in ["user.note", "trusted.overlay.opaque"] {
            if let Ok(count) = rustix::fs::lgetxattr(&path, name, &mut value) {
                fact = format!("{fact} {name}={:?}", &value[..count]);
            }
        }
        if meta.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.is_symlink() {
            fact = format!("{fact} -> {:?}", std::fs::read_link(&path).unwrap());
        } else if meta.is_file() {
            fact = format!("{fact} {} links, {}", meta.nlink(), Digest::of(&std::fs::read(&path).unwrap()));
            let relative = path.strip_prefix(top).unwrap().to_owned();
            let first = links.entry(meta.ino()).or_insert_with(|| relative.clone());
            if relative < *first {
                *first = relative;
            }
        }
        facts.insert(path.strip_prefix(top).unwrap().to_owned(), fact);
    }
    facts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn sealed_and_imported_are_one(items in prop::collection::vec(item(), 0..40)) {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (builder, puller) = (Store::open(here.path()).unwrap(), Store::open(there.path()).unwrap());
        let scratch = builder.layers().scratch().unwrap();
        make(&scratch.path.join("upper"), &items);
        let before = facts(&scratch.path.join("upper"));
        let sealed = builder.layers().seal(scratch, SealOptions::default()).unwrap();

        let mut tar = Vec::new();
        builder.layers().tar(sealed.diff_id).unwrap().read_to_end(&mut tar).unwrap();
        prop_assert_eq!(DiffId(Digest::of(&tar)), sealed.diff_id);
        let imported = puller.layers().import(&mut &tar[..], Expected::default(), false).unwrap().layer;
        prop_assert_eq!(imported.diff_id, sealed.diff_id);
        prop_assert_eq!(imported.entry_count, sealed.entry_count);
        let mut again = Vec::new();
        puller.layers().tar(imported.diff_id).unwrap().read_to_end(&mut again).unwrap();
        prop_assert!(again == tar);

        let place = format!("layers/{}/tree", sealed.diff_id.0.hex());
        prop_assert_eq!(&facts(&here.path().join(&place)), &before);
        prop_assert_eq!(&facts(&there.path().join(&place)), &before);
        prop_assert_eq!(puller.layers().open_stack(&[imported.diff_id]).unwrap().trees.len(), 1);
    }

    /// Bytes changed at random never panic, never hang, and never leave anything behind.
    #[test]
    fn damaged_archives_fail_cleanly(changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6), cut in any::<usize>()) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let scratch = store.layers().scratch().unwrap();
        let upper = scratch.path.join("upper");
        std::fs::create_dir_all(upper.join("d/e")).unwrap();
        std::fs::write(upper.join("d/f"), vec![7; 3000]).unwrap();
        symlink("d", upper.join("l")).unwrap();
        std::fs::write(upper.join("n".repeat(200)), b"long").unwrap();
        let sealed = store.layers().seal(scratch, SealOptions::default()).unwrap();
        let mut tar = Vec::new();
        store.layers().tar(sealed.diff_id).unwrap().read_to_end(&mut tar).unwrap();
        for (place, byte) in changes {
            let place = place % tar.len();
            tar[place] = byte;
        }
        tar.truncate(tar.len() - cut % (tar.len() / 2));
        if let Ok(imported) = store.layers().import(&mut &tar[..], Expected::default(), false) {
            let mut again = Vec::new();
            store.layers().tar(imported.layer.diff_id).unwrap().read_to_end(&mut again).unwrap();
            prop_assert!(again == tar);
        }
        prop_assert_eq!(std::fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    }
}
