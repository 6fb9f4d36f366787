//! Sandboxes as their users see them: real processes in a small root of busybox. Needs root.
//!
//! May touch: a folder of its own below the temporary one, its own cgroups. Knows nothing of the store.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use runner::rootfs::{self, MountOptions};
use runner::sandbox::plan::{Limits, Network, Plan, Process, User};
use runner::sandbox::{self, Exit, SandboxError, Stdio, Targets, Usage, capabilities};
use rustix::fs::{Mode, OFlags};
use store::{ImagePath, RootDir, Scratch, Stack, Store};
use tempfile::TempDir;

/// A layer that holds busybox, a scratch, and where both lie.
struct Machine {
    folder: TempDir,
    store: Store,
}

/// A mounted root; the mount goes before its scratch does.
struct Root {
    mount: OwnedFd,
    scratch: Scratch,
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
        let store = Store::open(&folder.path().join("store")).unwrap();
        Self { folder, store }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn mount(&self) -> Root {
        let scratch = self.store.layers().scratch().unwrap();
        let stack = Stack::of_tree(open(&self.path("layer")));
        let options = MountOptions { mount_points: true };
        let mount = rootfs::mount(&self.store, &stack, Some(&scratch), options).unwrap().mount;
        Root { mount, scratch }
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
        seccomp: sandbox::plan::Seccomp::Default,
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

#[test]
fn a_signal_is_told_apart_from_a_status() {
    let machine = Machine::new();
    let root = machine.mount();
    let sandbox = sandbox::spawn(&plan(&["sleep", "60"]), root.mount.as_fd(), Stdio::default()).unwrap();
    sandbox.signal(9).unwrap();
    assert_eq!(sandbox.wait().unwrap().0, Exit::Signal(9));
}

#[test]
fn a_program_that_is_missing_or_no_program_is_told() {
    let machine = Machine::new();
    let layer = machine.path("layer");
    fs::write(layer.join("plain"), "x").unwrap();
    fs::write(layer.join("script"), "#!/no/such/sh -e\n").unwrap();
    fs::write(layer.join("garbage"), "\u{1}\u{2}").unwrap();
    for name in ["script", "garbage"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(layer.join(name), mode).unwrap();
    }
    let text = |program: &str| machine.fails(|plan| plan.process.argv = vec![program.into()]).to_string();
    assert_eq!(text("nothing"), "cannot find `nothing` in the image");
    assert_eq!(text("/no/thing"), "cannot find `/no/thing` in the image");
    assert_eq!(
        text("/script"),
        "cannot execute `/script`: its interpreter `/no/such/sh` is not in the image"
    );
    for program in ["/plain", "/garbage", "/bin"] {
        let error = machine.fails(|plan| plan.process.argv = vec![program.into()]);
        assert!(matches!(error, SandboxError::NotExecutable { .. }), "{program}: {error}");
    }
}

#[test]
fn the_process_is_the_first_in_namespaces_of_its_own() {
    let machine = Machine::new();
    let (_, text) = machine
        .run("echo $$; hostname; for n in mnt pid uts ipc net cgroup; do readlink /proc/self/ns/$n; done");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["1", "box"]);
    for (name, line) in ["mnt", "pid", "uts", "ipc", "net", "cgroup"].iter().zip(&lines[2..]) {
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(line.starts_with(&format!("{name}:[")), "{line}");
        assert_ne!(&ours.to_string_lossy(), line);
    }
    let (_, text, _) = machine.run_with("readlink /proc/self/ns/net", |plan| plan.network = Network::Host);
    assert_eq!(text.trim(), fs::read_link("/proc/self/ns/net").unwrap().to_string_lossy());
}

/// The lines of `/proc/self/status` that tell what the process may do.
const STATUS: &str = "grep -E '^(Cap|NoNew|Seccomp:|Uid|Gid|Groups|Sig(Blk|Ign))' /proc/self/status";

#[test]
fn root_has_the_eleven_capabilities_and_no_more() {
    let machine = Machine::new();
    let (_, text) = machine.run(STATUS);
    let value = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once('\t').unwrap_or_default().1.trim().to_owned()
    };
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(value(set), "00000000800405fb", "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(value(set), "0000000000000000", "{set}");
    }
    assert_eq!((value("NoNewPrivs"), value("Seccomp")), ("0".into(), "2".into()));
    assert_eq!(value("SigBlk"), "0000000000000000");
    assert_eq!(value("Groups"), "0");
    // Rust ignores SIGPIPE, a program must not; without a shell, which ignores some itself.
    let (_, text, _) = machine.run_with("", |plan| {
        plan.process.argv = ["grep", "SigIgn", "/proc/self/status"].map(str::to_owned).to_vec();
    });
    assert_eq!(text, "SigIgn:\t0000000000000000\n");
}

