//! Fsck against a thousand single faults: each is found, the right images are named, nothing else is.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]
#![expect(clippy::print_stderr, reason = "the test's own report")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use store::fsck::{FsckOptions, FsckReport, Severity};
use store::layers::{Expected, SealOptions};
use store::oci::descriptor::Descriptor;
use store::oci::manifest::Manifest;
use store::oci::media_type;
use store::transfer::{Format, Repack, SaveOptions, Saved, Target, save};
use store::{BlobId, DiffId, Digest, Store};

const OPAQUE: &str = "trusted.overlay.opaque";

/// Devices, owners and overlay's attributes are root's to make.
fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let all = std::env::var_os("RBUILD_TEST_ALL").is_some_and(|value| value == "1");
    assert!(is_root || !all, "this test needs root, and RBUILD_TEST_ALL=1 leaves nothing out");
    if !is_root {
        eprintln!("left out: this test needs root");
    }
    is_root
}

const RICH: &str = r"
    mkdir -p etc d/e setgid bin; echo hello > d/file; ln d/file d/hard; ln d/file bin/again
    ln -s ../d/file d/e/link; echo root:x:0:0 > etc/passwd; head -c 20000 /dev/urandom > bin/tool
    : > empty; mkfifo fifo; mknod null c 1 3; mknod disk b 8 1; echo same > etc/shared
    truncate -s 30000 holes; echo middle | dd of=holes bs=1 seek=15000 conv=notrunc status=none
    setfattr -n user.note -v 0sAAEC d/file; setfattr -n user.dir -v y d
    setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 bin/tool
    chown 1000:1000 d/e; chmod 2775 setgid; touch setgid/inner; chmod 4755 etc/shared
    touch -d '2001-02-03 04:05:06.789' empty; touch -h -d '2002-02-02' d/e/link d
";

fn shell(script: &str, dir: &Path) -> Vec<u8> {
    let output = Command::new("bash").args(["-ec", script]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut encoder = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap();
    packed
}

/// Whiteouts, an opaque directory, directories without entries, a link to a lower file, a replaced file.
fn odd_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, link: Option<&str>, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o750 } else { 0o640 });
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        header.set_path(path).unwrap();
        if let Some(link) = link {
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        tar.append(&header, content).unwrap();
    };
    let (file, dir, hard) = (tar::EntryType::Regular, tar::EntryType::Directory, tar::EntryType::Link);
    add("./", dir, None, b"");
    add("etc/.wh.passwd", file, None, b"");
    add("d/", dir, None, b"");
    add("d/.wh..wh..opq", file, None, b"");
    add("d/new", file, None, b"new\n");
    add("deep/er/file", file, None, b"deep\n");
    add("lower-link", hard, Some("bin/tool"), b"");
    add("twice", file, None, b"first\n");
    add("twice", file, None, b"second\n");
    add(".wh.null", file, None, b"");
    tar.into_inner().unwrap()
}

