//! Starts sandboxes on a root of busybox: `start COUNT` times them, `start hold ID` keeps one.
//!
//! May touch: a folder below the temporary one. Knows nothing of the store.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use runner::rootfs::{self, MountOptions, Rootfs};
use runner::sandbox::plan::{Limits, Network, Plan, Process, Seccomp, User};
use runner::sandbox::{self, Stdio, capabilities};
use rustix::fs::{Mode, OFlags};
use store::{ImagePath, Scratch, Stack, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let folder = tempfile::tempdir()?;
    fs::create_dir_all(folder.path().join("layer/bin"))?;
    fs::copy("/bin/busybox", folder.path().join("layer/bin/busybox"))?;
    let store = Store::open(&folder.path().join("store"))?;
    let mut out = std::io::stdout();
    if let [word, id] = words.as_slice()
        && word == "hold"
    {
        let (root, _scratch) = mount(&store, folder.path())?;
        let sandbox = sandbox::spawn(
            &plan(id, &["/bin/busybox", "sleep", "1000"]),
            root.mount.as_fd(),
            Stdio::default(),
        )?;
        writeln!(out, "{}", sandbox.pid())?;
        sandbox.wait()?;
        return Ok(());
    }
    let count = words.first().map_or(Ok(200), |word| word.parse())?;
    let network = words.get(1).map_or("none", String::as_str);
    let mut times = Vec::new();
    for number in 0..count {
        let start = Instant::now();
        let (root, _scratch) = mount(&store, folder.path())?;
        let mut plan = plan(&format!("time-{}-{number}", std::process::id()), &["/bin/busybox", "true"]);
        if network == "host" {
            (plan.network, plan.sysctls) = (Network::Host, Vec::new());
        }
        if words.get(2).is_some() {
            plan.limits = Limits::default();
        }
        let sandbox = sandbox::spawn(&plan, root.mount.as_fd(), Stdio::default())?;
        sandbox.wait()?;
        drop(root);
        times.push(start.elapsed());
    }
    times.sort();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or(Duration::ZERO);
    writeln!(out, "min {:?}  median {:?}  p90 {:?}  network {network}", at(0), at(50), at(90))?;
    Ok(())
}

fn mount(store: &Store, folder: &Path) -> Result<(Rootfs, Scratch), Box<dyn std::error::Error>> {
    let scratch = store.layers().scratch()?;
    let stack = Stack::of_tree(open(&folder.join("layer"))?);
    let options = MountOptions { mount_points: true };
    Ok((rootfs::mount(store, &stack, Some(&scratch), options)?, scratch))
}

fn open(path: &Path) -> std::io::Result<std::os::fd::OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn plan(id: &str, argv: &[&str]) -> Plan {
    Plan {
        id: id.to_owned(),
        process: Process {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: vec!["PATH=/bin".into()],
            cwd: ImagePath::root(),
            user: User::default(),
            umask: 0o022,
            capabilities: capabilities::DEFAULT.map(str::to_owned).to_vec(),
            ambient: Vec::new(),
            no_new_privileges: false,
            rlimits: vec![("nofile".into(), 1_048_576, 1_048_576)],
        },
        hostname: "box".into(),
        network: Network::None,
        root_read_only: false,
        mounts: Vec::new(),
        files: Vec::new(),
        limits: Limits { pids: Some(2048), ..Limits::default() },
        seccomp: Seccomp::Default,
        shm_size_bytes: 64 << 20,
        masked_paths: sandbox::defaults::masked_paths(),
        read_only_paths: sandbox::defaults::read_only_paths(),
        sysctls: vec![("net.ipv4.ip_unprivileged_port_start".into(), "0".into())],
    }
}
