//! One stage: its instructions folded over a draft.
//!
//! ```text
//! configure   draft ─→ draft                                             a line of history, no layer
//! layer       draft ─→ step ─key→ index ─hit→ layer ─→ draft
//!                                       └miss→ scratch ─apply, seal→ layer ─→ draft
//! ```
//!
//! Other stages are reached through [`Stages`], which waits for exactly the one that is asked for.
//!
//! May touch: the store, through its front doors. Knows nothing of terminals, host paths.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use runner::rootfs::{self, MountOptions};
use rustix::fs::OFlags;
use store::cache::CacheRow;
use store::layers::SealOptions;
use store::{ChainId, DiffId, Digest, ImagePath, RootDir, Scratch, Stack};

use crate::BuildError;
use crate::build::Build;
use crate::cache_key::CacheKey;
use crate::containerfile::{Instruction, Kind};
use crate::context::Source;
use crate::context::ignore::IgnoreRules;
use crate::context::select::{self, Request, Selected};
use crate::draft::Draft;
use crate::plan::{Base, StagePlan, find_stage};
use crate::progress::{Event, StepId};
use crate::step::configure::{configure, value};
use crate::step::copy::{CopyStep, hash_selected};
use crate::step::run::{Held, RunStep};
use crate::step::{StepError, workdir};

/// What the stages of a build have come to so far.
#[derive(Debug)]
pub struct Board {
    /// By index in the file; `Some(None)` for a stage that failed.
    drafts: Mutex<Vec<Option<Option<Arc<Draft>>>>>,
    changed: Condvar,
}

impl Board {
    pub fn new(stages: usize) -> Self {
        Self { drafts: Mutex::new(vec![None; stages]), changed: Condvar::new() }
    }

    /// Says what a stage came to.
    pub fn put(&self, index: usize, draft: Option<Arc<Draft>>) {
        self.drafts.lock().expect("no thread panics while it holds the board")[index] = Some(draft);
        self.changed.notify_all();
    }

    /// Waits for a stage; `None` when it failed.
    pub fn wait(&self, index: usize) -> Option<Arc<Draft>> {
        let drafts = self.drafts.lock().expect("no thread panics while it holds the board");
        let drafts = self.changed.wait_while(drafts, |drafts| drafts[index].is_none());
        drafts.expect("no thread panics while it holds the board")[index].clone().flatten()
    }
}

/// The other stages, as one stage sees them.
#[derive(Clone, Copy, Debug)]
pub struct Stages<'b> {
    pub build: Build<'b>,
    pub plans: &'b [StagePlan],
    pub board: &'b Board,
    /// The stage that looks.
    pub index: usize,
}

/// A tree that files are taken from: the context, a stage or an image.
#[derive(Clone, Debug)]
pub struct Tree {
    source: Arc<Source>,
    /// Of a stage or an image.
    layers: Option<Vec<DiffId>>,
    /// Keeps the layers from being collected.
    _stack: Option<Arc<Stack>>,
}

impl Stages<'_> {
    /// The tree that `--from` names; the context without a name.
    pub fn tree(&self, from: Option<&str>) -> Result<Tree, StepError> {
        let Some(name) = from else {
            let context = self.build.input.context.as_ref();
            let context = context.ok_or_else(|| {
                StepError::Invalid("there is no build context to take files from".to_owned())
            })?;
            return Ok(Tree { source: Arc::clone(&context.source), layers: None, _stack: None });
        };
        let layers = self.layers(name)?;
        let stack = self.build.store.layers().open_stack(&layers)?;
        let root = rootfs::mount(self.build.store, &stack, None, MountOptions::default())?;
        let source = Arc::new(Source::of_stack(RootDir::new(root.mount)));
        Ok(Tree { source, layers: Some(layers), _stack: Some(Arc::new(stack)) })
    }

    fn layers(&self, name: &str) -> Result<Vec<DiffId>, StepError> {
        if let Some(stage) = find_stage(self.plans, self.index, name) {
            let draft = self.board.wait(stage).ok_or(StepError::Cancelled)?;
            return Ok(draft.layers.clone());
        }
        if name == "scratch" {
            return Ok(Vec::new());
        }
        let image = self.build.store.images().find(name)?;
        Ok(image.ok_or_else(|| StepError::UnknownImage(name.to_owned()))?.layers)
    }
}