/// A store with three images over six layers.
struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
    layers: Vec<DiffId>,
    manifest: BlobId,
    /// Blob → layer.
    blobs: BTreeMap<BlobId, Option<DiffId>>,
    users: BTreeMap<DiffId, BTreeSet<String>>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let work = dir.path().join("work");
        fs::create_dir(&work).unwrap();
        let rich =
            shell(&format!("{RICH}\ntar c --format=posix --sparse --xattrs --xattrs-include='*' ."), &work);
        let rich = import(&store, &gzip(&rich));
        let odd = import(&store, &odd_tar());
        let sealed = seal(&store, |upper| {
            shell(&format!("{RICH}\nsetfattr -n {OPAQUE} -v y d; mknod gone c 0 0; chmod 750 ."), upper);
        });
        let packed = store.layers().packed(sealed).unwrap().blob;
        let shared = seal(&store, |upper| {
            shell("mkdir etc; echo same > etc/shared; echo mine > mine; mknod mine2 c 0 0", upper);
        });
        let small = shell("echo small > f; ln f g; mkdir h; echo x > h/y; tar c .", &fresh(&dir, "small"));
        let small = import(&store, &small);
        let other =
            shell("mkdir h; echo z > h/z; head -c 9000 /dev/zero > zeros; tar c *", &fresh(&dir, "other"));
        let other = import(&store, &gzip(&other));
        let mut users: BTreeMap<DiffId, BTreeSet<String>> = BTreeMap::new();
        let mut manifest = None;
        for (name, layers) in [
            ("one:1", vec![rich, odd, sealed]),
            ("two:1", vec![rich, shared]),
            ("three:1", vec![small, other]),
        ] {
            let ids: Vec<String> = layers.iter().map(|layer| format!("\"{layer}\"")).collect();
            let config = format!(
                r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
                ids.join(",")
            );
            let came_with = (name == "one:1").then(|| {
                let descriptors = layers.iter().map(|layer| descriptor(&store, *layer)).collect();
                let config = Descriptor::of(media_type::CONFIG, config.as_bytes());
                store.blobs().add(&Manifest::new(config, descriptors).write()).unwrap()
            });
            manifest = manifest.or(came_with);
            let id = store.images().add(config.as_bytes(), came_with).unwrap();
            store.images().set_name(&name.parse().unwrap(), id).unwrap();
            for layer in layers {
                users.entry(layer).or_default().insert(name.to_owned());
            }
        }
        let layers = vec![rich, odd, sealed, shared, small, other];
        let mut blobs = BTreeMap::from([(manifest.unwrap(), None), (packed, Some(sealed))]);
        for layer in &layers {
            for (blob, ..) in store.blobs().of_layer(*layer).unwrap() {
                blobs.insert(blob, Some(*layer));
            }
        }
        assert_eq!(blobs.len(), 4);
        // Held layers could not be replaced, and pins would be dropped by nobody.
        drop(store);
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store, layers, manifest: manifest.unwrap(), blobs, users }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn layer(&self, id: DiffId) -> PathBuf {
        self.root().join("layers").join(id.0.hex())
    }

    fn blob(&self, id: BlobId) -> PathBuf {
        self.root().join("blobs/sha256").join(id.0.hex())
    }

    fn fsck(&self) -> FsckReport {
        self.store.fsck(FsckOptions::default()).unwrap()
    }

    fn repair(&self) -> FsckReport {
        self.store.fsck(FsckOptions { repair: true, quick: false }).unwrap()
    }

    fn expect_clean(&self, when: &str) {
        let report = self.fsck();
        assert!(report.findings.is_empty(), "{when}: {:#?}", report.findings);
    }

    fn sql(&self, statement: &str) {
        let connection = rusqlite::Connection::open(self.root().join("index.db")).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        connection.execute_batch(statement).unwrap();
    }
}

fn fresh(dir: &tempfile::TempDir, name: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::create_dir(&path).unwrap();
    path
}

fn import(store: &Store, bytes: &[u8]) -> DiffId {
    store.layers().import(&mut &bytes[..], Expected::default(), true).unwrap().layer.diff_id
}

fn seal(store: &Store, fill: impl FnOnce(&Path)) -> DiffId {
    let scratch = store.layers().scratch().unwrap();
    fill(&scratch.path.join("upper"));
    store.layers().seal(scratch, SealOptions::default()).unwrap().diff_id
}

fn descriptor(store: &Store, layer: DiffId) -> Descriptor {
    let (digest, size_bytes, kind) = match store.blobs().of_layer(layer).unwrap().first() {
        Some((blob, size, _)) => (blob.0, *size, media_type::LAYER_GZIP),
        None => (layer.0, store.layers().find(layer).unwrap().unwrap().tar_size_bytes, media_type::LAYER),
    };
    let media_type = kind.to_owned();
    Descriptor { media_type, digest, size_bytes, annotations: BTreeMap::new(), platform: None }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap() % limit
    }

    fn pick<'v, T>(&mut self, values: &'v [T]) -> &'v T {
        &values[self.below(values.len())]
    }
}

fn times(path: &Path) -> Timestamps {
    let meta = path.symlink_metadata().unwrap();
    let time = Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() };
    Timestamps { last_access: time, last_modification: time }
}

