//! rbuild for a user who is not root: with the ids that `/etc/subuid` gives.
//!
//! The test makes the user `rbuild-test` once, works below a folder of that user and leaves nothing else.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod shell;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use shell::needs;
use shell::outcome::Outcome;

const USER: &str = "rbuild-test";

/// A home of the user with a store in it.
struct Home {
    folder: tempfile::TempDir,
    uid: u32,
}

impl Home {
    fn new() -> Self {
        // It is there already from an earlier run: that is as good.
        drop(Command::new("useradd").args(["--create-home", USER]).output().unwrap());
        let id = Command::new("id").args(["-u", USER]).output().unwrap();
        let uid: u32 = String::from_utf8_lossy(&id.stdout).trim().parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(folder.path(), Some(uid), Some(uid)).unwrap();
        let home = Self { folder, uid };
        // The binary of a checkout below /root can't be reached by others.
        fs::copy(env!("CARGO_BIN_EXE_rbuild"), home.path("rbuild")).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new(self.path("rbuild"));
        command.arg("--root").arg(self.path("store")).args(words);
        command.uid(self.uid).gid(self.uid).current_dir(self.folder.path()).env("HOME", self.folder.path());
        shell::run(command, b"")
    }

    fn give(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.uid)).unwrap();
    }
}

#[test]
fn a_user_builds_and_runs_without_root() {
    if !needs::root() || !needs::busybox() || !needs::tool("newuidmap") || !needs::tool("useradd") {
        return;
    }
    let home = Home::new();
    fs::copy(shell::base::busybox_base(), home.path("base.tar")).unwrap();
    home.give(&home.path("base.tar"));
    home.run(&["import", "base.tar", "busybox"]).expect_ok();

    fs::create_dir(home.path("context")).unwrap();
    fs::write(home.path("context/file"), "content\n").unwrap();
    let text = "FROM busybox\nCOPY file /file\nRUN chown 7:8 /file && id -u > /who\n";
    fs::write(home.path("context/Containerfile"), text).unwrap();
    home.run(&["build", "--network", "none", "-t", "own", "context"]).expect_ok();
    let again = home.run(&["build", "--network", "none", "-t", "own", "context"]).expect_ok();
    assert_eq!(again.cached_steps(), 2);

    for network in ["none", "host"] {
        let words = ["run", "--rm", "--network", network, "own", "sh", "-c", "cat /who; stat -c %u:%g /file"];
        home.run(&words).expect_ok().expect_stdout("0\n7:8\n");
    }
    home.run(&["run", "--rm", "--network", "none", "own", "sh", "-c", "exit 5"]).expect_code(5);
    // The files are the user's own, under the ids that the host gave; root's are the caller's.
    let store = fs::metadata(home.path("store")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&store), home.uid);
    assert_eq!(fs::read_dir(home.path("store/scratch")).unwrap().count(), 0, "no scratch is left");
    assert_eq!(shell::mounts_below(home.folder.path()), [] as [String; 0]);
}
