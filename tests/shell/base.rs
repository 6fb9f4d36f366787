//! Base images that come from no registry: a static busybox as a root file system tar, made once.
//!
//! May touch: cargo's folder for test files. Knows nothing of rbuild.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The time of every file in the base.
pub(crate) const BASE_TIME: u64 = 1_700_000_000;

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
worker:x:1000:1000:worker:/home/worker:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
";
const GROUP: &str = "\
root:x:0:
daemon:x:1:
staff:x:50:worker
worker:x:1000:
nogroup:x:65534:
";

/// The tar of a small root file system: `/bin/busybox` with a link for each of its commands, users, folders.
pub(crate) fn busybox_base() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("busybox-base.tar");
    if !place.exists() {
        // Threads of one test binary may all be the first.
        let thread = std::thread::current().id();
        let half_made = place.with_extension(format!("{}-{thread:?}.tar", std::process::id()));
        fs::write(&half_made, busybox_tar()).expect("cargo's folder for test files is writable");
        fs::rename(&half_made, &place).expect("a rename within one folder");
    }
    place
}

/// The static busybox of this machine.
pub(crate) fn static_busybox() -> Option<PathBuf> {
    let place = super::needs::place_of("busybox")?;
    let bytes = fs::read(&place).ok()?;
    // A dynamic program names its loader; in another root it would not start.
    let is_dynamic = bytes.windows(7).any(|window| window == b"/ld-lin");
    (!is_dynamic).then_some(place)
}

fn busybox_tar() -> Vec<u8> {
    let busybox = static_busybox().expect("the test asked needs::busybox()");
    let listed = Command::new(&busybox).arg("--list").output().expect("busybox runs").stdout;
    let commands = String::from_utf8(listed).expect("names in ASCII");

    let mut tar = Writer(tar::Builder::new(Vec::new()));
    for (folder, mode) in [("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("proc", 0o755)] {
        tar.folder(folder, mode, 0);
    }
    for (folder, mode) in
        [("root", 0o700), ("sys", 0o755), ("tmp", 0o1777), ("usr", 0o755), ("usr/bin", 0o755)]
    {
        tar.folder(folder, mode, 0);
    }
    tar.folder("home/worker", 0o755, 1000);
    tar.file("etc/passwd", 0o644, PASSWD.as_bytes());
    tar.file("etc/group", 0o644, GROUP.as_bytes());
    tar.file("bin/busybox", 0o755, &fs::read(&busybox).expect("busybox is readable"));
    for command in commands.lines().filter(|&command| command != "busybox") {
        tar.link(&format!("bin/{command}"), "busybox");
    }
    tar.link("usr/bin/env", "/bin/env");
    tar.0.into_inner().expect("memory takes every write")
}

struct Writer(tar::Builder<Vec<u8>>);

impl Writer {
    fn folder(&mut self, name: &str, mode: u32, owner: u64) {
        let mut header = header(tar::EntryType::Directory, mode, owner, 0);
        self.0.append_data(&mut header, format!("{name}/"), &b""[..]).expect("memory takes every write");
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        let mut header = header(tar::EntryType::Regular, mode, 0, content.len() as u64);
        self.0.append_data(&mut header, name, content).expect("memory takes every write");
    }

    fn link(&mut self, name: &str, target: &str) {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0, 0);
        self.0.append_link(&mut header, name, target).expect("memory takes every write");
    }
}

fn header(kind: tar::EntryType, mode: u32, owner: u64, size_bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(BASE_TIME);
    header.set_size(size_bytes);
    header
}