fn set_times(path: &Path, times: &Timestamps) {
    rustix::fs::utimensat(CWD, path, times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Changes something in a folder, whose own time stays: the fault itself is to be found, not its trace.
fn hidden<T>(path: &Path, change: impl FnOnce() -> T) -> T {
    let parent = path.parent().unwrap();
    let before = times(parent);
    let value = change();
    set_times(parent, &before);
    value
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let count = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 4096];
        let count = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value[..count].to_vec()
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// Owner, mode, attributes and time, put back in this order: each undoes what the one before spoils.
struct Attributes {
    meta: fs::Metadata,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    times: Timestamps,
}

impl Attributes {
    fn of(path: &Path) -> Self {
        Self { meta: path.symlink_metadata().unwrap(), xattrs: xattrs(path), times: times(path) }
    }

    fn put(&self, path: &Path) {
        std::os::unix::fs::lchown(path, Some(self.meta.uid()), Some(self.meta.gid())).unwrap();
        if !self.meta.is_symlink() {
            fs::set_permissions(path, Permissions::from_mode(self.meta.mode() & 0o7777)).unwrap();
        }
        for (name, _) in xattrs(path) {
            if !self.xattrs.iter().any(|(known, _)| *known == name) {
                rustix::fs::lremovexattr(path, &name[..]).unwrap();
            }
        }
        for (name, value) in &self.xattrs {
            rustix::fs::lsetxattr(path, &name[..], value, XattrFlags::empty()).unwrap();
        }
        set_times(path, &self.times);
    }
}

type Undo = Box<dyn FnOnce()>;

/// Writes `bytes` into the file as it is (its names, attributes and time stay); undone by writing the old ones.
fn rewrite(path: &Path, bytes: &[u8]) -> Undo {
    let attributes = Attributes::of(path);
    let before = fs::read(path).unwrap();
    let path = path.to_owned();
    let write = move |bytes: &[u8]| {
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        drop(file);
        attributes.put(&path);
    };
    write(bytes);
    Box::new(move || write(&before))
}

/// Takes a name away; undone by putting the very same file back.
fn take_away(fixture: &Fixture, path: &Path) -> Undo {
    let aside = fixture.dir.path().join("aside");
    hidden(path, || fs::rename(path, &aside).unwrap());
    let path = path.to_owned();
    Box::new(move || hidden(&path, || fs::rename(&aside, &path).unwrap()))
}

/// Changes attributes of one file; undone by putting all of them back.
fn change(path: &Path, change: impl FnOnce(&Path)) -> Undo {
    let attributes = Attributes::of(path);
    change(path);
    let path = path.to_owned();
    Box::new(move || attributes.put(&path))
}

/// Adds something at a free name; undone by taking it away.
fn add(path: &Path, make: impl FnOnce(&Path)) -> Undo {
    hidden(path, || make(path));
    let path = path.to_owned();
    Box::new(move || {
        hidden(&path, || if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) }.unwrap());
    })
}

/// What can be damaged: a file, and the images that have it.
struct Victim {
    path: PathBuf,
    layer: Option<DiffId>,
    images: BTreeSet<String>,
}

fn victims(fixture: &Fixture) -> Vec<Victim> {
    let mut victims = Vec::new();
    for layer in &fixture.layers {
        for entry in walkdir::WalkDir::new(fixture.layer(*layer)).min_depth(1).sort_by_file_name() {
            let path = entry.unwrap().into_path();
            victims.push(Victim { path, layer: Some(*layer), images: fixture.users[layer].clone() });
        }
    }
    for (blob, layer) in &fixture.blobs {
        let images =
            layer.map_or(BTreeSet::from(["one:1".to_owned()]), |layer| fixture.users[&layer].clone());
        victims.push(Victim { path: fixture.blob(*blob), layer: None, images });
    }
    victims
}

const CONTENT: [&str; 6] = ["bit flip", "truncate", "append", "zero a page", "swap", "recipe flip"];
const OTHERS: [&str; 15] = [
    "delete",
    "extra file",
    "extra directory",
    "extra whiteout",
    "chmod",
    "chown",
    "mtime",
    "xattr changed",
    "xattr added",
    "link target",
    "link split",
    "whiteout removed",
    "opaque removed",
    "opaque added",
    "retyped",
];

