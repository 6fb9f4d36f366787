//! Bad input gets one clear error, a status that is not 0, and leaves the store as it was.
//!
//! Errors of Containerfiles stand in `tests/build`; here is what comes from outside: names, archives, flags, a disk
//! that is full, rights that are missing, a kernel that refuses.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod shell;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use shell::{Outcome, Rbuild, base, needs, run};

/// What the store holds: names of images, blobs, layers, containers, and work that is under way.
fn content(rbuild: &Rbuild) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    found.insert(rbuild.run(&["images", "--quiet", "--no-trunc"]).expect_ok().stdout);
    for folder in ["blobs/sha256", "layers", "scratch", "staging", "containers"] {
        let entries = fs::read_dir(rbuild.root().join(folder)).into_iter().flatten();
        found.extend(entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().display())));
    }
    found
}

/// Does something that must be refused and must change nothing.
fn refused(rbuild: &Rbuild, said: &[&str], doing: impl FnOnce() -> Outcome) {
    let before = content(rbuild);
    doing().expect_error(said);
    assert_eq!(content(rbuild), before, "the store must be as it was");
}

#[test]
fn an_unknown_image_is_named() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let save = rbuild.path("never.tar");
    let unknown = format!("sha256:{}", "0".repeat(64));
    for words in [
        &["inspect", "nowhere"] as &[&str],
        &["history", "nowhere"],
        &["tag", "nowhere", "other"],
        &["rmi", "nowhere"],
        &["save", "-o", &save, "nowhere"],
        &["save", "-o", &save, "busybox", "nowhere"],
    ] {
        refused(&rbuild, &["nowhere"], || rbuild.run(words));
    }
    refused(&rbuild, &["nowhere"], || rbuild.build("FROM nowhere\nRUN true\n", &[]));
    refused(&rbuild, &["000000"], || rbuild.run(&["inspect", &unknown]));
    refused(&rbuild, &["nowhere"], || rbuild.run(&["run", "nowhere"]).expect_code(125));
    assert!(!Path::new(&save).exists(), "no half of an archive is left");
}

#[test]
fn a_bad_name_is_shown() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    for name in ["UPPER", "a//b", "a:b:c", "-x/..", "a@sha256:12", "a b", "", "../../etc"] {
        let shown = name.trim_start_matches('-');
        refused(&rbuild, &[shown], || rbuild.run(&["tag", "--", "busybox", name]));
        refused(&rbuild, &[shown], || {
            rbuild.build_with(&[&format!("--tag={name}")], "FROM scratch\nLABEL a=1\n", &[])
        });
    }
}

#[test]
fn an_unknown_flag_or_command_is_bad_usage() {
    let rbuild = Rbuild::new();
    for (words, code) in [
        (&["build", "--no-such-flag", "."] as &[&str], 2),
        (&["images", "--no-such-flag"], 2),
        (&["build", "--progress", "pretty", "."], 2),
        (&["save", "--format", "zip", "x"], 2),
        (&["run", "--no-such-flag", "busybox"], 125),
        (&["run", "--network", "token-ring", "busybox"], 125),
    ] {
        let outcome = rbuild.run(words).expect_code(code);
        assert_eq!(outcome.stdout, "", "{outcome}");
        assert!(outcome.stderr.starts_with("error"), "{outcome}");
    }
    assert!(!rbuild.root().exists(), "bad usage makes no store");
}

