//! Layers through the front door: what goes in comes out, bit for bit, and nothing else happens.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use store::layers::Expected;
use store::{DiffId, Digest, Store};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn tar_of(store: &Store, diff_id: DiffId) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.layers().tar(diff_id).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Runs a shell script in a fresh folder and returns what it writes to its output.
fn made_by(script: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("bash").args(["-ec", script]).current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn packed_by(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes).unwrap());
        let mut out = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
        assert!(child.wait().unwrap().success());
        out
    })
}

fn nothing_is_left(root: &Path) {
    for area in ["staging", "trash", "scratch"] {
        assert_eq!(std::fs::read_dir(root.join(area)).unwrap().count(), 0, "{area}");
    }
}

/// A tree with all that a layer can hold.
const RICH: &str = r#"
    mkdir -p d/e 'with space' setgid; echo hello > d/file; ln d/file d/hard; ln -s ../d/file d/e/link
    long=$(printf 'n%.0s' $(seq 200)); mkdir -p "$long/$long"; echo deep > "$long/$long/$long"
    ln -s "/$long/$long" longlink
    head -c 300000 /dev/urandom > big; : > empty; mkfifo fifo; mknod null c 1 3; mknod disk b 8 1
    truncate -s 3000000 holes; echo middle | dd of=holes bs=1 seek=1500000 conv=notrunc status=none
    setfattr -n user.note -v 0sAAEC d/file; setfattr -n user.dir -v y d
    chown 1000:1000 d/e; chmod 2775 setgid; touch setgid/inner; chown 0:50 setgid; mkdir setgid/below
    touch -d '2001-02-03 04:05:06.789' empty; touch -d '1960-01-01' big; chmod 4755 empty; chmod 000 fifo
    chown 3000000:3000000 'with space'; touch -d '2002-02-02' d
"#;

#[test]
fn tars_of_every_writer_come_back_bit_for_bit() {
    for writer in [
        "tar c --format=gnu .",
        "tar c --format=gnu --sparse .",
        "tar c --format=posix --xattrs --xattrs-include='*' .",
        "tar c --format=posix --sparse --sparse-version=0.0 .",
        "tar c --format=posix --sparse --sparse-version=0.1 .",
        "tar c --format=posix --sparse --sparse-version=1.0 .",
        "tar c --blocking-factor=1 *",
        "python3 -c 'import tarfile,sys; t=tarfile.open(fileobj=sys.stdout.buffer,mode=\"w|\",format=tarfile.PAX_FORMAT); t.add(\".\")'",
        "python3 -c 'import tarfile,sys; t=tarfile.open(fileobj=sys.stdout.buffer,mode=\"w|\",format=tarfile.GNU_FORMAT); t.add(\".\"); t.close()'",
    ] {
        let (dir, store) = store();
        let tar = made_by(&format!("{RICH}\n{writer}"));
        let imported = store.layers().import(&mut &tar[..], Expected::default(), false).unwrap();
        let diff_id = imported.layer.diff_id;
        assert_eq!(diff_id, DiffId(Digest::of(&tar)), "{writer}");
        assert!(tar_of(&store, diff_id) == tar, "{writer}");
        nothing_is_left(dir.path());
    }
}

#[test]
fn every_compression_gives_the_same_layer() {
    let tar = made_by(&format!("{RICH}\ntar c ."));
    let (dir, store) = store();
    for program in ["gzip", "zstd", "xz", "bzip2"] {
        let packed = packed_by(program, &tar);
        let expected = Expected {
            diff_id: Some(DiffId(Digest::of(&tar))),
            blob: Some(store::BlobId(Digest::of(&packed))),
            blob_size_bytes: Some(packed.len() as u64),
        };
        let imported = store.layers().import(&mut &packed[..], expected, true).unwrap();
        let (blob, size) = imported.blob.unwrap();
        assert_eq!((Some(blob), Some(size)), (expected.blob, expected.blob_size_bytes), "{program}");
        let mut kept = Vec::new();
        store.blobs().open(blob).unwrap().read_to_end(&mut kept).unwrap();
        assert!(kept == packed, "{program}");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("layers")).unwrap().count(), 1);
    nothing_is_left(dir.path());
}

