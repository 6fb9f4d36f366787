//! Tree → what will be built: the stages that the target needs, each with its base and with the
//! triggers of that base before its own instructions.
//!
//! FROM lines see only global ARGs. A `--from` is settled before anything runs, from the global and
//! the stage's own ARG and ENV, so that the graph is known; ONBUILD triggers of a base may use
//! further stages and are part of it.
//!
//! May touch: image configs in the store, for their triggers. Knows nothing of disk, sandboxes, progress.

use store::{Image, Store};

use crate::containerfile::{self, Containerfile, Instruction, Kind, Stage, Word, expand};
use crate::options::Platform;
use crate::scope::{Globals, Scope};
use crate::stage_graph::{StageGraph, StageNeeds};
use crate::step::StepError;
use crate::step::mounts::{MountKind, RunMount};
use crate::{BuildError, Options};

/// A stage that will be built.
#[derive(Clone, Debug)]
pub struct StagePlan {
    /// In the file, from 0.
    pub index: usize,
    pub name: Option<String>,
    /// Of the FROM.
    pub line: usize,
    pub base: Base,
    pub platform: Platform,
    /// Triggers of the base first.
    pub instructions: Vec<Instruction>,
}

/// What a stage starts from.
#[derive(Clone, Debug)]
pub enum Base {
    Scratch,
    Image(Box<Image>),
    Stage(usize),
    /// Not in the store; an error when the stage is needed.
    Missing(String),
}

/// All that will be built.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order of the file; the target is among them.
    pub stages: Vec<StagePlan>,
    /// The target's index in the file.
    pub target: usize,
    pub globals: Globals,
}

/// An error in the FROM line of `stage`.
fn at_from(file: &str, stage: &Stage, source: StepError) -> BuildError {
    let instruction = format!("FROM {}", stage.image.text);
    BuildError::Step { file: file.to_owned(), line: stage.span.line, instruction, source: Box::new(source) }
}

impl Plan {
    /// Plans the build of `tree`.
    pub fn new(
        store: &Store,
        tree: &Containerfile,
        options: &Options,
        file: &str,
    ) -> Result<Self, BuildError> {
        let globals = globals(tree, options, file)?;
        let mut stages: Vec<StagePlan> = Vec::new();
        let mut needs = Vec::new();
        for (index, stage) in tree.stages.iter().enumerate() {
            let (planned, name) = plan_stage(store, tree, options, &globals, &stages, index)
                .map_err(|source| at_from(file, stage, source))?;
            let sources = sources(&planned, tree.escape, &globals);
            needs.push(StageNeeds { name: stage.name.clone(), base: name, sources });
            stages.push(planned);
        }
        let graph = StageGraph::new(&needs, options.target.as_deref())
            .map_err(|source| BuildError::Stages { file: file.to_owned(), source })?;
        for needed in &graph.stages {
            let Base::Missing(name) = &stages[needed.index].base else { continue };
            return Err(at_from(file, &tree.stages[needed.index], StepError::UnknownImage(name.clone())));
        }
        let is_needed = |stage: &StagePlan| graph.stages.iter().any(|needed| needed.index == stage.index);
        stages.retain(is_needed);
        Ok(Self { stages, target: graph.target, globals })
    }
}

/// The variables that FROM lines see.
fn globals(tree: &Containerfile, options: &Options, file: &str) -> Result<Globals, BuildError> {
    let mut globals =
        Globals { build_args: options.build_args.clone(), automatic: automatic(options), args: Vec::new() };
    for instruction in &tree.global_args {
        let Kind::Arg(args) = &instruction.kind else { continue };
        for arg in args {
            let default = arg.default.as_ref().map(|word| from_word(&globals, word, tree.escape)).transpose();
            let default = default.map_err(|source| BuildError::Step {
                file: file.to_owned(),
                line: instruction.span.line,
                instruction: instruction.text.clone(),
                source: Box::new(source),
            })?;
            globals.declare(&arg.name, default);
        }
    }
    Ok(globals)
}

/// `TARGETPLATFORM` and its kin (Dockerfile reference, "Automatic platform ARGs").
fn automatic(options: &Options) -> std::collections::BTreeMap<String, String> {
    let host = Platform::host();
    let mut values = std::collections::BTreeMap::new();
    for (prefix, platform) in [("TARGET", &options.platform), ("BUILD", &host)] {
        values.insert(format!("{prefix}PLATFORM"), platform.to_string());
        values.insert(format!("{prefix}OS"), platform.os.clone());
        values.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        values.insert(format!("{prefix}VARIANT"), platform.variant.clone().unwrap_or_default());
        values.insert(format!("{prefix}OSVERSION"), String::new());
    }
    values.insert("TARGETSTAGE".to_owned(), options.target.clone().unwrap_or_else(|| "default".to_owned()));
    values
}

fn from_word(globals: &Globals, word: &Word, escape: char) -> Result<String, StepError> {
    expand::word(&word.text, escape, &|name| globals.value(name))
        .map_err(|source| StepError::Expand { word: word.text.clone(), source })
}