/// Applies one fault of a kind to a victim; `None` when that victim can't have it.
fn strike(
    fixture: &Fixture,
    kind: &str,
    all: &[Victim],
    victim: &Victim,
    random: &mut Random,
) -> Option<Undo> {
    let path = &victim.path;
    let meta = path.symlink_metadata().unwrap();
    let below_tree = path.strip_prefix(fixture.layer(victim.layer?)).ok()?.starts_with("tree");
    if CONTENT.contains(&kind) {
        return strike_content(kind, all, victim, &meta, random);
    }
    let is_whiteout = meta.rdev() == 0 && FileType::from_raw_mode(meta.mode()) == FileType::CharacterDevice;
    let own_tree = below_tree && path.file_name()? != "tree";
    let in_dir = |name: &str| (below_tree && meta.is_dir()).then(|| path.join(name));
    match kind {
        "delete" => (!is_whiteout && !meta.is_dir()).then(|| take_away(fixture, path)),
        "whiteout removed" => is_whiteout.then(|| take_away(fixture, path)),
        "extra file" => Some(add(&in_dir("extra")?, |path| fs::write(path, "x").unwrap())),
        "extra directory" => Some(add(&in_dir("extra")?, |path| fs::create_dir(path).unwrap())),
        "extra whiteout" => Some(add(&in_dir("extra")?, |path| {
            rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        })),
        "chmod" if own_tree && !is_whiteout && !meta.is_symlink() => Some(change(path, |path| {
            let mode = (meta.mode() & 0o7777) ^ (1 << random.below(12));
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        })),
        "chown" if own_tree && !is_whiteout => Some(change(path, |path| {
            std::os::unix::fs::lchown(path, Some(meta.uid() + 1), None).unwrap();
        })),
        "mtime" if own_tree && !is_whiteout && !is_parent(path) => Some(change(path, |path| {
            let mut times = times(path);
            times.last_modification.tv_sec += 1;
            set_times(path, &times);
        })),
        "xattr changed" => {
            let (name, value) = xattrs(path).into_iter().find(|(name, _)| !name.starts_with(b"trusted."))?;
            let cut = random.below(2) == 0;
            (below_tree).then(|| {
                change(path, |path| {
                    if cut {
                        rustix::fs::lremovexattr(path, &name[..]).unwrap();
                    } else if name == b"security.capability" {
                        let mut value = value.clone();
                        value[4] ^= 1;
                        rustix::fs::lsetxattr(path, &name[..], &value, XattrFlags::empty()).unwrap();
                    } else {
                        rustix::fs::lsetxattr(path, &name[..], b"other", XattrFlags::empty()).unwrap();
                    }
                })
            })
        }
        "xattr added" if own_tree && (meta.is_file() || meta.is_dir()) => Some(change(path, |path| {
            rustix::fs::lsetxattr(path, "user.extra", b"1", XattrFlags::empty()).unwrap();
        })),
        "link target" if meta.is_symlink() => {
            Some(replace(fixture, path, |path| symlink("elsewhere", path).unwrap()))
        }
        "link split" if own_tree && meta.is_file() && meta.nlink() > 1 => {
            let content = fs::read(path).unwrap();
            Some(replace(fixture, path, |path| fs::write(path, content).unwrap()))
        }
        "retyped" if own_tree && !meta.is_dir() => {
            let is_fifo = FileType::from_raw_mode(meta.mode()) == FileType::Fifo;
            let (kind, device) = if is_fifo { (FileType::CharacterDevice, 259) } else { (FileType::Fifo, 0) };
            Some(replace(fixture, path, |path| {
                rustix::fs::mknodat(CWD, path, kind, Mode::RUSR, device).unwrap();
            }))
        }
        "opaque removed"
            if meta.is_dir() && xattrs(path).iter().any(|(name, _)| name == OPAQUE.as_bytes()) =>
        {
            Some(change(path, |path| rustix::fs::lremovexattr(path, OPAQUE).unwrap()))
        }
        "opaque added"
            if own_tree
                && meta.is_dir()
                && !xattrs(path).iter().any(|(name, _)| name == OPAQUE.as_bytes()) =>
        {
            Some(change(path, |path| rustix::fs::lsetxattr(path, OPAQUE, b"y", XattrFlags::empty()).unwrap()))
        }
        _ => None,
    }
}

