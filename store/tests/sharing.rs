//! One store, many users: equal work at once, collectors beside builders, processes that die.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use store::cache::CacheRow;
use store::layers::{Expected, SealOptions};
use store::{DiffId, Digest, Store};

/// A child shares its parent's locks until it is executed, so tests that look at locks take turns.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn made_by(script: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("bash").args(["-ec", script]).current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{script}");
    output.stdout
}

fn import(store: &Store, tar: &[u8]) -> DiffId {
    store.layers().import(&mut &tar[..], Expected::default(), false).unwrap().layer.diff_id
}

fn count(path: &Path) -> usize {
    std::fs::read_dir(path).map_or(0, Iterator::count)
}

const SOME_FILES: &str = "mkdir d; for i in $(seq 300); do echo $i > d/$i; done; tar c --mtime=@1 .";

#[test]
fn the_same_layer_from_many_sides_is_one_layer() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let tar = made_by(SOME_FILES);
    std::thread::scope(|scope| {
        for i in 0..8 {
            let (tar, root) = (&tar, dir.path());
            scope.spawn(move || {
                // Half of them as other processes do: with a store value of their own.
                let store = Store::open(root).unwrap();
                for _ in 0..=i % 2 {
                    assert_eq!(import(&store, tar), DiffId(Digest::of(tar)));
                }
                assert!(store.layers().contains(DiffId(Digest::of(tar))).unwrap());
            });
        }
    });
    assert_eq!(count(&dir.path().join("layers")), 1);
    for area in ["staging", "trash", "leases"] {
        assert_eq!(count(&dir.path().join(area)), 0, "{area}");
    }
}

#[test]
fn a_collector_takes_what_nobody_needs_and_nothing_else() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let tar = made_by(SOME_FILES);
    let diff_id = DiffId(Digest::of(&tar));
    let builder = Store::open(dir.path()).unwrap();
    let collector = Store::open(dir.path()).unwrap();
    import(&builder, &tar);
    let blob = builder.blobs().add(b"some manifest").unwrap();

    // In flight in another process: both stay.
    assert_eq!(collector.collect(false, false).unwrap(), store::Collected::default());
    assert!(collector.blobs().contains(blob).unwrap());
    drop(builder);

    // Mounted: the layer stays, the blob goes.
    let stack = collector.layers().open_stack(&[diff_id]).unwrap();
    assert_eq!(collector.collect(false, false).unwrap().blobs, [blob]);
    assert!(collector.layers().contains(diff_id).unwrap());
    drop(stack);

    // A cached step needs it, unless the cache goes too.
    let key = Digest::of(b"key");
    let row = CacheRow {
        key,
        layer: Some(diff_id),
        components: "{}".into(),
        place: "f:0:1".into(),
        seconds: 1.0,
        created_seconds: 0,
    };
    collector.cache().record(&row).unwrap();
    assert!(collector.collect(true, false).unwrap().layers.is_empty());
    assert_eq!(collector.cache().find(key).unwrap().unwrap().layer, Some(diff_id));
    assert_eq!(collector.collect(false, true).unwrap().layers, [diff_id]);
    assert!(collector.layers().contains(diff_id).unwrap(), "a dry run takes nothing");

    let found = collector.collect(false, false).unwrap();
    assert_eq!(found.layers, [diff_id]);
    assert!(found.size_bytes > 300 * 4096);
    assert!(collector.cache().find(key).unwrap().is_none());
    assert!(!collector.layers().contains(diff_id).unwrap());
    for folder in ["layers", "blobs/sha256", "trash", "staging"] {
        assert_eq!(count(&dir.path().join(folder)), 0, "{folder}");
    }
    import(&collector, &tar);
    assert!(collector.layers().contains(diff_id).unwrap());
}

#[test]
fn collectors_and_importers_side_by_side_lose_nothing() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let tars: Vec<Vec<u8>> = (0..4).map(|i| made_by(&format!("echo {i} > f; tar c --mtime=@1 f"))).collect();
    let end = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        for offset in 0..3 {
            let (tars, root) = (&tars, dir.path());
            scope.spawn(move || {
                let mut turn = offset;
                while Instant::now() < end {
                    turn += 1;
                    let tar = &tars[turn % tars.len()];
                    let store = Store::open(root).unwrap();
                    let diff_id = import(&store, tar);
                    // From here on it is ours: whatever collectors do, it stays.
                    let stack = store.layers().open_stack(&[diff_id]).unwrap();
                    let mut again = Vec::new();
                    store.layers().tar(diff_id).unwrap().read_to_end(&mut again).unwrap();
                    assert!(&again == tar);
                    drop(stack);
                }
            });
        }
        scope.spawn(|| {
            while Instant::now() < end {
                Store::open(dir.path()).unwrap().collect(false, false).unwrap();
            }
        });
    });
    Store::open(dir.path()).unwrap().collect(false, false).unwrap();
    assert_eq!(count(&dir.path().join("layers")), 0);
}