/// Plans one stage, and says what its FROM came to.
fn plan_stage(
    store: &Store,
    tree: &Containerfile,
    options: &Options,
    globals: &Globals,
    above: &[StagePlan],
    index: usize,
) -> Result<(StagePlan, String), StepError> {
    let stage = &tree.stages[index];
    let name = from_word(globals, &stage.image, tree.escape)?;
    if name.is_empty() {
        return Err(StepError::Invalid(format!("base name ({}) should not be blank", stage.image.text)));
    }
    let platform = match &stage.platform {
        None => options.platform.clone(),
        Some(word) => {
            let text = from_word(globals, word, tree.escape)?;
            Platform::parse(&text).ok_or_else(|| {
                StepError::Invalid(format!("`{text}` is no platform: expected OS/ARCHITECTURE"))
            })?
        }
    };
    let base = find_base(store, above, &name)?;
    let triggers = match &base {
        Base::Image(image) => parse_triggers(&image.config.config.on_build)?,
        Base::Stage(index) => parse_triggers(&own_triggers(&above[*index]))?,
        Base::Scratch | Base::Missing(_) => Vec::new(),
    };
    let instructions = triggers.into_iter().chain(stage.instructions.iter().cloned()).collect();
    let line = stage.span.line;
    Ok((StagePlan { index, name: stage.name.clone(), line, base, platform, instructions }, name))
}

fn find_base(store: &Store, above: &[StagePlan], name: &str) -> Result<Base, StepError> {
    if let Some(stage) = above.iter().rev().find(|stage| stage.name.as_deref() == Some(name)) {
        return Ok(Base::Stage(stage.index));
    }
    if name == "scratch" {
        return Ok(Base::Scratch);
    }
    Ok(match store.images().find(name)? {
        Some(image) => Base::Image(Box::new(image)),
        None => Base::Missing(name.to_owned()),
    })
}

/// The ONBUILD lines of a stage of the same file.
fn own_triggers(stage: &StagePlan) -> Vec<String> {
    let text = |instruction: &Instruction| match &instruction.kind {
        Kind::OnBuild(text) => Some(text.clone()),
        _ => None,
    };
    stage.instructions.iter().filter_map(text).collect()
}

fn parse_triggers(triggers: &[String]) -> Result<Vec<Instruction>, StepError> {
    let parse = |text: &String| {
        let parsed = containerfile::parse_instruction(text);
        parsed.map_err(|errors| {
            let why = errors.first().map(|error| error.message.clone()).unwrap_or_default();
            StepError::Invalid(format!("the base's trigger `ONBUILD {text}` can't be parsed: {why}"))
        })
    };
    let instructions: Vec<Instruction> = triggers.iter().map(parse).collect::<Result<_, _>>()?;
    match instructions
        .iter()
        .find(|instruction| matches!(instruction.kind, Kind::OnBuild(_) | Kind::Maintainer(_)))
    {
        Some(bad) => Err(StepError::Invalid(format!("`{}` isn't allowed as an ONBUILD trigger", bad.text))),
        None => Ok(instructions),
    }
}

/// What a stage's COPY, ADD and RUN take files from, as far as it is known before anything runs.
fn sources(stage: &StagePlan, escape: char, globals: &Globals) -> Vec<String> {
    let mut scope = Scope::default();
    let mut found = Vec::new();
    for instruction in &stage.instructions {
        let value = |scope: &Scope, word: &Word| scope.word(&word.text, escape).ok();
        match &instruction.kind {
            Kind::Arg(args) => {
                for arg in args {
                    let default = arg.default.as_ref().and_then(|word| value(&scope, word));
                    scope.declare(globals, &arg.name, default);
                }
            }
            Kind::Env(pairs) => {
                for (name, text) in pairs {
                    if let (Some(name), Some(text)) = (value(&scope, name), value(&scope, text)) {
                        scope.set(&name, &text);
                    }
                }
            }
            Kind::Copy(copy) | Kind::Add(copy) => {
                found.extend(copy.from.iter().filter_map(|word| value(&scope, word)));
            }
            Kind::Run(run) => {
                found.extend(run.mounts.iter().filter_map(|word| mount_source(&value(&scope, word)?)));
            }
            _ => {}
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

fn mount_source(text: &str) -> Option<String> {
    match RunMount::parse(text, &store::ImagePath::root()).ok()?.kind {
        MountKind::Bind { from, .. } | MountKind::Cache { from, .. } => from,
        MountKind::Tmpfs { .. } | MountKind::Secret { .. } => None,
    }
}

/// The stage above `index` that `text` names, by number or name.
pub fn find_stage(stages: &[StagePlan], index: usize, text: &str) -> Option<usize> {
    let name = text.to_lowercase();
    let above = stages.iter().rev().filter(|stage| stage.index < index);
    match text.parse::<usize>() {
        Ok(number) => above.map(|stage| stage.index).find(|found| *found == number),
        Err(_) => above.filter(|stage| stage.name.as_deref() == Some(&name)).map(|stage| stage.index).next(),
    }
}