#[test]
fn a_broken_root_file_system_is_refused() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let good = fs::read(base::busybox_base()).unwrap();
    let cut = good[..good.len() / 2].to_vec();
    let mut bent = good.clone();
    bent[512 + 148] ^= 1; // the checksum of the second header
    let gzip = |bytes: &[u8]| {
        let mut command = Command::new("gzip");
        command.arg("-c");
        let plain = rbuild.path("plain");
        fs::write(&plain, bytes).unwrap();
        command.arg(&plain);
        command.output().unwrap().stdout
    };
    let gzipped = gzip(&good);
    let mut flipped = gzipped.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    let cases: [(&str, Vec<u8>); 6] = [
        ("cut", cut),
        ("bent", bent),
        ("text", b"this is no tar\n".repeat(100)),
        ("empty", Vec::new()),
        ("cut.gz", gzipped[..gzipped.len() / 2].to_vec()),
        ("flipped.gz", flipped),
    ];
    for (name, bytes) in cases {
        let path = rbuild.path(name);
        fs::write(&path, bytes).unwrap();
        // No bytes at all are a tar of no files, for tar(1) too.
        if name != "empty" {
            refused(&rbuild, &[name], || rbuild.run(&["import", &path, "bad"]));
        }
        refused(&rbuild, &[name], || rbuild.run(&["load", "-i", &path]));
    }
    refused(&rbuild, &["not-there.tar"], || rbuild.run(&["import", "not-there.tar", "bad"]));
    refused(&rbuild, &["not-there.tar"], || rbuild.run(&["load", "-i", "not-there.tar"]));
}

#[test]
fn a_path_that_escapes_is_refused_or_stays_inside() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let victim = rbuild.path("victim");
    fs::create_dir(&victim).unwrap();
    let up = format!("../../../../../../../..{victim}");
    for (name, entries) in [
        ("dots", vec![Entry::File(format!("{up}/a"))]),
        ("absolute", vec![Entry::File(format!("{victim}/a"))]),
        ("link", vec![Entry::Link("out".to_owned(), victim.clone()), Entry::File("out/a".to_owned())]),
        ("dotted link", vec![Entry::Link("out".to_owned(), up.clone()), Entry::File("out/a".to_owned())]),
        ("hard link", vec![Entry::Hard("a".to_owned(), format!("{up}/secret"))]),
        (
            "hard link through a link",
            vec![
                Entry::Link("out".to_owned(), victim.clone()),
                Entry::Hard("a".to_owned(), "out/secret".to_owned()),
            ],
        ),
    ] {
        fs::write(format!("{victim}/secret"), "secret").unwrap();
        let tar = rbuild.path("escape.tar");
        fs::write(&tar, archive(&entries)).unwrap();
        let before = content(&rbuild);
        let imported = rbuild.run(&["import", &tar, "escape"]);
        assert!(!imported.stderr.contains("panicked"), "{name}: {imported}");
        if imported.code == 0 {
            let saved = rbuild.saved("escape");
            assert!(saved.tree.values().all(|node| node.content != b"secret"), "{name}: the secret came in");
            rbuild.run(&["rmi", "escape"]).expect_ok();
        } else {
            imported.expect_error(&["escape.tar"]);
            assert_eq!(content(&rbuild), before, "{name}: the store must be as it was");
        }
        let found = fs::read_dir(&victim).unwrap().count();
        assert_eq!(found, 1, "{name}: something was written outside of the image");
        assert_eq!(fs::read_to_string(format!("{victim}/secret")).unwrap(), "secret", "{name}");
    }
}