/// A directory without an entry of its own has no time that anything says.
fn is_parent(path: &Path) -> bool {
    path.is_dir() && ["etc", "deep", "er"].iter().any(|name| path.ends_with(name)) && {
        let tree = path.ancestors().find(|path| path.ends_with("tree")).unwrap();
        tree.join("twice").exists()
    }
}

/// Puts something else under a name, its attributes as they were where they can be.
fn replace(fixture: &Fixture, path: &Path, make: impl FnOnce(&Path)) -> Undo {
    let attributes = Attributes::of(path);
    let back = take_away(fixture, path);
    hidden(path, || make(path));
    if FileType::from_raw_mode(path.symlink_metadata().unwrap().mode())
        == FileType::from_raw_mode(attributes.meta.mode())
    {
        attributes.put(path);
    }
    let path = path.to_owned();
    Box::new(move || {
        hidden(&path, || fs::remove_file(&path).unwrap());
        back();
    })
}

fn strike_content(
    kind: &str,
    all: &[Victim],
    victim: &Victim,
    meta: &fs::Metadata,
    random: &mut Random,
) -> Option<Undo> {
    let path = &victim.path;
    if !meta.is_file() || (meta.len() == 0 && kind != "append") {
        return None;
    }
    let is_recipe = path.ends_with("recipe");
    let mut bytes = fs::read(path).unwrap();
    match kind {
        "recipe flip" if !is_recipe => return None,
        "bit flip" | "recipe flip" => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        "truncate" => bytes.truncate(random.below(bytes.len())),
        "append" => bytes.push(0),
        "zero a page" => {
            let start = random.below(bytes.len()) / 4096 * 4096;
            let end = bytes.len().min(start + 4096);
            bytes[start..end].iter().any(|byte| *byte != 0).then_some(())?;
            bytes[start..end].fill(0);
        }
        _ => return swap(all, victim, &bytes, random),
    }
    Some(rewrite(path, &bytes))
}

/// Exchanges the content of two files; both images are hit, so both must be the same ones.
fn swap(all: &[Victim], victim: &Victim, bytes: &[u8], random: &mut Random) -> Option<Undo> {
    let other = random.pick(all);
    let is_file = other.path.symlink_metadata().unwrap().is_file();
    if !is_file || other.images != victim.images {
        return None;
    }
    let theirs = fs::read(&other.path).unwrap();
    if theirs == bytes {
        return None;
    }
    let first = rewrite(&victim.path, &theirs);
    let second = rewrite(&other.path, bytes);
    Some(Box::new(move || {
        second();
        first();
    }))
}

fn damaged_images(report: &FsckReport) -> BTreeSet<String> {
    let damage = report.findings.iter().filter(|finding| finding.severity == Severity::Damage);
    damage.flat_map(|finding| finding.images.clone()).collect()
}