impl Tree {
    pub fn source(&self) -> &Source {
        &self.source
    }

    pub fn keeps_owners(&self) -> bool {
        self.source.keeps_owners
    }

    /// Names the files of a stage or an image; `None` for the context.
    pub fn chain(&self) -> Option<ChainId> {
        self.layers.as_deref().and_then(ChainId::of)
    }

    /// Finds and hashes what `words` name.
    pub fn select(
        &self,
        build: &Build<'_>,
        words: &[String],
        exclude: &IgnoreRules,
    ) -> Result<Vec<Selected>, StepError> {
        if build.cancel.is_cancelled() {
            return Err(StepError::Cancelled);
        }
        Ok(select::select(&self.source, Request { words, exclude })?)
    }

    /// One hash over what `words` name, for a mount.
    pub fn content(&self, build: &Build<'_>, words: &[String]) -> Result<Digest, StepError> {
        if let Some(chain) = self.chain() {
            return Ok(crate::build::digest_of_parts([
                chain.to_string().as_bytes(),
                words.join("\n").as_bytes(),
            ]));
        }
        let selected = self.select(build, words, &IgnoreRules::default())?;
        Ok(Digest::of(hash_selected(&selected, None, false).as_bytes()))
    }

    /// Opens `path` for a bind mount. What is written to a writable one goes to a scratch of its own.
    pub fn open_for_mount(
        &self,
        build: &Build<'_>,
        path: &str,
        writable: bool,
    ) -> Result<(OwnedFd, Option<Held>), StepError> {
        let failed = |source| StepError::Io { doing: format!("open `{path}` for a mount"), source };
        let path_inside = ImagePath::new(path);
        if !writable {
            return Ok((self.source.root.open(&path_inside, OFlags::PATH).map_err(failed)?, None));
        }
        let lower =
            self.source.root.open(&ImagePath::root(), OFlags::PATH | OFlags::DIRECTORY).map_err(failed)?;
        let stack = match &self.layers {
            Some(layers) => build.store.layers().open_stack(layers)?,
            None => Stack::of_tree(lower),
        };
        let scratch = build.store.layers().scratch()?;
        scratch.take_root_of(&stack)?;
        let root = rootfs::mount(build.store, &stack, Some(&scratch), MountOptions::default())?;
        let view = RootDir::new(root.mount.try_clone().map_err(failed)?);
        let opened = view.open(&path_inside, OFlags::PATH).map_err(failed)?;
        Ok((opened, Some(Held::Scratch { _root: root, _scratch: scratch, _stack: stack })))
    }
}

/// Builds one stage. `first` is the id of its first step.
pub fn build_stage(stages: Stages<'_>, plan: &StagePlan, first: usize) -> Result<Draft, BuildError> {
    let build = &stages.build;
    let mut draft = match &plan.base {
        Base::Scratch => Draft::scratch(&plan.platform),
        Base::Image(image) => Draft::of_image(image),
        Base::Stage(index) => Draft::of_stage(&*stages.board.wait(*index).ok_or(BuildError::Cancelled)?),
        Base::Missing(name) => unreachable!("Plan::new refuses a stage whose image `{name}` is missing"),
    };
    for (number, instruction) in plan.instructions.iter().enumerate() {
        let id = StepId(first + number);
        let started = Instant::now();
        let name = step_name(plan, number, instruction);
        build.progress.event(Event::Started { step: id, name: &name });
        let result = fold(stages, &mut draft, instruction, id);
        let elapsed = started.elapsed();
        match result {
            Ok(()) => build.progress.event(Event::Finished { step: id, elapsed }),
            Err(StepError::Cancelled) => return Err(BuildError::Cancelled),
            Err(source) => {
                build.progress.event(Event::Failed { step: id, elapsed });
                return Err(BuildError::Step {
                    file: build.input.file_name.clone(),
                    line: instruction.span.line,
                    instruction: instruction.text.clone(),
                    source: Box::new(source),
                });
            }
        }
    }
    Ok(draft)
}

