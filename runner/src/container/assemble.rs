//! Image and options → root, user, mounts and plan of one container.
//!
//! What the image says of accounts and volumes is hostile text, and its files are reached only
//! through `RootDir`.
//!
//! May touch: the container's root and volumes. Knows nothing of records and of the process's life.

use std::io;
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use store::{Image, ImagePath, RootDir, Scratch, Store};

use super::{Belongings, ContainerError, RunOptions, command, files, name};
use crate::network::{Mode, Network};
use crate::process;
use crate::rootfs::{self, MountOptions, Rootfs};
use crate::sandbox::plan::{Mount, MountSource, Plan, Process, User};
use crate::sandbox::{self, capabilities};
use crate::volumes;

pub(super) fn mount(store: &Store, image: &Image) -> Result<(Rootfs, Scratch), ContainerError> {
    let stack = store.layers().open_stack(&image.layers)?;
    let scratch = store.layers().scratch()?;
    scratch.take_root_of(&stack)?;
    let rootfs = rootfs::mount(store, &stack, Some(&scratch), MountOptions { mount_points: true })?;
    Ok((rootfs, scratch))
}

pub(super) fn hostname(options: &RunOptions, id: &str) -> Result<String, ContainerError> {
    match (&options.hostname, options.network) {
        (Some(name), _) => files::check_host_name(name).map(|()| name.clone()),
        (None, Mode::Host) => Ok(rustix::system::uname().nodename().to_string_lossy().into_owned()),
        (None, _) => Ok(name::short(id).to_owned()),
    }
}

/// The user by the image's own accounts.
pub(super) fn user(root: &RootDir, spec: &str) -> Result<User, ContainerError> {
    let passwd = accounts(root, "/etc/passwd")?;
    let group = accounts(root, "/etc/group")?;
    Ok(process::resolve_user(spec, &passwd, &group)?)
}

/// Reads a small file of the image, if it is one: a pipe or a device there would hang us.
fn accounts(root: &RootDir, path: &str) -> Result<Vec<u8>, ContainerError> {
    let image_path = ImagePath::new(path);
    let failed = || ContainerError::io("read the image's", Path::new(path));
    let place = match root.open(&image_path, OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed())?,
    };
    let mode = rustix::fs::fstat(&place).map_err(|errno| failed()(errno.into()))?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(ContainerError::NotAFile { path: image_path });
    }
    let file = root.open(&image_path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map_err(failed())?;
    let limit = u64::try_from(process::ACCOUNTS_BYTES_MAX).expect("a few MiB");
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(std::fs::File::from(file), limit), &mut bytes)
        .map_err(failed())?;
    Ok(bytes)
}

/// The volumes and memory file systems, outer before inner.
pub(super) fn mounts(
    belongings: &mut Belongings<'_>,
    root: &RootDir,
    image: &Image,
    options: &RunOptions,
) -> Result<Vec<Mount>, ContainerError> {
    let mut wanted = options.volumes.clone();
    let taken: Vec<&ImagePath> = options.tmpfs.iter().map(|tmpfs| &tmpfs.target).collect();
    for target in image.config.config.volumes.keys().map(ImagePath::new) {
        if !target.is_root()
            && !taken.contains(&&target)
            && wanted.iter().all(|volume| volume.target != target)
        {
            wanted.push(volumes::Volume::anonymous(target));
        }
    }
    let mut mounts = Vec::new();
    for volume in &wanted {
        let opened = volumes::open(belongings.store, volume, root)?;
        if let volumes::VolumeSource::Named(name) = &volume.source {
            belongings.record.named_volumes.get_or_insert_default().push(name.clone());
        }
        belongings.record.anonymous_volumes.extend(opened.anonymous);
        belongings.volume_locks.extend(opened.lock);
        mounts.push(opened.mount);
    }
    mounts.extend(options.tmpfs.iter().map(|tmpfs| Mount {
        target: tmpfs.target.clone(),
        source: MountSource::Tmpfs { size_bytes: tmpfs.size_bytes, mode: tmpfs.mode },
        read_only: tmpfs.read_only,
        no_exec: tmpfs.no_exec,
        no_suid: tmpfs.no_suid,
        no_dev: tmpfs.no_dev,
    }));
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

/// What is executed, told by image and options.
pub(super) struct Start {
    pub(super) argv: Vec<String>,
    pub(super) cwd: ImagePath,
    pub(super) env: Vec<String>,
    pub(super) user: User,
}

pub(super) fn process(options: &RunOptions, start: Start) -> Result<Process, ContainerError> {
    let Start { argv, cwd, mut env, user } = start;
    if !command::has_variable(&env, "HOME") {
        env.push(format!("HOME={}", user.home));
    }
    let capabilities = capabilities::choose(&options.capabilities_add, &options.capabilities_drop)?;
    // Who is not root has none of them, but for those that were asked for by name.
    let ambient = match user.uid {
        0 => Vec::new(),
        _ => {
            let everything = ["ALL".to_owned()];
            capabilities::choose(&options.capabilities_add, &everything)?
        }
    };
    let rlimits = options.rlimits.clone();
    let no_new_privileges = options.no_new_privileges;
    Ok(Process { argv, env, cwd, user, umask: 0o022, capabilities, ambient, no_new_privileges, rlimits })
}

pub(super) fn plan(
    options: &RunOptions,
    network: &Network,
    process: Process,
    mounts: Vec<Mount>,
    (id, hostname): (&str, &str),
) -> Result<Plan, ContainerError> {
    let host_hosts = match network.mode {
        // A host without the file has no names of its own.
        Mode::Host => std::fs::read("/etc/hosts").unwrap_or_default(),
        _ => Vec::new(),
    };
    let names = files::Names {
        hostname,
        network,
        dns: &options.dns,
        add_hosts: &options.add_hosts,
        host_hosts: &host_hosts,
    };
    // In a network namespace of its own a container may serve any port, and send pings.
    let sysctls = match network.mode {
        Mode::Host => Vec::new(),
        Mode::None | Mode::Private => vec![
            ("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned()),
            ("net.ipv4.ping_group_range".to_owned(), "0 0".to_owned()),
        ],
    };
    Ok(Plan {
        id: id.to_owned(),
        process,
        hostname: hostname.to_owned(),
        network: network.plan(),
        root_read_only: options.read_only,
        mounts,
        files: names.files()?,
        limits: options.limits.clone(),
        seccomp: options.seccomp.clone(),
        shm_size_bytes: options.shm_size_bytes,
        masked_paths: sandbox::defaults::masked_paths(),
        read_only_paths: sandbox::defaults::read_only_paths(),
        sysctls,
    })
}