#[test]
fn a_thousand_faults_are_found_and_the_right_images_named() {
    const FAULTS: usize = 1100;
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    fixture.expect_clean("at first");
    let all = victims(&fixture);
    let seed = std::env::var("RBUILD_TEST_SEED").map_or(20_261_124, |seed| seed.parse().unwrap());
    let mut random = Random(seed);
    let kinds: Vec<&str> = CONTENT.iter().chain(&OTHERS).copied().collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut harmless = 0;
    let mut done = 0;
    while done < FAULTS {
        let kind = kinds[done % kinds.len()];
        let mut blob_or_layer = || loop {
            let victim = random.pick(&all);
            let struck = if victim.layer.is_some() {
                strike(&fixture, kind, &all, victim, &mut random)
            } else if CONTENT.contains(&kind) {
                let meta = victim.path.metadata().unwrap();
                strike_content(kind, &all, victim, &meta, &mut random)
            } else if kind == "delete" {
                Some(take_away(&fixture, &victim.path))
            } else {
                None
            };
            if let Some(undo) = struck {
                return (victim, undo);
            }
        };
        let (victim, undo) = blob_or_layer();
        let what = format!("seed {seed}, fault {done}: {kind} of {}", victim.path.display());
        let report = fixture.fsck();
        if report.damage().next().is_none() && victim.path.ends_with("recipe") {
            // A bit that zstd gives no meaning: the layer still comes out as it went in.
            let layers = fixture.store.layers();
            let mut tar = layers.tar(victim.layer.unwrap()).unwrap();
            let read = std::io::copy(&mut tar, &mut std::io::sink());
            assert!(read.is_ok(), "{what}: not found, and the tar is wrong");
            harmless += 1;
        } else {
            assert!(report.damage().next().is_some(), "{what}: not found");
            assert_eq!(damaged_images(&report), victim.images, "{what}: {:#?}", report.findings);
        }
        undo();
        *counts.entry(kind).or_default() += 1;
        done += 1;
        if done % 10 == 0 {
            fixture.expect_clean(&format!("after {what}"));
        }
    }
    fixture.expect_clean("at last");
    eprintln!(
        "{done} faults, {} found, {harmless} harmless bits of recipes, 0 missed: {counts:?}",
        done - harmless
    );
}

#[test]
fn damaged_rows_and_folders_are_found_and_mended_where_something_else_says_it() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let rich = fixture.layers[0];
    let mended = [
        "UPDATE image_layers SET position = position + 10 WHERE position = 0".to_owned(),
        "UPDATE images SET size = size + 1".to_owned(),
        format!("UPDATE layers SET tar_size = tar_size + 1 WHERE diff_id = '{rich}'"),
        format!("UPDATE layers SET entry_count = 1, gaps = 7 WHERE diff_id = '{rich}'"),
        format!("DELETE FROM layers WHERE diff_id = '{rich}'"),
        "UPDATE blobs SET size = size + 1".to_owned(),
    ];
    for change in mended {
        fixture.sql(&change);
        assert!(fixture.fsck().damage().next().is_some(), "{change}: not found");
        let report = fixture.repair();
        assert!(report.damage().next().is_none(), "{change}: {:#?}", report.findings);
        fixture.expect_clean(&change);
    }
    for place in ["layers", "blobs/sha256", "staging", "version"] {
        fs::set_permissions(fixture.root().join(place), Permissions::from_mode(0o777)).unwrap();
        assert!(fixture.fsck().damage().next().is_some(), "{place}: not found");
        assert!(fixture.repair().damage().next().is_none(), "{place}");
    }
    fixture.expect_clean("folders");
    for (change, images) in [
        ("UPDATE names SET image_id = replace(image_id, 'a', 'b') WHERE reference LIKE '%one%'", vec![]),
        ("UPDATE images SET config = CAST(config || ' ' AS BLOB) WHERE manifest IS NOT NULL", vec!["one:1"]),
        ("UPDATE images SET manifest = replace(manifest, '1', '2')", vec!["one:1"]),
        ("UPDATE layers SET diff_id = 'nonsense' WHERE gaps > 8", vec!["one:1"]),
    ] {
        let fixture = Fixture::new();
        fixture.sql(change);
        let report = fixture.fsck();
        assert!(report.damage().next().is_some(), "{change}: not found");
        assert_eq!(damaged_images(&report), images.into_iter().map(str::to_owned).collect(), "{change}");
        if change.contains("config") {
            let image = fixture.store.images().find("one:1").unwrap().unwrap();
            let saved = [Saved { image, names: Vec::new() }];
            let mut out = Vec::new();
            let options = SaveOptions { format: Format::Docker, repack: Repack::Keep };
            let told = save(&fixture.store, &saved, options, Target::Archive(&mut out)).unwrap_err();
            assert!(format!("{told:?}").contains("WrongContent"), "{told:?}");
        }
    }
}