#[test]
fn another_user_has_none_unless_they_are_given() {
    let machine = Machine::new();
    let user = User { uid: 1000, gid: 1001, groups: vec![7, 8], home: "/".into() };
    let (_, text, _) = machine.run_with(STATUS, |plan| {
        plan.process.user = user.clone();
        plan.process.no_new_privileges = true;
    });
    for line in ["CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.contains("Uid:\t1000\t1000\t1000\t1000") && text.contains("Gid:\t1001\t1001\t1001\t1001"));
    assert!(text.contains("Groups:\t7 8 1001"), "the gid is among the groups: {text}");
    assert!(text.contains("NoNewPrivs:\t1"));
    let (_, text, _) = machine.run_with(STATUS, |plan| {
        plan.process.user = user;
        plan.process.ambient = vec!["CAP_NET_BIND_SERVICE".into()];
    });
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(text.contains(&format!("{set}:\t0000000000000400")), "{text}");
    }
}

#[test]
fn only_the_standard_devices_are_there_and_no_descriptor_leaks() {
    let machine = Machine::new();
    let (exit, text) = machine.run(
        "ls /dev; echo; for f in null zero full random urandom tty; do test -c /dev/$f || echo no $f; done
         readlink /dev/ptmx; readlink /dev/fd; ls -a /dev/.file 2>/dev/null; echo x > /dev/null; ls /proc/self/fd",
    );
    assert_eq!(exit, Exit::Code(0), "{text}");
    let (devices, rest) = text.split_once("\n\n").unwrap();
    let expected = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero";
    assert_eq!(devices.split_whitespace().collect::<Vec<_>>(), expected.split(' ').collect::<Vec<_>>());
    // Descriptor 3 is the one that `ls` lists with.
    assert_eq!(rest.lines().collect::<Vec<_>>(), ["pts/ptmx", "/proc/self/fd", "0", "1", "2", "3"]);
}

#[test]
fn the_kernel_refuses_what_the_filter_and_the_mounts_forbid() {
    let machine = Machine::new();
    for applet in ["mount", "unshare", "mknod", "umount", "mkdir", "dd", "nsenter"] {
        std::os::unix::fs::symlink("busybox", machine.path("layer/bin").join(applet)).unwrap();
    }
    for script in [
        "mount -t tmpfs x /bin",
        "umount /proc",
        "unshare -U true",
        "unshare -m true",
        "mknod /x b 254 0",
        "echo 1 > /proc/sys/kernel/panic",
        "mkdir /sys/fs/cgroup/x",
        "echo x > /sys/kernel/uevent_helper",
        "echo b > /proc/sysrq-trigger",
    ] {
        let (exit, text, _) = machine.run_with(script, defaults_of_paths);
        assert!(!matches!(exit, Exit::Code(0)), "{script} was allowed: {text}");
    }
    // With the capability nodes can be made, and still none opens.
    let (exit, text, _) = machine.run_with("mknod /x c 1 5 && dd if=/x of=/dev/null count=1 bs=1", |plan| {
        plan.process.capabilities.push("CAP_MKNOD".into());
    });
    assert!(matches!(exit, Exit::Code(1..)) && text.contains("denied"), "{exit:?} {text}");
    let (exit, text, _) =
        machine.run_with("mknod /dev/x c 1 5 && dd if=/dev/x of=/dev/null count=1 bs=1", |plan| {
            plan.process.capabilities.push("CAP_MKNOD".into());
        });
    assert!(matches!(exit, Exit::Code(1..)) && text.contains("denied"), "{exit:?} {text}");
    let (exit, text, _) = machine.run_with("dd if=/dev/zero of=/dev/null count=1 bs=1", |plan| {
        plan.process.capabilities.push("CAP_MKNOD".into());
    });
    assert_eq!(exit, Exit::Code(0), "the standard ones still do: {text}");
}

