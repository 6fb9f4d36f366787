//! Hostile archives (SECURITY.md, SEC-T01 to T15): refused or harmless, and nothing outside changes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use store::layers::{Expected, Layer};
use store::{Store, StoreError};

/// Builds archives by hand, lies included.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, flag: u8, path: &str, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(tar::EntryType::new(flag));
        header.set_mode(if flag == b'5' { 0o777 } else { 0o666 });
        header.set_uid(12345);
        header.set_gid(12345);
        header.set_mtime(1);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(b'0', path, "", content)
    }

    fn dir(self, path: &str) -> Self {
        self.entry(b'5', path, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path, target, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path, target, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..).find(|length| *length == rest + length.to_string().len()).unwrap();
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(b'x', "pax", "", &body)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// A store beside a canary that must not change.
struct Scene {
    dir: tempfile::TempDir,
    store: Store,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let canary = dir.path().join("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("secret"), b"canary").unwrap();
        std::fs::set_permissions(canary.join("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn canary(&self) -> String {
        self.dir.path().join("canary").to_str().unwrap().to_owned()
    }

    fn fingerprint(&self) -> Vec<(PathBuf, u32, u32, i64, i64, u64)> {
        let mut all = Vec::new();
        for path in [self.dir.path().join("canary"), self.dir.path().join("canary/secret")] {
            let meta = path.symlink_metadata().unwrap();
            all.push((path, meta.mode(), meta.uid(), meta.ctime(), meta.ctime_nsec(), meta.nlink()));
        }
        all
    }

    fn import(&self, tar: &[u8]) -> Result<Layer, StoreError> {
        let before = self.fingerprint();
        let result = self.store.layers().import(&mut &tar[..], Expected::default(), false);
        assert_eq!(self.fingerprint(), before);
        let mut names: Vec<_> =
            std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["canary", "store"]);
        assert_eq!(std::fs::read_dir(self.dir.path().join("store/staging")).unwrap().count(), 0);
        if let Ok(imported) = &result {
            let mut again = Vec::new();
            self.store.layers().tar(imported.layer.diff_id).unwrap().read_to_end(&mut again).unwrap();
            assert!(again == tar, "the tar did not come back");
        }
        result.map(|imported| imported.layer)
    }

    fn tree(&self, layer: &Layer) -> PathBuf {
        self.dir.path().join("store/layers").join(layer.diff_id.0.hex()).join("tree")
    }

    fn refused(&self, tar: Vec<u8>, why: &str) {
        let error = self.import(&tar).expect_err(why);
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        assert!(text.contains(why), "`{text}` does not say `{why}`");
    }
}

#[test]
fn names_that_point_outside_are_refused_and_absolute_ones_stay_inside() {
    let scene = Scene::new();
    for name in ["../x", "a/../../x", "./../x", "..", "a/b/../../../canary/secret"] {
        scene.refused(Tar::default().file(name, b"owned").end(), "outside");
        scene.refused(Tar::default().hard_link("l", name).end(), "outside");
    }
    let canary = format!("{}/secret", scene.canary());
    let layer =
        scene.import(&Tar::default().file(&canary, b"owned").file("a//b/./c/../d", b"").end()).unwrap();
    assert_eq!(std::fs::read(scene.tree(&layer).join(&canary[1..])).unwrap(), b"owned");
    assert!(scene.tree(&layer).join("a/b/d").exists());
}

#[test]
fn nothing_is_written_through_a_link() {
    let scene = Scene::new();
    let canary = scene.canary();
    let inside = |layer: &Layer, path: &str| scene.tree(layer).join(path).symlink_metadata().unwrap();

    let layer = scene.import(&Tar::default().symlink("l", &canary).file("l/secret", b"owned").end()).unwrap();
    assert!(inside(&layer, &format!("{}/secret", &canary[1..])).is_file());

    let up = "../../../../../../../../../..";
    let chain =
        Tar::default().symlink("a", up).symlink("b", "a/..").file(&format!("b{canary}/secret"), b"owned");
    let layer = scene.import(&chain.end()).unwrap();
    assert!(inside(&layer, &format!("{}/secret", &canary[1..])).is_file());

    // A directory entry over a link takes its place; mode, owner and time are not the target's.
    let layer = scene.import(&Tar::default().symlink("d", &canary).dir("d").end()).unwrap();
    assert_eq!(inside(&layer, "d").mode() & 0o777, 0o777);

    // A directory that is swapped for a link before its time is set.
    let swapped = Tar::default().dir("x").dir("x/secret").file("x/secret/f", b"1").symlink("x", &canary);
    let layer = scene.import(&swapped.end()).unwrap();
    assert!(inside(&layer, "x").is_symlink());

    scene
        .refused(Tar::default().symlink("p", "q").symlink("q", "p").file("p/f", b"").end(), "symbolic links");
}

#[test]
fn hard_links_reach_files_of_the_layer_only() {
    let scene = Scene::new();
    let secret = format!("{}/secret", scene.canary());
    // The target is looked for inside: it is not there, so the link waits for a lower layer.
    let layer = scene.import(&Tar::default().hard_link("h", &secret).file("h2", b"").end()).unwrap();
    assert!(scene.tree(&layer).join("h").symlink_metadata().is_err());
    assert!(scene.store.layers().open_stack(&[layer.diff_id]).is_err());

    let through = Tar::default().symlink("s", &scene.canary()).hard_link("h", "s/secret").file("h", b"owned");
    let layer = scene.import(&through.end()).unwrap();
    assert_eq!(std::fs::read(scene.tree(&layer).join("h")).unwrap(), b"owned");

    // Writing a file over one of two names leaves the other alone.
    let broken = Tar::default().file("one", b"first").hard_link("two", "one").file("one", b"second");
    let layer = scene.import(&broken.end()).unwrap();
    assert_eq!(std::fs::read(scene.tree(&layer).join("two")).unwrap(), b"first");
    assert_eq!(std::fs::read(scene.tree(&layer).join("one")).unwrap(), b"second");

    scene.refused(Tar::default().dir("d").hard_link("h", "d").end(), "hard link to a directory");
    scene.refused(Tar::default().hard_link("h", "/").end(), "link to the root");
}

#[test]
fn the_root_stays_a_directory() {
    let scene = Scene::new();
    for name in ["/", ".", "./", "a/.."] {
        for flag in [b'0', b'1', b'2', b'6'] {
            if flag == b'0' && name.ends_with('/') {
                continue;
            }
            scene.refused(Tar::default().entry(flag, name, "/tmp", b"").end(), "only be a directory");
        }
    }
    let layer = scene.import(&Tar::default().dir("./").end()).unwrap();
    assert_eq!(scene.tree(&layer).metadata().unwrap().uid(), 12345);
}

#[test]
fn whiteouts_touch_their_own_name_only() {
    let scene = Scene::new();
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..", "a/.wh..."] {
        scene.refused(Tar::default().file(name, b"").end(), "whiteout of nothing");
    }
    scene.refused(Tar::default().dir(".wh.d").end(), "named like a whiteout");
    scene.refused(Tar::default().symlink(".wh.d", "x").end(), "named like a whiteout");
    let canary = scene.canary();
    let tar = Tar::default()
        .symlink("d", &canary)
        .file("d/.wh.secret", b"")
        .file("keep", b"mine")
        .file(".wh.keep", b"")
        .file(".wh.late", b"")
        .file("late", b"mine")
        .file(".wh.gone", b"")
        .dir("both/")
        .file("both/f", b"x")
        .file(".wh.both", b"")
        .file(".wh.plain", b"")
        .dir("plain/");
    let layer = scene.import(&tar.end()).unwrap();
    let tree = scene.tree(&layer);
    let is_whiteout = |path: &str| {
        tree.join(path).symlink_metadata().unwrap().rdev() == 0
            && tree.join(path).symlink_metadata().unwrap().mode() & 0o170_000 == 0o020_000
    };
    assert!(is_whiteout(&format!("{}/secret", &canary[1..])));
    assert!(is_whiteout("gone"));
    assert_eq!(std::fs::read(tree.join("keep")).unwrap(), b"mine");
    assert_eq!(std::fs::read(tree.join("late")).unwrap(), b"mine");
    for path in ["both", "plain"] {
        assert!(is_opaque(&tree.join(path)), "{path}");
    }
    assert!(tree.join("both/f").exists());
}

fn is_opaque(path: &Path) -> bool {
    let output = std::process::Command::new("getfattr")
        .args(["-n", "trusted.overlay.opaque", "--only-values"])
        .arg(path)
        .output()
        .unwrap();
    output.stdout == b"y"
}

#[test]
fn forged_overlay_attributes_and_devices_are_not_taken() {
    let scene = Scene::new();
    scene.refused(Tar::default().entry(b'3', "c", "", b"").end(), "0:0");
    scene.refused(Tar::default().entry(b'Z', "z", "", b"").end(), "unknown type");
    let forged: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.rbuild.device", b"c 1 1"),
        ("SCHILY.xattr.security.selinux", b"x"),
        ("SCHILY.xattr.user.fine", b"yes"),
    ];
    let layer = scene.import(&Tar::default().pax(forged).dir("d").pax(forged).file("f", b"x").end()).unwrap();
    for name in ["d", "f"] {
        let output = std::process::Command::new("getfattr")
            .args(["-d", "-m", "-", "--absolute-names"])
            .arg(scene.tree(&layer).join(name))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let attributes: Vec<&str> = text.lines().filter(|line| line.contains('=')).collect();
        assert_eq!(attributes, ["user.fine=\"yes\""], "{name}");
    }
}

