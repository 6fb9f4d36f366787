//! Error → one sentence that the user can act on. All hints live here.

use builder::step::StepError;
use builder::{BuildError, InputError};
use runner::container::ContainerError;
use runner::network::NetworkError;
use runner::sandbox::user_ns::UserNamespaceError;
use runner::sandbox::{Exit, SandboxError};
use store::StoreError;

use crate::commands::NoSuchImage;

/// The hint for an error, when there is one: of the innermost cause that has one.
pub(crate) fn hint(error: &anyhow::Error) -> Option<String> {
    let causes: Vec<_> = error.chain().collect();
    causes.into_iter().rev().find_map(of_cause)
}

fn of_cause(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let text = if let Some(error) = error.downcast_ref::<StepError>() {
        return of_step(error);
    } else if let Some(error) = error.downcast_ref::<ContainerError>() {
        return of_container(error);
    } else if let Some(NoSuchImage(name)) = error.downcast_ref::<NoSuchImage>() {
        return Some(how_to_get(name));
    } else if let Some(InputError::NoContainerfile(_)) = error.downcast_ref::<InputError>() {
        "name it with `-f FILE`, or give the folder that holds it"
    } else if let Some(BuildError::Stages { .. }) = error.downcast_ref::<BuildError>() {
        "`rbuild check` shows every mistake of a Containerfile without building it"
    } else if let Some(NetworkError::Private { .. } | NetworkError::PastaMissing) =
        error.downcast_ref::<NetworkError>()
    {
        "`--network host` shares the host's network, `--network none` needs none; `rbuild doctor` says what is missing"
    } else if error.downcast_ref::<UserNamespaceError>().is_some() {
        "`rbuild doctor` says what this machine lacks for work without root"
    } else if let Some(SandboxError::Limit { .. }) = error.downcast_ref::<SandboxError>() {
        "leave the limit away, or see `rbuild doctor` for what this host can limit"
    } else if let Some(error) = error.downcast_ref::<StoreError>() {
        return of_store(error);
    } else if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return of_io(error);
    } else {
        return None;
    };
    Some(text.to_owned())
}

fn of_step(error: &StepError) -> Option<String> {
    match error {
        StepError::UnknownImage(name) => Some(how_to_get(name)),
        StepError::Failed { exit: Exit::Code(127), .. } => {
            Some("status 127 means that the command was not found in the image".to_owned())
        }
        StepError::Failed { usage, .. } if usage.out_of_memory => {
            Some("give the step more with `--memory`".to_owned())
        }
        StepError::Failed { usage, .. } if usage.pids_limit_hit => {
            Some("allow more processes with `--pids-limit`".to_owned())
        }
        _ => None,
    }
}

/// Errors that a container's error passes on as they are.
fn of_container(error: &ContainerError) -> Option<String> {
    match error {
        ContainerError::Sandbox(error) => of_cause(error),
        ContainerError::Network(error) => of_cause(error),
        ContainerError::Store(error) => of_cause(error),
        ContainerError::NoCommand => Some("give one: `rbuild run IMAGE COMMAND`".to_owned()),
        ContainerError::NameTaken { holder, .. } => {
            Some(format!("take another name, or remove the container: `rbuild rm {holder}`"))
        }
        ContainerError::Running(id) => Some(format!("`rbuild rm --force {id}` kills it first")),
        _ => None,
    }
}

fn how_to_get(image: &str) -> String {
    let image = image.escape_debug();
    format!(
        "make it with `rbuild import ROOTFS.tar {image}`, `rbuild load -i ARCHIVE` or `rbuild -t {image} DIR`; `rbuild images` lists what is here"
    )
}

fn of_store(error: &StoreError) -> Option<String> {
    match error {
        StoreError::NotOurs { .. } => Some("name another folder with `--root DIR`".to_owned()),
        _ => None,
    }
}

fn of_io(error: &std::io::Error) -> Option<String> {
    match error.kind() {
        std::io::ErrorKind::StorageFull => {
            Some("free space on the disk, or name a store elsewhere with `--root DIR`".to_owned())
        }
        std::io::ErrorKind::QuotaExceeded => {
            Some("your disk quota is used up: free space, or use `--root DIR`".to_owned())
        }
        _ => None,
    }
}