fn defaults_of_paths(plan: &mut Plan) {
    plan.masked_paths = sandbox::defaults::masked_paths();
    plan.read_only_paths = sandbox::defaults::read_only_paths();
}

#[test]
fn masked_paths_are_empty_and_read_only_ones_refuse_writes() {
    let machine = Machine::new();
    let script = "cat /proc/keys /proc/timer_list /proc/interrupts | head -c 10; ls /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v : ; echo 0 > /proc/sys/kernel/domainname";
    std::os::unix::fs::symlink("busybox", machine.path("layer/bin/head")).unwrap();
    let (_, text, _) = machine.run_with(script, defaults_of_paths);
    assert!(text.contains("Read-only file system"), "{text}");
    assert_eq!(text.lines().filter(|line| !line.is_empty()).count(), 1, "{text}");
    let (_, text) = machine.run("cat /proc/interrupts | head -c 5");
    assert!(!text.is_empty(), "unmasked it has content, so the test above means something");
}

#[test]
fn files_of_ours_cover_whatever_the_image_has_there() {
    let machine = Machine::new();
    let etc = machine.path("layer/etc");
    fs::create_dir_all(&etc).unwrap();
    fs::write(etc.join("hosts"), "image's").unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", etc.join("resolv.conf")).unwrap();
    std::os::unix::fs::symlink("/../../../../../tmp/rbuild-canary", etc.join("hostname")).unwrap();
    let root = machine.mount();
    let mut plan = plan(&[
        "sh",
        "-c",
        "cat /etc/hosts /etc/resolv.conf /etc/hostname; echo more >> /etc/hosts; cat /etc/hosts",
    ]);
    for name in ["hosts", "resolv.conf", "hostname"] {
        plan.files.push(sandbox::plan::GeneratedFile {
            target: ImagePath::new(format!("/etc/{name}")),
            content: format!("our {name}\n").into_bytes(),
            mode: 0o644,
            uid: 0,
            gid: 0,
        });
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let stdio = Stdio { stdout: Some(writer.into()), ..Stdio::default() };
    let sandbox = sandbox::spawn(&plan, root.mount.as_fd(), stdio).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(sandbox.wait().unwrap().0, Exit::Code(0));
    assert_eq!(text, "our hosts\nour resolv.conf\nour hostname\nour hosts\nmore\n");
    assert!(!Path::new("/tmp/rbuild-canary").exists());
    let written = fs::read_dir(root.scratch.path.join("upper")).unwrap().count();
    assert_eq!(written, 0, "nothing of it is in the scratch");
}

#[test]
fn hostile_roots_are_refused_and_touch_nothing_outside() {
    let canary = TempDir::new().unwrap();
    for name in ["dev", "proc", "sys"] {
        let machine = Machine::new();
        std::os::unix::fs::symlink(canary.path(), machine.path("layer").join(name)).unwrap();
        let error = machine.fails(|_| {});
        assert!(error.to_string().contains(name), "{error}");
    }
    let machine = Machine::new();
    std::os::unix::fs::symlink("/proc/1/root/tmp", machine.path("layer/a")).unwrap();
    std::os::unix::fs::symlink(Path::new("/../..").join(canary.path()), machine.path("layer/b")).unwrap();
    let outside = fs::read_dir(canary.path()).unwrap().count();
    for path in ["/a/x", "/proc/self/fd/7", "/b/x/y"] {
        let root = machine.mount();
        let mut plan = plan(&["sh", "-c", "pwd; test -e /proc/self/cwd/."]);
        plan.process.cwd = ImagePath::new(path);
        if let Ok(sandbox) = sandbox::spawn(&plan, root.mount.as_fd(), Stdio::default()) {
            assert_eq!(sandbox.wait().unwrap().0, Exit::Code(0));
        }
    }
    assert_eq!(fs::read_dir(canary.path()).unwrap().count(), outside);
}

#[test]
fn mounts_land_inside_the_root_and_obey_their_flags() {
    use sandbox::plan::{Mount, MountSource};
    let machine = Machine::new();
    let source = TempDir::new().unwrap();
    fs::write(source.path().join("file"), "shared\n").unwrap();
    std::os::unix::fs::symlink("/data", machine.path("layer/link")).unwrap();
    let file =
        rustix::fs::open(source.path().join("file"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mount = |target: &str, source: MountSource, read_only| Mount {
        target: ImagePath::new(target),
        source,
        read_only,
        no_exec: false,
        no_suid: true,
        no_dev: true,
    };
    let folder = MountSource::Bind(std::sync::Arc::new(open(source.path())));
    let (exit, text, _) = machine.run_with(
        "cat /data/sub/file /one/file; echo x > /data/sub/new; echo y > /ro/y; echo t > /t/x && cat /t/x; ls -d /t/in/side",
        |plan| plan.mounts = vec![
            mount("/data/sub", folder.clone(), false),
            mount("/ro", folder.clone(), true),
            mount("/one/file", MountSource::Bind(std::sync::Arc::new(file)), true),
            mount("/t", MountSource::Tmpfs { size_bytes: Some(1 << 20), mode: 0o1777 }, false),
            mount("/t/in/side", folder.clone(), true),
        ],
    );
    assert_eq!(exit, Exit::Code(0), "{text}");
    assert!(
        text.starts_with("shared\nshared\n")
            && text.contains("/ro/y: Read-only")
            && text.ends_with("t\n/t/in/side\n"),
        "{text}"
    );
    assert_eq!(fs::read_to_string(source.path().join("new")).unwrap(), "x\n");
    for target in ["/", "/proc", "/proc/sys", "/proc/self/x"] {
        let error = machine.fails(|plan| plan.mounts = vec![mount(target, folder.clone(), false)]);
        assert!(error.to_string().contains("are the sandbox's own"), "{target}: {error}");
    }
    // By way of a link as well.
    std::os::unix::fs::symlink("/proc", machine.path("layer/p")).unwrap();
    assert!(matches!(
        machine.fails(|plan| plan.mounts = vec![mount("/p/tty", folder.clone(), false)]),
        SandboxError::Setup { .. }
    ));
}

#[test]
fn targets_that_were_made_can_go_again() {
    use sandbox::plan::{Mount, MountSource};
    let machine = Machine::new();
    let root = machine.mount();
    let tmpfs = |target: &str| Mount {
        target: ImagePath::new(target),
        source: MountSource::Tmpfs { size_bytes: None, mode: 0o755 },
        read_only: false,
        no_exec: false,
        no_suid: false,
        no_dev: false,
    };
    let mut plan = plan(&["true"]);
    plan.mounts = vec![tmpfs("/a/b"), tmpfs("/a/b/c"), tmpfs("/bin"), tmpfs("/dev/x")];
    let root = RootDir::new(root.mount);
    let made = Targets::make(&plan, &root).unwrap();
    assert_eq!(made.paths().collect::<Vec<_>>(), [&ImagePath::new("/a"), &ImagePath::new("/a/b")]);
    assert_eq!(Targets::make(&plan, &root).unwrap().paths().count(), 0);
    made.remove().unwrap();
    assert_eq!(Targets::make(&plan, &root).unwrap().paths().count(), 2);
}

#[test]
fn a_read_only_root_refuses_writes_and_its_mounts_take_them() {
    let machine = Machine::new();
    let (_, text, _) = machine
        .run_with("echo x > /x; echo y > /dev/shm/y && cat /dev/shm/y", |plan| plan.root_read_only = true);
    assert!(text.contains("/x: Read-only") && text.ends_with("y\n"), "{text}");
}

#[test]
fn the_working_directory_is_made_for_the_user_and_settings_are_written() {
    let machine = Machine::new();
    let (_, text, _) = machine.run_with(
        "readlink /proc/self/cwd; ls -ldn . | grep -o '5 *6 '; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; umask; ulimit -n",
        |plan| {
            plan.process.cwd = ImagePath::new("/w/x");
            plan.process.user = User { uid: 5, gid: 6, groups: Vec::new(), home: "/".into() };
            plan.process.umask = 0o027;
            plan.process.rlimits = vec![("nofile".into(), 300, u64::MAX)];
            plan.sysctls = vec![("net.ipv4.ip_unprivileged_port_start".into(), "0".into())];
        },
    );
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!((lines[0], lines[2], lines[3], lines[4]), ("/w/x", "0", "0027", "300"), "{text}");
    assert!(lines[1].starts_with('5') && lines[1].ends_with('6'), "{text}");
}

#[test]
fn a_terminal_is_the_processs_own() {
    let machine = Machine::new();
    let root = machine.mount();
    let mut plan = plan(&[
        "sh",
        "-c",
        "read go; tty; test -t 0 && test -c /dev/console && echo hi > /dev/tty; stty size",
    ]);
    for applet in ["tty", "stty"] {
        std::os::unix::fs::symlink("busybox", machine.path("layer/bin").join(applet)).unwrap();
    }
    plan.process.user.uid = 77;
    let stdio = Stdio { terminal: true, ..Stdio::default() };
    let mut sandbox = sandbox::spawn(&plan, root.mount.as_fd(), stdio).unwrap();
    let terminal = sandbox.terminal.take().unwrap();
    sandbox::terminal::resize(&terminal, 33, 99).unwrap();
    rustix::io::write(&terminal, b"\n").unwrap();
    let mut text = Vec::new();
    // The last end closes with EIO.
    drop(fs::File::from(terminal).read_to_end(&mut text));
    assert_eq!(sandbox.wait().unwrap().0, Exit::Code(0));
    assert_eq!(String::from_utf8_lossy(&text), "\r\n/dev/pts/0\r\nhi\r\n33 99\r\n");
}

#[test]
fn what_outgrows_its_memory_is_killed_and_said_so() {
    let machine = Machine::new();
    let (exit, _, usage) = machine.run_with("x=a; while true; do x=$x$x; done", |plan| {
        plan.limits.memory_bytes = Some(24 << 20);
    });
    assert_eq!(exit, Exit::Signal(9));
    assert!(usage.out_of_memory);
    assert!(usage.memory_peak_bytes.is_some_and(|peak| peak > (12 << 20) && peak <= (24 << 20)), "{usage:?}");
}

#[test]
fn a_fork_bomb_meets_its_limit() {
    let machine = Machine::new();
    let (_, text, usage) =
        machine.run_with("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & done; wait", |plan| {
            plan.limits.pids = Some(8);
        });
    assert!(usage.pids_limit_hit, "{text}");
    assert!(text.contains("fork"), "{text}");
}

#[test]
fn processor_time_is_bounded() {
    let machine = Machine::new();
    let start = std::time::Instant::now();
    let root = machine.mount();
    let mut plan = plan(&["sh", "-c", "while true; do true; done"]);
    plan.limits.cpus = Some(0.3);
    let sandbox = sandbox::spawn(&plan, root.mount.as_fd(), Stdio::default()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    sandbox.signal(9).unwrap();
    let (_, usage) = sandbox.wait().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "a second's worth of microseconds")]
    let share = usage.cpu_microseconds.unwrap() as f64 / start.elapsed().as_micros() as f64;
    assert!(share < 0.36, "{share}");
    assert!(share > 0.1, "{share}");
}

#[test]
fn a_limit_that_is_no_value_is_an_error_that_names_it() {
    let machine = Machine::new();
    let error = machine.fails(|plan| plan.limits.cpuset_cpus = Some("4096".into()));
    assert!(error.to_string().contains("--cpuset-cpus"), "{error}");
    let error = machine.fails(|plan| plan.process.capabilities = vec!["CAP_CHWON".into()]);
    assert!(error.to_string().contains("CAP_CHOWN"), "{error}");
}

/// The cgroups of this process's sandboxes whose plan's number is not used by a test that still runs.
fn cgroups(id: &str) -> Vec<std::path::PathBuf> {
    ["memory", "pids", "cpu", "cpuset", "unified"]
        .iter()
        .map(|name| Path::new("/sys/fs/cgroup").join(name).join("rbuild").join(id))
        .filter(|path| path.exists())
        .collect()
}

#[test]
fn survivors_die_and_nothing_is_left_after_wait_or_drop() {
    let machine = Machine::new();
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    for waited in [true, false] {
        let root = machine.mount();
        let script = if waited { "sleep 1000 & sleep 1000 & exit 0" } else { "sleep 1000 & sleep 1000" };
        let mut plan = plan(&["sh", "-c", script]);
        plan.limits = Limits { pids: Some(64), memory_bytes: Some(64 << 20), ..Limits::default() };
        let sandbox = sandbox::spawn(&plan, root.mount.as_fd(), Stdio::default()).unwrap();
        let pid = sandbox.pid();
        assert_eq!(cgroups(&plan.id).len(), 2);
        if waited {
            assert_eq!(sandbox.wait().unwrap().0, Exit::Code(0));
        } else {
            drop(sandbox);
        }
        assert!(cgroups(&plan.id).is_empty());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        assert_eq!(mounts(), before);
    }
}

#[test]
fn sixty_four_threads_may_start_at_once() {
    let machine = Machine::new();
    std::thread::scope(|scope| {
        for number in 0..64u8 {
            let machine = &machine;
            scope.spawn(move || {
                let (exit, text, _) = machine.run_with(&format!("echo {number}; exit {number}"), |plan| {
                    plan.limits.pids = Some(100);
                });
                assert_eq!((exit, text), (Exit::Code(number), format!("{number}\n")));
            });
        }
    });
}

#[test]
fn what_a_killed_owner_left_is_cleared_by_name() {
    use std::io::BufRead;
    // The example lies beside the tests' folder.
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("examples/start");
    let lease = format!("dead-{}-", std::process::id());
    let id = format!("{lease}1");
    let mut owner = std::process::Command::new(program)
        .args(["hold", &id])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(cgroups(&id).len(), 1);
    let sandbox = rustix::process::Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    let pidfd = rustix::process::pidfd_open(sandbox, rustix::process::PidfdFlags::empty()).unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    // The process died with its owner, or does so now.
    let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    let patience = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut ended, Some(&patience)).unwrap(), 1);
    assert_eq!(cgroups(&id).len(), 1, "without an owner the cgroup stays");
    sandbox::cgroup::clear(&lease).unwrap();
    assert!(cgroups(&id).is_empty());
}