#[test]
fn garbage_and_untrusted_layers_are_no_damage() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    fs::create_dir(fixture.root().join("layers").join(Digest::of(b"x").hex())).unwrap();
    fs::write(fixture.root().join("blobs/sha256/stray"), "x").unwrap();
    fixture.sql("UPDATE layers SET synced = 0, boot_id = 'another' WHERE sequence = 1");
    let report = fixture.fsck();
    assert!(report.damage().next().is_none(), "{:#?}", report.findings);
    let count = |severity| report.findings.iter().filter(|finding| finding.severity == severity).count();
    assert_eq!((count(Severity::Garbage), count(Severity::Note)), (2, 1), "{:#?}", report.findings);
}

/// Damages, mends, and looks whether all is as it was.
fn expect_mended(fixture: &Fixture, what: &str, how: &str) {
    assert!(fixture.fsck().damage().next().is_some(), "{what}: not found");
    let report = fixture.repair();
    assert!(report.damage().next().is_none(), "{what}: {:#?}", report.findings);
    let outcomes: Vec<_> = report.findings.iter().filter_map(|finding| finding.outcome.clone()).collect();
    assert!(outcomes.iter().any(|outcome| outcome.contains(how)), "{what}: {outcomes:?}");
    fixture.expect_clean(what);
    for layer in &fixture.layers {
        let layers = fixture.store.layers();
        let mut tar = layers.tar(*layer).unwrap();
        std::io::copy(&mut tar, &mut std::io::sink()).unwrap();
    }
}

#[test]
fn what_can_be_made_again_is_made_again() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let [rich, odd, sealed, shared, small, _] = fixture.layers[..] else { unreachable!() };
    let tree = |layer: DiffId, path: &str| fixture.layer(layer).join("tree").join(path);
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[0] ^= 1;
        drop(rewrite(path, &bytes));
    };
    let itself = "its own recipe and files";
    fs::set_permissions(tree(odd, "d/new"), Permissions::from_mode(0o777)).unwrap();
    expect_mended(&fixture, "chmod", itself);
    fs::write(tree(sealed, "extra"), "x").unwrap();
    expect_mended(&fixture, "extra file", itself);
    fs::remove_file(tree(odd, "etc/passwd")).unwrap();
    expect_mended(&fixture, "whiteout", itself);
    fs::remove_file(tree(sealed, "d/e/link")).unwrap();
    fs::remove_dir(tree(sealed, "d/e")).unwrap();
    expect_mended(&fixture, "directory and link", itself);
    rustix::fs::lremovexattr(tree(odd, "d"), OPAQUE).unwrap();
    expect_mended(&fixture, "opaque mark", itself);
    fs::write(fixture.layer(odd).join("gaps"), "").unwrap();
    expect_mended(&fixture, "gaps", itself);
    fs::remove_file(tree(small, "g")).unwrap();
    fs::copy(tree(small, "f"), tree(small, "g")).unwrap();
    expect_mended(&fixture, "split link", itself);
    fs::set_permissions(fixture.layer(odd).join("recipe"), Permissions::from_mode(0o644)).unwrap();
    expect_mended(&fixture, "mode of a recipe", "the modes of its own files");

    flip(&tree(rich, "bin/tool"));
    expect_mended(&fixture, "flip, with a blob", "from blob");
    flip(&fixture.layer(rich).join("recipe"));
    expect_mended(&fixture, "recipe, with a blob", "from blob");
    fs::remove_dir_all(fixture.layer(rich)).unwrap();
    expect_mended(&fixture, "whole folder, with a blob", "from blob");
    flip(&fixture.layer(shared).join("recipe"));
    expect_mended(&fixture, "recipe, sealed here", "its recipe again");
    fs::remove_file(fixture.layer(shared).join("recipe")).unwrap();
    expect_mended(&fixture, "recipe gone, sealed here", "its recipe again");
    flip(&tree(shared, "etc/shared"));
    expect_mended(&fixture, "flip, with another layer's copy", "took from other layers: etc/shared");
    fs::remove_file(tree(shared, "etc/shared")).unwrap();
    expect_mended(&fixture, "file gone, with another layer's copy", "took from other layers: etc/shared");
    fs::remove_file(tree(small, "f")).unwrap();
    expect_mended(&fixture, "file gone, with another name", "took from other layers: f");

    let packed = fixture.store.layers().packed(sealed).unwrap().blob;
    flip(&fixture.blob(packed));
    expect_mended(&fixture, "blob packed here", "packed again");
    fs::remove_file(fixture.blob(packed)).unwrap();
    expect_mended(&fixture, "blob packed here, gone", "packed again");
    fs::set_permissions(fixture.blob(packed), Permissions::from_mode(0o666)).unwrap();
    expect_mended(&fixture, "mode of a blob", "set its mode");
}