#[test]
fn an_archive_that_lies_about_a_digest_is_refused() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let folder = rbuild.path("layout");
    rbuild.run(&["save", "--format", "oci-dir", "-o", &folder, "busybox"]).expect_ok();
    let other = Rbuild::new();
    other.run(&["images"]).expect_ok();
    let blobs: Vec<_> =
        fs::read_dir(format!("{folder}/blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(blobs.len(), 3, "a manifest, a config, a layer");
    for blob in &blobs {
        let whole = fs::read(blob).unwrap();
        let mut changed = whole.clone();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        for broken in [changed, whole[..whole.len() / 2].to_vec()] {
            fs::write(blob, broken).unwrap();
            refused(&other, &["layout"], || other.run(&["load", "-i", &folder]));
        }
        fs::remove_file(blob).unwrap();
        refused(&other, &["layout"], || other.run(&["load", "-i", &folder]));
        fs::write(blob, whole).unwrap();
    }
    other.run(&["load", "-i", &folder]).expect_ok();

    let archive = rbuild.path("docker.tar");
    rbuild.run(&["save", "-o", &archive, "busybox"]).expect_ok();
    let mut bytes = fs::read(&archive).unwrap();
    let inside = bytes.windows(12).position(|part| part == b"nobody:x:655").unwrap();
    bytes[inside] ^= 1;
    fs::write(&archive, bytes).unwrap();
    let third = Rbuild::new();
    third.run(&["images"]).expect_ok();
    refused(&third, &["docker.tar"], || third.run(&["load", "-i", &archive]));
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_made() {
    if !needs::busybox() || !needs::tool("unshare") {
        return;
    }
    let rbuild = Rbuild::new();
    fs::create_dir(rbuild.root()).unwrap();
    let base = base::busybox_base();
    let context = rbuild.context("FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=64\n", &[]);
    // The mount is seen by this shell only and goes with it.
    let script = r#"
        mount -t tmpfs -o size=12m none "$2" && cd "$2" || exit 99
        "$1" --root "$2" import "$3" busybox || exit 98
        "$1" --root "$2" build "$4"; built=$?
        head -c 64M /dev/urandom > /dev/shm/rbuild-filler.$$
        "$1" --root "$2" import /dev/shm/rbuild-filler.$$ never; rm /dev/shm/rbuild-filler.$$
        tar -C /usr/bin -cf - . | "$1" --root "$2" import - never; imported=$?
        "$1" --root "$2" images -q | wc -l
        "$1" --root "$2" run --rm --network none busybox echo still works
        echo "built $built imported $imported"
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(env!("CARGO_BIN_EXE_rbuild")).arg(rbuild.root()).arg(base).arg(context);
    let outcome = run(command, b"");
    assert!(outcome.stderr.contains("No space left on device"), "{outcome}");
    assert!(outcome.stdout.ends_with("1\nstill works\nbuilt 1 imported 1\n"), "{outcome}");
}

#[test]
fn a_store_without_permission_is_named() {
    if !needs::busybox() || !needs::tool("setpriv") {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    // Everyone may come as far as the store, and no further.
    fs::set_permissions(rbuild.home(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = rbuild.path("rbuild");
    fs::copy(env!("CARGO_BIN_EXE_rbuild"), &program).unwrap();
    let root = rbuild.root();
    refused(&rbuild, &[root.to_str().unwrap()], || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", &program, "--root"]);
        command.arg(&root).arg("images").env("HOME", "/nonexistent");
        run(command, b"")
    });
    let file = rbuild.path("file");
    fs::write(&file, "").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
    command.args(["--root", &format!("{file}/store"), "images"]);
    run(command, b"").expect_error(&[&file]);
}

#[test]
fn a_kernel_that_refuses_is_told_by_name() {
    if !needs::busybox() || !needs::tool("setpriv") {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let context = rbuild.context("FROM busybox\nRUN true\n", &[]);
    // Root without the right to mount, in a place where no user namespace can be made either.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && \
                  exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin \"$@\"";
    let attempt = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.arg(env!("CARGO_BIN_EXE_rbuild")).arg("--root").arg(rbuild.root()).args(words);
        run(command, b"")
    };
    for words in [
        &["run", "--rm", "--network", "none", "busybox", "true"] as &[&str],
        &["build", context.to_str().unwrap()],
    ] {
        let outcome = attempt(words);
        assert!(outcome.code == 1 || outcome.code == 125, "{outcome}");
        outcome.expect_error(&["not permitted"]);
    }
    rbuild.run_in("busybox", &["echo", "whole"]).expect_ok().expect_stdout("whole\n");
}

enum Entry {
    File(String),
    Link(String, String),
    Hard(String, String),
}

/// A tar with names exactly as given, which the tar crate's own writer would refuse.
fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let (kind, name, target, content) = match entry {
            Entry::File(name) => (tar::EntryType::Regular, name, "", &b"escaped"[..]),
            Entry::Link(name, target) => (tar::EntryType::Symlink, name, &**target, &b""[..]),
            Entry::Hard(name, target) => (tar::EntryType::Link, name, &**target, &b""[..]),
        };
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        let fields = header.as_old_mut();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }
    tar.into_inner().unwrap()
}
