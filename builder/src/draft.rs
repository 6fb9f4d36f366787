//! The image so far: a config over a stack of sealed layers. Pure but for reading its base.
//!
//! A draft starts empty (`FROM scratch`), from a stored image or from another stage, is changed by
//! one instruction at a time, and ends as an image. It is a value: a stage that builds on another
//! clones it.
//!
//! May touch: its arguments. Knows nothing of disk, sandboxes, progress.

use store::oci::config::{History, ImageConfig};
use store::{ChainId, DiffId, Image};

use crate::options::Platform;
use crate::scope::Scope;

/// What a process finds on `PATH` when an image says nothing (Docker's value).
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The image so far.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    pub config: ImageConfig,
    pub layers: Vec<DiffId>,
    /// ARG and ENV so far.
    pub scope: Scope,
    /// When the newest file change was made, RFC 3339: the image's own time.
    pub created: Option<String>,
    /// CMD was given in this stage, so that an ENTRYPOINT keeps it.
    pub has_own_cmd: bool,
}

impl Draft {
    /// `FROM scratch` for a platform.
    pub fn scratch(platform: &Platform) -> Self {
        let config = ImageConfig {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::default()
        };
        let mut draft = Self { config, ..Self::default() };
        draft.add_path();
        draft.scope = Scope::of_image(&draft.config.config.env);
        draft
    }

    /// `FROM` an image of the store.
    pub fn of_image(image: &Image) -> Self {
        let mut draft =
            Self { config: image.config.clone(), layers: image.layers.clone(), ..Self::default() };
        // What ran in the image's own making is not the new image's (moby drops these too).
        for name in ["container", "container_config", "docker_version", "parent", "id"] {
            draft.config.extra.remove(name);
        }
        draft.created = draft.config.created.take();
        // Triggers ran when this stage was planned; they are not the new image's.
        draft.config.config.on_build.clear();
        draft.add_path();
        draft.scope = Scope::of_image(&draft.config.config.env);
        draft
    }

    /// `FROM` another stage: its files, its config and its variables.
    pub fn of_stage(parent: &Self) -> Self {
        let mut draft = parent.clone();
        draft.config.config.on_build.clear();
        draft.has_own_cmd = false;
        draft
    }

    fn add_path(&mut self) {
        let env = &mut self.config.config.env;
        if !env.iter().any(|entry| entry.starts_with("PATH=")) {
            env.insert(0, DEFAULT_PATH.to_owned());
        }
    }

    /// Names the files so far; `None` when there are none.
    pub fn chain(&self) -> Option<ChainId> {
        ChainId::of(&self.layers)
    }

    /// Adds a line of history for an instruction that made no layer; its time is that of the files it
    /// stands on, so that a build in which nothing changed is the same image.
    pub fn note(&mut self, created_by: String) {
        self.config.history.push(History {
            created: self.created.clone(),
            created_by: Some(created_by),
            comment: Some(COMMENT.to_owned()),
            empty_layer: true,
            ..History::default()
        });
    }

    /// Adds a sealed layer with its line of history.
    pub fn push_layer(&mut self, layer: DiffId, created_by: String, created: String) {
        self.layers.push(layer);
        self.config.rootfs.diff_ids.push(layer);
        self.created = Some(created);
        self.config.history.push(History {
            created: self.created.clone(),
            created_by: Some(created_by),
            comment: Some(COMMENT.to_owned()),
            ..History::default()
        });
    }

    /// Sets a variable of the image.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        let env = &mut self.config.config.env;
        match env.iter_mut().find(|known| known.split_once('=').is_some_and(|(key, _)| key == name)) {
            Some(known) => *known = entry,
            None => env.push(entry),
        }
        self.scope.set(name, value);
    }

    /// The directory that relative paths start from; absolute.
    pub fn working_dir(&self) -> store::ImagePath {
        store::ImagePath::new(&self.config.config.working_dir)
    }
}

/// Says in `history` who made the entry.
const COMMENT: &str = "rbuild";