#[test]
fn archives_that_readers_understand_differently_are_refused() {
    let scene = Scene::new();
    let size =
        |n: &'static [u8]| -> &'static [(&'static str, &'static [u8])] { Box::leak(Box::new([("size", n)])) };
    scene.refused(Tar::default().pax(&[("size", b"1"), ("size", b"2")]).file("f", b"x").end(), "two sizes");
    scene
        .refused(Tar::default().entry(b'g', "g", "", b"11 size=77\n").file("f", b"x").end(), "global header");
    scene.refused(Tar::default().entry(b'5', "d", "", b"content").end(), "no regular file");
    scene.refused(Tar::default().entry(b'2', "l", "t", b"content").end(), "no regular file");
    scene.refused(Tar::default().pax(size(b"512")).dir("d").end(), "no regular file");
    let two_names =
        Tar::default().pax(&[("path", b"one")]).entry(b'L', "././@LongLink", "", b"two\0").file("f", b"");
    scene.refused(two_names.end(), "two different names");
    scene.refused(Tar::default().pax(&[("path", b"a\0b")]).file("f", b"").end(), "NUL");
    let mut bad_sum = Tar::default().file("f", b"").end();
    bad_sum[0] = b'g';
    scene.refused(bad_sum, "checksum");
    let mut trailing = Tar::default().file("f", b"").end();
    trailing.extend_from_slice(&Tar::default().file("smuggled", b"").end());
    scene.refused(trailing, "other than zeros");
    // A size that a PAX record gives wins over the header's.
    let mut smuggle = Tar::default().pax(size(b"1024"));
    let inner = Tar::default().file("inner", b"");
    smuggle = smuggle.entry(b'0', "outer", "", b"");
    smuggle.0.extend_from_slice(&inner.0);
    smuggle.0.resize(smuggle.0.len() + 512, 7);
    let layer = scene.import(&smuggle.end()).unwrap();
    assert_eq!(layer.entry_count, 1);
    assert_eq!(scene.tree(&layer).join("outer").metadata().unwrap().len(), 1024);
}

