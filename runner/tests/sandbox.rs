//! Sandboxes as their users see them: real processes in a small root of busybox. Needs root.
//!
//! May touch: a folder of its own below the temporary one, its own cgroups. Knows nothing of the store.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use runner::rootfs::{self, MountOptions, Rootfs};
use runner::sandbox::plan::{Limits, Network, Plan, Process, User};
use runner::sandbox::{self, Exit, SandboxError, Stdio, Usage, capabilities};
use rustix::fs::{Mode, OFlags};
use store::{ImagePath, Scratch, Stack};
use tempfile::TempDir;

/// A layer that holds busybox, a scratch, and where both lie.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let root = folder.path().join("layer");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in
            ["sh", "true", "false", "cat", "ls", "id", "sleep", "echo", "grep", "readlink", "hostname"]
        {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn mount(&self) -> Rootfs {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = self.path(&format!("scratch{number}"));
        fs::create_dir_all(path.join("upper")).unwrap();
        fs::create_dir_all(path.join("work")).unwrap();
        let scratch = Scratch { upper: open(&path.join("upper")), work: open(&path.join("work")), path };
        let stack = Stack { trees: vec![open(&self.path("layer"))] };
        let options = MountOptions { mount_points: true };
        rootfs::mount_below(self.folder.path(), &stack, Some(&scratch), options).unwrap()
    }

    /// Runs a shell script with the defaults changed by `change`; gives what it printed.
    fn run_with(&self, script: &str, change: impl FnOnce(&mut Plan)) -> (Exit, String, Usage) {
        let mut plan = plan(&["sh", "-c", script]);
        change(&mut plan);
        let root = self.mount();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let stdio = Stdio {
            stdout: Some(writer.try_clone().unwrap().into()),
            stderr: Some(writer.into()),
            ..Stdio::default()
        };
        let sandbox = sandbox::spawn(&plan, root.mount.as_fd(), stdio).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let (exit, usage) = sandbox.wait().unwrap();
        (exit, text, usage)
    }

    fn run(&self, script: &str) -> (Exit, String) {
        let (exit, text, _) = self.run_with(script, |_| {});
        (exit, text)
    }

    fn fails(&self, change: impl FnOnce(&mut Plan)) -> SandboxError {
        let mut plan = plan(&["true"]);
        change(&mut plan);
        sandbox::spawn(&plan, self.mount().mount.as_fd(), Stdio::default()).unwrap_err()
    }
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn plan(argv: &[&str]) -> Plan {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    Plan {
        id: format!("test-{}-{number}", std::process::id()),
        process: Process {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: vec!["PATH=/bin".into()],
            cwd: ImagePath::root(),
            user: User::default(),
            umask: 0o022,
            capabilities: capabilities::DEFAULT.map(str::to_owned).to_vec(),
            ambient: Vec::new(),
            no_new_privileges: false,
            rlimits: Vec::new(),
        },
        hostname: "box".into(),
        network: Network::None,
        root_read_only: false,
        mounts: Vec::new(),
        files: Vec::new(),
        limits: Limits::default(),
        seccomp: runner::sandbox::plan::Seccomp::Default,
        shm_size_bytes: 64 << 20,
        masked_paths: Vec::new(),
        read_only_paths: Vec::new(),
        sysctls: Vec::new(),
    }
}

#[test]
fn the_exit_status_is_the_processs() {
    let machine = Machine::new();
    assert_eq!(machine.run("echo hi; exit 3"), (Exit::Code(3), "hi\n".into()));
    assert_eq!(machine.run("kill -9 $$").0, Exit::Code(0), "pid 1 can't kill itself");
}
