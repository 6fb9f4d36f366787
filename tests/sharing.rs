//! Files that two layers have in common share their blocks where the file system can do that, and a
//! container sees no difference.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod shell;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use shell::{Rbuild, host, needs};

/// Bytes of the large file of each layer.
const LARGE: usize = 16 << 20;

/// A store on a file system of its own, in a loop file.
fn with_store_on(mkfs: &[&str]) -> Rbuild {
    let rbuild = Rbuild::new();
    let image = rbuild.path("disk");
    fs::File::create(&image).unwrap().set_len(512 << 20).unwrap();
    let words: Vec<&str> = mkfs[1..].iter().copied().chain([&image[..]]).collect();
    host(mkfs[0], &words).expect_ok();
    fs::create_dir(rbuild.root()).unwrap();
    host("mount", &["-o", "loop", &image, rbuild.root().to_str().unwrap()]).expect_ok();
    host("chmod", &["700", rbuild.root().to_str().unwrap()]).expect_ok();
    rbuild
}

/// A tar with one large file and some that look like it and must stay as they are.
fn tar(rbuild: &Rbuild, name: &str, large: &[u8], mode: &str, mtime: u32) -> PathBuf {
    let tree = PathBuf::from(rbuild.path(&format!("tree-{name}")));
    let archive = PathBuf::from(rbuild.path(&format!("{name}.tar")));
    fs::create_dir(&tree).unwrap();
    let mut nearly = large[..1 << 20].to_vec();
    nearly[12345] ^= u8::try_from(name.len()).unwrap();
    fs::write(tree.join("nearly"), nearly).unwrap();
    fs::write(tree.join(name), large).unwrap();
    fs::write(tree.join("set-id"), &large[..2 << 20]).unwrap();
    let script = format!(
        "cd '{0}' && ln '{1}' hard && chmod {mode} '{1}' && chmod 4755 set-id && touch -d @{mtime} '{1}' && \
         setfattr -n user.note -v '{1}' '{1}' && tar --xattrs --format=posix -cf '{2}' .",
        tree.display(),
        name,
        archive.display(),
    );
    host("sh", &["-c", &script]).expect_ok();
    archive
}

fn diff_id(archive: &Path) -> String {
    let told = host("sha256sum", &[archive.to_str().unwrap()]).expect_ok().stdout;
    told.split(' ').next().unwrap().to_owned()
}

fn used_bytes(root: &Path) -> u64 {
    host("sync", &["-f", root.to_str().unwrap()]).expect_ok();
    let stat = rustix::fs::statvfs(root).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

fn shares_on(mkfs: &[&str]) {
    let rbuild = with_store_on(mkfs);
    let large: Vec<u8> =
        (0..LARGE / 8).flat_map(|i| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes()).collect();
    let one = tar(&rbuild, "first", &large, "640", 1_000_000_001);
    let two = tar(&rbuild, "other-name", &large, "755", 1_500_000_002);
    rbuild.run(&["import", one.to_str().unwrap(), "one"]).expect_ok();
    let before = used_bytes(&rbuild.root());
    rbuild.run(&["import", two.to_str().unwrap(), "two"]).expect_ok();
    let grown = used_bytes(&rbuild.root()) - before;
    // The file with the set-id bit and the one that differs in one byte keep blocks of their own.
    assert!((3 << 20..6 << 20).contains(&grown), "the second image took {grown} bytes");

    // Each file is its own: name, mode, time, attributes, links and content.
    for (image, name, archive) in [("one", "first", &one), ("two", "other-name", &two)] {
        let diff_id = diff_id(archive);
        assert_eq!(rbuild.saved(image).diff_ids(), [format!("sha256:{diff_id}")], "the exact tar of {image}");
        let file = rbuild.root().join("layers").join(diff_id).join("tree").join(name);
        let stat = fs::metadata(file).unwrap();
        let (mode, mtime) = if image == "one" { (0o640, 1_000_000_001) } else { (0o755, 1_500_000_002) };
        assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.nlink()), (mode, mtime, 2));
    }
    rbuild.run(&["rmi", "one"]).expect_ok();
    // Saving reads every byte and compares its hash.
    assert_eq!(rbuild.saved("two").diff_ids(), [format!("sha256:{}", diff_id(&two))], "the older layer went");
    host("umount", &[rbuild.root().to_str().unwrap()]).expect_ok();
}

#[test]
fn equal_files_share_their_blocks_on_xfs() {
    if needs::root() && needs::tool("mkfs.xfs") && needs::tool("setfattr") {
        shares_on(&["mkfs.xfs", "-q", "-m", "reflink=1"]);
    }
}

#[test]
fn equal_files_share_their_blocks_on_btrfs() {
    if needs::root() && needs::tool("mkfs.btrfs") && needs::tool("setfattr") {
        shares_on(&["mkfs.btrfs", "-q", "-m", "single"]);
    }
}
