//! What can be said of a tree before any variable has a value: words that can't be expanded, and stages
//! that can't be used.
//!
//! `parse` leaves this out because a build says it for the stages it needs, with the real values.
//!
//! May touch: its arguments. Knows nothing of disk.

use super::expand::{self, ExpandError};
use super::fault;
use super::syntax::{Containerfile, Copy, CopySource, Diagnostic, Instruction, Kind, Stage, Word};
use crate::stage_graph::{StageNeeds, resolve_source};

/// Finds the mistakes that no value of any variable could put right.
pub fn validate(file: &Containerfile) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    let names: Vec<StageNeeds> = file
        .stages
        .iter()
        .map(|stage| StageNeeds {
            name: stage.name.clone(),
            base: stage.image.text.clone(),
            ..StageNeeds::default()
        })
        .collect();
    let words = |instruction: &Instruction, errors: &mut Vec<Diagnostic>| {
        check_words(words_of(&instruction.kind), file.escape, errors);
        check_heredocs(instruction, errors);
    };
    file.global_args.iter().for_each(|instruction| words(instruction, &mut errors));
    for (index, stage) in file.stages.iter().enumerate() {
        check_words(std::iter::once(&stage.image).chain(&stage.platform).collect(), file.escape, &mut errors);
        for instruction in &stage.instructions {
            words(instruction, &mut errors);
            check_source(instruction, &names, index, &mut errors);
        }
    }
    errors.sort_by_key(|error| error.span.start);
    errors
}

/// The names of stages and images that a stage's instructions take things from, as written.
pub fn sources_of(stage: &Stage) -> Vec<Word> {
    stage.instructions.iter().flat_map(|instruction| sources(&instruction.kind)).collect()
}

fn sources(kind: &Kind) -> Vec<Word> {
    match kind {
        Kind::Copy(copy) => copy.from.iter().cloned().collect(),
        Kind::Run(run) => run.mounts.iter().filter_map(source_of_mount).collect(),
        _ => Vec::new(),
    }
}

/// `from=` of a mount. Its fields are comma separated and may be quoted.
fn source_of_mount(mount: &Word) -> Option<Word> {
    let fields = mount.text.split(',').map(|field| field.trim_matches('"'));
    let pairs = fields.filter_map(|field| field.split_once('='));
    let from =
        pairs.filter(|(key, _)| key.eq_ignore_ascii_case("from")).map(|(_, value)| value).next_back()?;
    Some(Word { text: from.to_owned(), span: mount.span })
}

fn check_source(instruction: &Instruction, names: &[StageNeeds], index: usize, errors: &mut Vec<Diagnostic>) {
    for from in sources(&instruction.kind) {
        if from.text.contains('$') {
            continue;
        }
        if let Err(problem) = resolve_source(names, index, &from.text) {
            errors.push(fault(
                problem.to_string(),
                "expected a stage above this one, or an image",
                from.span,
            ));
        }
    }
}

fn check_words(words: Vec<&Word>, escape: char, errors: &mut Vec<Diagnostic>) {
    for word in words {
        if let Err(ExpandError::Syntax(problem)) = expand::word(&word.text, escape, &|_| None) {
            errors.push(fault(problem, "in this word", word.span));
        }
    }
}

fn check_heredocs(instruction: &Instruction, errors: &mut Vec<Diagnostic>) {
    let (Kind::Copy(copy) | Kind::Add(copy)) = &instruction.kind else { return };
    for source in &copy.sources {
        if let CopySource::Heredoc(heredoc) = source
            && heredoc.expand
            && let Err(ExpandError::Syntax(problem)) = expand::heredoc(&heredoc.content, &|_| None)
        {
            let label = format!("in the body of {}; quote its name to keep the body as it is", heredoc.name);
            errors.push(fault(problem, label, instruction.span));
        }
    }
}

/// The words of an instruction that get values.
fn words_of(kind: &Kind) -> Vec<&Word> {
    match kind {
        Kind::Env(pairs) | Kind::Label(pairs) => {
            pairs.iter().flat_map(|(name, value)| [name, value]).collect()
        }
        Kind::Arg(args) => args.iter().filter_map(|arg| arg.default.as_ref()).collect(),
        Kind::Expose(words) | Kind::Volume(words) => words.iter().collect(),
        Kind::User(word) | Kind::Workdir(word) | Kind::StopSignal(word) => vec![word],
        Kind::Run(run) => run.mounts.iter().collect(),
        Kind::Copy(copy) | Kind::Add(copy) => words_of_copy(copy),
        _ => Vec::new(),
    }
}

fn words_of_copy(copy: &Copy) -> Vec<&Word> {
    let paths = copy.sources.iter().filter_map(|source| match source {
        CopySource::Path(word) => Some(word),
        CopySource::Heredoc(_) => None,
    });
    let flags = [&copy.from, &copy.chown, &copy.chmod, &copy.checksum].into_iter().flatten();
    paths.chain([&copy.destination]).chain(flags).collect()
}