#[test]
fn what_tar_extracts_is_what_the_tree_holds() {
    let tar = made_by(&format!("{RICH}\ntar c --format=posix --xattrs --xattrs-include='*' ."));
    let (dir, store) = store();
    let layer = store.layers().import(&mut &tar[..], Expected::default(), false).unwrap().layer;
    let tree = dir.path().join("layers").join(layer.diff_id.0.hex()).join("tree");
    let other = tempfile::tempdir().unwrap();
    let mut extract = Command::new("tar")
        .args(["x", "--same-owner", "-p", "--xattrs", "--xattrs-include=*", "-C"])
        .arg(other.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    extract.stdin.take().unwrap().write_all(&tar).unwrap();
    assert!(extract.wait().unwrap().success());
    let list = |path: &Path| {
        let script = r#"find . -printf '%P %y %m %U %G %n %s %T@ %l\n' | grep -v '^[^ ]* d' | sort
            find . -type d -printf '%P %y %m %U %G %T@\n' | sort; stat -c '%n %t:%T' null disk
            getfattr -R -h -d -m - . 2>/dev/null | sort; find . -type f -exec sha256sum {} + | sort"#;
        let output = Command::new("bash").args(["-ec", script]).current_dir(path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (ours, theirs) = (list(&tree), list(other.path()));
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours, theirs);
}

/// Fills a scratch by a shell script that runs in its upper directory.
fn scratch_of(store: &Store, script: &str) -> store::Scratch {
    let scratch = store.layers().scratch().unwrap();
    let status =
        Command::new("bash").args(["-ec", script]).current_dir(scratch.path.join("upper")).status().unwrap();
    assert!(status.success());
    scratch
}

#[test]
fn a_sealed_scratch_is_the_layer_that_its_own_tar_makes() {
    let (dir, store) = store();
    let script = format!(
        "{RICH}\nmkdir gone opaque; mknod gone/lower c 0 0; touch gone/.hidden gone/a
         setfattr -n trusted.overlay.opaque -v y opaque; setfattr -n trusted.overlay.impure -v y d
         setfattr -n trusted.overlay.origin -v x d/file; touch opaque/new; setfattr -h -n trusted.overlay.origin -v x longlink"
    );
    let sealed =
        store.layers().seal(scratch_of(&store, &script), store::layers::SealOptions::default()).unwrap();
    let tar = tar_of(&store, sealed.diff_id);
    assert_eq!(DiffId(Digest::of(&tar)), sealed.diff_id);
    assert_eq!(tar.len() as u64, sealed.tar_size_bytes);
    nothing_is_left(dir.path());

    let (other_dir, other) = self::store();
    let imported = other.layers().import(&mut &tar[..], Expected::default(), false).unwrap().layer;
    assert_eq!(imported.diff_id, sealed.diff_id);
    assert_eq!(imported.entry_count, sealed.entry_count);
    let place = format!("layers/{}/tree", sealed.diff_id.0.hex());
    assert_eq!(listing(&dir.path().join(&place)), listing(&other_dir.path().join(&place)));
    assert!(other.layers().open_stack(&[imported.diff_id]).unwrap().trees.len() == 1);

    // GNU tar reads the same names out of it, whiteouts first.
    let mut list = Command::new("tar").arg("t").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    list.stdin.take().unwrap().write_all(&tar).unwrap();
    let names = String::from_utf8(list.wait_with_output().unwrap().stdout).unwrap();
    assert!(names.contains("gone/\ngone/.wh.lower\ngone/.hidden\ngone/a\n"), "{names}");
    assert!(names.contains("opaque/\nopaque/.wh..wh..opq\nopaque/new\n"), "{names}");
}

fn listing(path: &Path) -> String {
    let script = r#"find . -mindepth 1 -printf '%P %y %m %U %G %n %s %T@ %l\n' | sed 's/^\([^ ]* d.*\) [0-9]* \([^ ]* *\)$/\1 \2/' | grep -v '^gone/lower ' | sort
        getfattr -R -h -d -m - . 2>/dev/null | sort; find . -type f -exec sha256sum {} + | sort
        find . -type c,b -exec stat -c '%n %t:%T' {} + | sort"#;
    let output = Command::new("bash").args(["-ec", script]).current_dir(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_empty_scratch_is_the_well_known_empty_layer() {
    let (_dir, store) = store();
    for _ in 0..2 {
        let sealed =
            store.layers().seal(scratch_of(&store, ":"), store::layers::SealOptions::default()).unwrap();
        assert_eq!(sealed.diff_id.0, Digest::of(&[0; 1024]));
        assert_eq!(sealed.entry_count, 0);
    }
}

#[test]
fn clamped_times_make_equal_layers_at_any_time() {
    let (_dir, store) = store();
    let options = store::layers::SealOptions { clamp_mtime_seconds: Some(1_000_000_000) };
    let mut made = Vec::new();
    for nap in ["touch -d 2020-01-01 a", "touch -d 2021-01-01 a"] {
        let script =
            format!("mkdir d; echo x > d/f; ln -s f d/l; {nap}; touch -d 1999-01-01 old; mkdir -p z/y");
        made.push(store.layers().seal(scratch_of(&store, &script), options).unwrap().diff_id);
    }
    assert_eq!(made[0], made[1]);
    let tar = tar_of(&store, made[0]);
    assert!(tar.windows(11).any(|field| field == format!("{:011o}", 1_000_000_000).as_bytes()));
}