#[test]
fn what_is_lost_is_told_and_left_and_nothing_good_is_touched() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let [rich, odd, ..] = fixture.layers[..] else { unreachable!() };
    let victim = fixture.layer(odd).join("tree/d/new");
    let before = |layer: DiffId| fs::metadata(fixture.layer(layer).join("tree")).unwrap().ino();
    let inodes: Vec<u64> = fixture.layers.iter().map(|layer| before(*layer)).collect();
    drop(rewrite(&victim, b"bad\n"));
    let report = fixture.repair();
    assert_eq!(damaged_images(&report), BTreeSet::from(["one:1".to_owned()]), "{:#?}", report.findings);
    assert_eq!(report.damage().count(), 1);
    assert_eq!(fs::read(&victim).unwrap(), b"bad\n");
    let after: Vec<u64> = fixture.layers.iter().map(|layer| before(*layer)).collect();
    assert_eq!(inodes, after, "a layer was replaced");
    drop(rewrite(&victim, b"new\n"));

    // A blob that came from outside can't be packed alike: it goes, its layer stays, with a note.
    let (blob, ..) = fixture.store.blobs().of_layer(rich).unwrap()[0];
    drop(rewrite(&fixture.blob(blob), b"bad"));
    let report = fixture.repair();
    assert!(report.damage().next().is_none(), "{:#?}", report.findings);
    assert!(!fixture.blob(blob).exists());
    let report = fixture.fsck();
    assert!(
        report.findings.iter().all(|finding| finding.severity == Severity::Note),
        "{:#?}",
        report.findings
    );
    // A manifest is nowhere else: it stays as it is, and is told.
    drop(rewrite(&fixture.blob(fixture.manifest), b"bad"));
    let report = fixture.repair();
    assert_eq!(damaged_images(&report), BTreeSet::from(["one:1".to_owned()]));
    assert_eq!(fs::read(fixture.blob(fixture.manifest)).unwrap(), b"bad");
}

#[test]
fn a_layer_in_use_is_not_replaced() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let odd = fixture.layers[1];
    let other = Store::open(&fixture.root()).unwrap();
    let stack = other.layers().open_stack(&[fixture.layers[0], odd]).unwrap();
    let victim = fixture.layer(odd).join("tree/d/new");
    fs::set_permissions(&victim, Permissions::from_mode(0o777)).unwrap();
    let report = fixture.repair();
    let outcome = report.damage().next().unwrap().outcome.clone().unwrap();
    assert!(outcome.contains("in use"), "{outcome}");
    drop(stack);
    drop(other);
    expect_mended(&fixture, "after its use", "its own recipe");
}

#[test]
fn quick_sees_all_but_content() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    let quick = || fixture.store.fsck(FsckOptions { quick: true, repair: false }).unwrap();
    assert!(quick().findings.is_empty());
    let victim = fixture.layer(fixture.layers[1]).join("tree/d/new");
    let undo = rewrite(&victim, b"bad\n");
    assert!(quick().findings.is_empty());
    assert!(fixture.fsck().damage().next().is_some());
    undo();
    let undo = rewrite(&victim, b"bad");
    assert!(quick().damage().next().is_some());
    undo();
    let mut content = Vec::new();
    fixture.store.blobs().open(fixture.manifest).unwrap().read_to_end(&mut content).unwrap();
    let undo = rewrite(&fixture.blob(fixture.manifest), &content[1..]);
    assert!(quick().damage().next().is_some());
    undo();
    fixture.expect_clean("at last");
}