#[test]
fn claims_of_size_cost_nothing() {
    let scene = Scene::new();
    let claim = |flag: u8, size: u64| {
        let mut tar = Tar::default().entry(flag, "claim", "", b"").0;
        let mut header = tar::Header::from_byte_slice(&tar).clone();
        header.set_size(size);
        header.set_cksum();
        tar.clear();
        tar.extend_from_slice(header.as_bytes());
        tar
    };
    scene.refused(claim(b'L', 8 << 30), "extended header");
    scene.refused(claim(b'x', 8 << 30), "extended header");
    scene.refused(claim(b'0', 7 << 30), "ends in the middle");
    scene.refused(claim(b'0', 1 << 50), "bytes of all files");
    let mut many = Tar::default();
    for _ in 0..100 {
        many = many.pax(&[("comment", b"x")]);
    }
    scene.refused(many.file("f", b"").end(), "extended headers before one entry");
    let whole = Tar::default().dir("d").file("d/f", &[7; 3000]).end();
    for cut in [1, 511, 513, 1000, 2000, 3000] {
        scene.refused(whole[..cut].to_vec(), "ends in the middle");
    }
}

#[test]
fn the_last_of_equal_names_wins_and_the_tar_still_comes_back() {
    let scene = Scene::new();
    let tar = Tar::default()
        .file("f", b"one")
        .file("f", b"two, longer")
        .file("empty", b"")
        .file("empty", b"full")
        .dir("d")
        .dir("d/below")
        .file("d/below/deep", b"deep content")
        .hard_link("d/hard", "d/below/deep")
        .file("outside", b"stays")
        .hard_link("d/borrowed", "outside")
        .file("d", b"now a file")
        .symlink("l", "f")
        .file("l", b"now a file too")
        .dir("f")
        .file("f/child", b"child");
    let layer = scene.import(&tar.end()).unwrap();
    let tree = scene.tree(&layer);
    assert_eq!(std::fs::read(tree.join("d")).unwrap(), b"now a file");
    assert_eq!(std::fs::read(tree.join("l")).unwrap(), b"now a file too");
    assert_eq!(std::fs::read(tree.join("f/child")).unwrap(), b"child");
    assert_eq!(std::fs::read(tree.join("empty")).unwrap(), b"full");
    assert_eq!(std::fs::read(tree.join("outside")).unwrap(), b"stays");
}