#[test]
fn the_filter_refuses_sockets_and_keys_to_a_real_program() {
    // The host's own programs, read-only: among them one that makes any system call.
    let machine = Machine::new();
    for name in ["lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{name}"), machine.path("layer").join(name)).unwrap();
    }
    let root = machine.mount();
    let script = "import ctypes, errno, socket
libc = ctypes.CDLL(None, use_errno=True)
def error_of(*words):
    return errno.errorcode.get(ctypes.get_errno()) if libc.syscall(*words) < 0 else 'fine'
def socket_of(family, kind):
    try: socket.socket(family, kind); return 'fine'
    except OSError as error: return errno.errorcode[error.errno]
print(socket_of(40, 1), socket_of(38, 5), socket_of(17, 3), socket_of(1, 1), socket_of(2, 1))
print(error_of(250, 0, -3, 0), error_of(248, 0, 0, 0, 0, 0), error_of(425, 1, 0), error_of(435, 0, 0), error_of(39))
print(error_of(0x40000000 + 39))";
    let (mut reader, writer) = std::io::pipe().unwrap();
    let stdio = Stdio { stdout: Some(writer.into()), ..Stdio::default() };
    let mut plan = plan(&["/usr/bin/python3", "-c", script]);
    plan.mounts.push(sandbox::plan::Mount {
        target: ImagePath::new("/usr"),
        source: sandbox::plan::MountSource::Bind(std::sync::Arc::new(open(Path::new("/usr")))),
        read_only: true,
        no_exec: false,
        no_suid: true,
        no_dev: true,
    });
    let sandbox = sandbox::spawn(&plan, root.mount.as_fd(), stdio).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(sandbox.wait().unwrap().0, Exit::Code(0));
    assert_eq!(text, "EPERM EPERM EPERM fine fine\nEPERM EPERM EPERM ENOSYS fine\nEPERM\n");
}
