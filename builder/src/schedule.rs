//! The whole build: parse, plan, a thread for each stage, finish.
//!
//! Every stage that the target needs has a thread. A thread waits for another stage only where it
//! reads it (FROM, `--from`), holding no permit; a step that does work holds one of `jobs` permits.
//! The first failure cancels all others, and its error is the build's.
//!
//! May touch: the store and the network, through their front doors. Knows nothing of terminals.

use std::sync::Arc;

use store::{DiffId, ImageId, Store};

use crate::build::{Build, Cancel, Networks, Permits};
use crate::draft::Draft;
use crate::plan::{Plan, StagePlan};
use crate::progress::{Event, Progress};
use crate::stage::{Board, Stages, build_stage, rfc3339};
use crate::step::configure;
use crate::{BuildError, Input, Options, containerfile, lint};

/// What a build came to.
#[derive(Clone, Debug)]
pub struct Built {
    pub image: ImageId,
    pub layers: Vec<DiffId>,
    /// What each name of the build pointed at before, in their order.
    pub names_before: Vec<Option<ImageId>>,
}

/// Builds `input` and records the image under its names. Nothing is named when anything fails.
pub fn build(
    store: &Store,
    input: &Input,
    options: &Options,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Built, BuildError> {
    let tree = understand(input)?;
    warn(input, &tree, options, progress);
    let plan = Plan::new(store, &tree, options, &input.file_name)?;
    let networks = Networks::new(store.lease_name()?);
    let permits = Permits::new(options.jobs);
    let shared = Build {
        store,
        input,
        options,
        globals: &plan.globals,
        progress,
        cancel,
        networks: &networks,
        permits: &permits,
        escape: tree.escape,
    };
    let draft = build_stages(shared, &plan, tree.stages.len())?;
    finish(store, input, options, &draft)
}

/// The syntax tree, when nothing in it is wrong whatever the variables' values.
fn understand(input: &Input) -> Result<containerfile::Containerfile, BuildError> {
    let parsed = containerfile::parse(&input.containerfile).and_then(|tree| {
        let mistakes = containerfile::validate(&tree);
        if mistakes.is_empty() { Ok(tree) } else { Err(mistakes) }
    });
    parsed.map_err(|diagnostics| BuildError::Syntax {
        file: input.file_name.clone(),
        text: String::from_utf8_lossy(&input.containerfile).into_owned(),
        diagnostics,
    })
}

fn warn(input: &Input, tree: &containerfile::Containerfile, options: &Options, progress: &dyn Progress) {
    let text = String::from_utf8_lossy(&input.containerfile);
    for warning in tree.warnings.iter().cloned().chain(lint::check(tree)) {
        let line = warning.span.line;
        let rule = warning.rule.unwrap_or("Warning");
        let shown = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim();
        let text = format!("{rule}: {} ({}:{line}: {shown})", warning.message, input.file_name);
        progress.event(Event::Warning { text: &text });
    }
    for name in options.build_args.keys().filter(|name| !is_consumed(tree, name)) {
        let text = format!("build argument `{name}` was given and no ARG takes it");
        progress.event(Event::Warning { text: &text });
    }
}

/// Whether some ARG of the file takes a build argument.
fn is_consumed(tree: &containerfile::Containerfile, name: &str) -> bool {
    let takes = |instruction: &containerfile::Instruction| match &instruction.kind {
        containerfile::Kind::Arg(args) => args.iter().any(|arg| arg.name == name),
        containerfile::Kind::OnBuild(text) => text.contains(name),
        _ => false,
    };
    let special =
        name.starts_with("BUILDKIT_") || name == "SOURCE_DATE_EPOCH" || crate::scope::is_proxy(name);
    special
        || tree.global_args.iter().any(takes)
        || tree.stages.iter().any(|stage| stage.instructions.iter().any(takes))
}

fn build_stages(shared: Build<'_>, plan: &Plan, count: usize) -> Result<Arc<Draft>, BuildError> {
    let board = Board::new(count);
    let steps = plan.stages.iter().map(|stage| stage.instructions.len()).sum();
    shared.progress.event(Event::Planned { steps });
    let run = |stage: &StagePlan, first: usize| {
        let stages = Stages { build: shared, plans: &plan.stages, board: &board, index: stage.index };
        let result = build_stage(stages, stage, first);
        if result.is_err() {
            shared.cancel.cancel();
        }
        match result {
            Ok(draft) => {
                board.put(stage.index, Some(Arc::new(draft)));
                None
            }
            Err(error) => {
                board.put(stage.index, None);
                Some(error)
            }
        }
    };
    let mut errors: Vec<BuildError> = std::thread::scope(|scope| {
        let mut first = 0;
        let mut threads = Vec::new();
        for stage in &plan.stages {
            let run = &run;
            let id = first;
            threads.push(scope.spawn(move || run(stage, id)));
            first += stage.instructions.len();
        }
        threads.into_iter().filter_map(|thread| thread.join().expect("a stage does not panic")).collect()
    });
    if let Some(real) = errors.iter().position(|error| !matches!(error, BuildError::Cancelled)) {
        return Err(errors.swap_remove(real));
    }
    board.wait(plan.target).ok_or(BuildError::Cancelled)
}

/// Draft → config → image → names.
fn finish(store: &Store, input: &Input, options: &Options, draft: &Draft) -> Result<Built, BuildError> {
    let mut draft = draft.clone();
    configure::add_labels(&mut draft, &options.labels);
    let epoch = options.source_date_epoch.map(rfc3339);
    draft.config.created = epoch.clone().or(draft.created.take());
    // The base's own lines keep their times; ours that stand on no file have the epoch or none.
    for line in draft.config.history.iter_mut().filter(|line| line.created.is_none()) {
        line.created.clone_from(&epoch);
    }
    let config = serde_json::to_vec(&draft.config).expect("a config is always JSON");
    let image = store.images().add(&config, None)?;
    if let Some((context, memory)) =
        input.context.as_ref().and_then(|context| Some((context, context.remembered()?)))
    {
        store.cache().set_context_memory(&context.path, &memory)?;
    }
    let set = |name| store.images().set_name(name, image);
    let names_before = options.names.iter().map(set).collect::<Result<_, _>>()?;
    if options.names.is_empty() {
        store.make_durable()?;
    }
    Ok(Built { image, layers: draft.layers, names_before })
}
