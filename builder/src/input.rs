//! What a build is made from: the Containerfile's text, its ignore rules and the context folder.
//!
//! ```text
//! -f FILE | CONTEXT/Containerfile | CONTEXT/Dockerfile | - (stdin)          → containerfile
//! FILE.containerignore | FILE.dockerignore | CONTEXT/.containerignore | CONTEXT/.dockerignore → rules
//! ```
//!
//! The ignore file is opened without following links out of the context. Both files are read even
//! when the rules exclude them.
//!
//! May touch: the context folder and the Containerfile. Knows nothing of stores, stages, sandboxes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use store::RootDir;

use crate::context::Source;
use crate::context::ignore::{BadPattern, IgnoreRules};
use crate::context::memory::Memory;

/// Containerfiles and ignore files are small; a larger file is a mistake or an attack.
const LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// What a build is made from.
#[derive(Debug)]
pub struct Input {
    pub containerfile: Vec<u8>,
    /// For messages.
    pub file_name: String,
    /// `None` when only a Containerfile was given (stdin).
    pub context: Option<Context>,
}

/// The context folder.
#[derive(Debug)]
pub struct Context {
    /// Absolute; the key under which its hashes are remembered.
    pub path: String,
    pub source: Arc<Source>,
    /// The ignore file that was used, for messages.
    pub ignore_file: Option<String>,
}

/// Why there is nothing to build from.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("cannot find a Containerfile or Dockerfile in {0}")]
    NoContainerfile(PathBuf),
    #[error("cannot use {0} as a build context: it is not a directory")]
    NotADirectory(PathBuf),
    #[error("cannot read {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot read {path}: it is larger than {LIMIT_BYTES} bytes")]
    TooLarge { path: PathBuf },
    #[error("cannot use {file}")]
    Ignore { file: String, source: BadPattern },
}

impl Input {
    /// Reads the Containerfile `file` (or the default ones) for the context folder `context`.
    ///
    /// A relative `file` that is not below the working directory is looked for in the context.
    /// `remembered` gives the bytes that [`Context::remembered`] gave after the last build.
    pub fn from_folder(
        context: &Path,
        file: Option<&Path>,
        ignore_file: Option<&Path>,
        remembered: &dyn Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<Self, InputError> {
        let folder = open_folder(context)?;
        let path = std::path::absolute(context).map_err(|source| unreadable(context, source))?;
        let file = find_containerfile(context, file)?;
        let containerfile = read_small(&file)?;
        let (rules, ignore_file) = read_rules(context, &file, ignore_file)?;
        let path = path.to_string_lossy().into_owned();
        let memory = remembered(&path).map(Memory::parse).unwrap_or_default();
        let source =
            Source { root: RootDir::new(folder), rules, memory: Mutex::new(memory), keeps_owners: false };
        let context = Some(Context { path, source: Arc::new(source), ignore_file });
        Ok(Self { containerfile, file_name: file.display().to_string(), context })
    }

    /// A Containerfile without a context.
    pub fn from_text(containerfile: Vec<u8>, file_name: &str) -> Self {
        Self { containerfile, file_name: file_name.to_owned(), context: None }
    }
}

impl Context {
    /// What the store should remember of this context, when there is anything new.
    pub fn remembered(&self) -> Option<Vec<u8>> {
        self.source.memory.lock().expect("no thread panics while it holds the memory").to_bytes()
    }
}

fn unreadable(path: &Path, source: io::Error) -> InputError {
    InputError::Io { path: path.to_owned(), source }
}

fn open_folder(path: &Path) -> Result<OwnedFd, InputError> {
    let folder = File::open(path).map_err(|source| unreadable(path, source))?;
    let is_folder = folder.metadata().map_err(|source| unreadable(path, source))?.is_dir();
    if is_folder { Ok(folder.into()) } else { Err(InputError::NotADirectory(path.to_owned())) }
}

fn find_containerfile(context: &Path, file: Option<&Path>) -> Result<PathBuf, InputError> {
    if let Some(file) = file {
        let below = context.join(file);
        return Ok(if !file.exists() && file.is_relative() && below.exists() {
            below
        } else {
            file.to_owned()
        });
    }
    ["Containerfile", "Dockerfile", "containerfile", "dockerfile"]
        .iter()
        .map(|name| context.join(name))
        .find(|path| path.exists())
        .ok_or_else(|| InputError::NoContainerfile(context.to_owned()))
}

fn read_small(path: &Path) -> Result<Vec<u8>, InputError> {
    let file = File::open(path).map_err(|source| unreadable(path, source))?;
    let mut bytes = Vec::new();
    file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(|source| unreadable(path, source))?;
    if bytes.len() as u64 > LIMIT_BYTES {
        return Err(InputError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// The first ignore file that is there: the Containerfile's own before the context's.
fn read_rules(
    context: &Path,
    containerfile: &Path,
    given: Option<&Path>,
) -> Result<(IgnoreRules, Option<String>), InputError> {
    let beside = |suffix: &str| {
        let mut name = containerfile.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let candidates = match given {
        Some(given) => vec![given.to_owned()],
        None => vec![
            beside(".containerignore"),
            beside(".dockerignore"),
            context.join(".containerignore"),
            context.join(".dockerignore"),
        ],
    };
    let found = candidates.iter().find(|path| path.symlink_metadata().is_ok());
    let Some(path) = found.or(given.is_some().then(|| &candidates[0])) else {
        return Ok((IgnoreRules::default(), None));
    };
    let file = path.display().to_string();
    let text = read_ignore_file(path)?;
    let rules =
        IgnoreRules::parse(&text).map_err(|source| InputError::Ignore { file: file.clone(), source })?;
    Ok((rules, Some(file)))
}

/// Reads an ignore file; a link in its last component could lead out of the context and is refused.
fn read_ignore_file(path: &Path) -> Result<Vec<u8>, InputError> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|source| unreadable(path, source.into()))?;
    let mut text = Vec::new();
    File::from(opened).take(LIMIT_BYTES).read_to_end(&mut text).map_err(|source| unreadable(path, source))?;
    Ok(text)
}