/// `[build 2/5] RUN make`.
fn step_name(plan: &StagePlan, number: usize, instruction: &Instruction) -> String {
    let stage = plan.name.clone().unwrap_or_else(|| format!("stage-{}", plan.index));
    let text = instruction.text.lines().next().unwrap_or_default();
    format!("[{stage} {}/{}] {text}", number + 1, plan.instructions.len())
}

/// Applies one instruction to the draft.
fn fold(
    stages: Stages<'_>,
    draft: &mut Draft,
    instruction: &Instruction,
    id: StepId,
) -> Result<(), StepError> {
    let build = &stages.build;
    if build.cancel.is_cancelled() {
        return Err(StepError::Cancelled);
    }
    if let Some(line) = configure(draft, &instruction.kind, build.escape, build.globals)? {
        draft.note(line);
        return Ok(());
    }
    match &instruction.kind {
        Kind::Run(run) => {
            let step = RunStep::resolve(build, &stages, draft, run)?;
            let key = step.key(build, draft)?;
            let layer =
                layer(build, &key, id, &instruction.text, |scratch| step.apply(build, draft, scratch, id))?;
            draft.push_layer(layer.diff_id, step.shown, layer.created);
        }
        Kind::Copy(copy) | Kind::Add(copy) => {
            let is_add = matches!(instruction.kind, Kind::Add(_));
            let step = CopyStep::resolve(build, &stages, draft, copy, is_add)?;
            let key = step.key(build, draft)?;
            let layer =
                layer(build, &key, id, &instruction.text, |scratch| step.apply(build, draft, scratch))?;
            draft.push_layer(layer.diff_id, step.shown, layer.created);
        }
        Kind::Workdir(word) => change_directory(build, draft, &value(draft, word, build.escape)?, id)?,
        _ => unreachable!("configure takes every other instruction"),
    }
    Ok(())
}

fn change_directory(build: &Build<'_>, draft: &mut Draft, path: &str, id: StepId) -> Result<(), StepError> {
    if path.is_empty() {
        return Err(StepError::Invalid("WORKDIR needs a path".to_owned()));
    }
    let path = draft.working_dir().join(path);
    draft.config.config.working_dir = path.to_string();
    let shown = format!("WORKDIR {path}");
    if path.is_root() {
        draft.note(shown);
        return Ok(());
    }
    let key = workdir::key(draft, &path);
    let layer = layer(build, &key, id, &shown, |scratch| workdir::apply(build, draft, &path, scratch))?;
    if layer.diff_id == DiffId::EMPTY {
        draft.note(shown);
    } else {
        draft.push_layer(layer.diff_id, shown, layer.created);
    }
    Ok(())
}

/// A layer, and when it was made (RFC 3339).
struct Made {
    diff_id: DiffId,
    created: String,
}

/// RFC 3339, of seconds since 1970.
pub(crate) fn rfc3339(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// The layer of a step: the one that was sealed under this key before, or a new one.
fn layer(
    build: &Build<'_>,
    key: &CacheKey,
    id: StepId,
    place: &str,
    apply: impl FnOnce(&Scratch) -> Result<(), StepError>,
) -> Result<Made, StepError> {
    let digest = key.digest();
    let epoch = build.options.source_date_epoch;
    if !build.options.no_cache {
        if let Some(row) = build.store.cache().find(digest)?
            && let Some(diff_id) = row.layer
        {
            build.progress.event(Event::Cached { step: id });
            return Ok(Made { diff_id, created: rfc3339(epoch.unwrap_or(row.created_seconds)) });
        }
    }
    let _permit = build.permits.take();
    if build.cancel.is_cancelled() {
        return Err(StepError::Cancelled);
    }
    let started = Instant::now();
    let scratch = build.store.layers().scratch()?;
    apply(&scratch)?;
    let options = SealOptions { clamp_mtime_seconds: build.options.source_date_epoch };
    let sealed = build.store.layers().seal(scratch, options)?;
    let created_seconds = epoch.unwrap_or_else(|| jiff::Timestamp::now().as_second());
    build.store.cache().record(&CacheRow {
        key: digest,
        layer: Some(sealed.diff_id),
        components: key.to_json(),
        place: place.to_owned(),
        seconds: started.elapsed().as_secs_f64(),
        created_seconds,
    })?;
    Ok(Made { diff_id: sealed.diff_id, created: rfc3339(created_seconds) })
}