/// The child of the next test: imports and seals until it is killed.
#[test]
fn child_that_is_killed() {
    let Some(root) = std::env::var_os("RBUILD_TEST_KILLED_CHILD") else { return };
    let tar = made_by(SOME_FILES);
    for turn in 0.. {
        let store = Store::open(Path::new(&root)).unwrap();
        let layer = import(&store, &tar);
        store.blobs().add(format!("blob {turn}").as_bytes()).unwrap();
        let scratch = store.layers().scratch().unwrap();
        std::fs::write(scratch.path.join("upper/f"), format!("{turn}")).unwrap();
        store.layers().seal(scratch, SealOptions::default()).unwrap();
        assert!(store.layers().contains(layer).unwrap());
        store.collect(false, false).unwrap();
    }
}

#[test]
fn a_killed_process_leaves_nothing_behind() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    for turn in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed"])
            .env("RBUILD_TEST_KILLED_CHILD", &root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(60 + turn * 37 % 150));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(&root).unwrap();
        for area in ["staging", "scratch", "trash", "leases"] {
            assert_eq!(count(&root.join(area)), 0, "{area} after turn {turn}");
        }
        store.collect(false, false).unwrap();
        assert_eq!(count(&root.join("layers")), 0);
    }
}

#[test]
fn an_unsynced_layer_of_another_boot_is_made_again() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let tar = made_by(SOME_FILES);
    let diff_id = DiffId(Digest::of(&tar));
    let change = |sql: &str| {
        let connection = rusqlite::Connection::open(dir.path().join("index.db")).unwrap();
        connection.execute(sql, []).unwrap();
    };
    import(&Store::open(dir.path()).unwrap(), &tar);
    change("UPDATE layers SET boot_id = 'another'");
    let victim = dir.path().join("layers").join(diff_id.0.hex()).join("tree/d/7");
    std::fs::write(&victim, b"").unwrap();

    let store = Store::open(dir.path()).unwrap();
    assert!(!store.layers().contains(diff_id).unwrap());
    assert!(store.layers().open_stack(&[diff_id]).is_err());
    import(&store, &tar);
    assert_eq!(std::fs::read(&victim).unwrap(), b"7\n");
    store.make_durable().unwrap();
    drop(store);
    change("UPDATE layers SET boot_id = 'another'");
    assert!(Store::open(dir.path()).unwrap().layers().contains(diff_id).unwrap());
}

#[test]
fn damage_is_found_when_a_tar_leaves() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let tar = made_by(SOME_FILES);
    let store = Store::open(dir.path()).unwrap();
    let diff_id = import(&store, &tar);
    let victim = dir.path().join("layers").join(diff_id.0.hex()).join("tree/d/7");
    for damage in [&b"8\n"[..], b"", b"7\n\n"] {
        std::fs::write(&victim, damage).unwrap();
        let read = std::io::copy(&mut store.layers().tar(diff_id).unwrap(), &mut std::io::sink());
        // A longer file still gives the first bytes, which are right.
        assert_eq!(read.is_err(), damage.len() <= 2, "{damage:?}");
    }
    std::fs::remove_file(&victim).unwrap();
    assert!(std::io::copy(&mut store.layers().tar(diff_id).unwrap(), &mut std::io::sink()).is_err());
}

#[test]
fn wrong_hashes_leave_nothing() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    let tar = made_by(SOME_FILES);
    let store = Store::open(dir.path()).unwrap();
    let other = Digest::of(b"other");
    let size = tar.len() as u64;
    let right = store::BlobId(Digest::of(&tar));
    for expected in [
        Expected { diff_id: Some(DiffId(other)), ..Expected::default() },
        Expected { blob: Some(store::BlobId(other)), blob_size_bytes: Some(size), ..Expected::default() },
        Expected { blob: Some(right), blob_size_bytes: Some(size + 1), ..Expected::default() },
    ] {
        assert!(store.layers().import(&mut &tar[..], expected, true).is_err());
        for folder in ["layers", "staging", "blobs/sha256"] {
            assert_eq!(count(&dir.path().join(folder)), 0, "{folder}");
        }
    }
    // A layer that is here is still read and compared.
    import(&store, &tar);
    let mut cut = &tar[..tar.len() - 1024];
    let expected = Expected { diff_id: Some(DiffId(Digest::of(&tar))), ..Expected::default() };
    assert!(store.layers().import(&mut cut, expected, false).is_err());
}
