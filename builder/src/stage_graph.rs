//! Stages and what they need → the stages that the target needs, in an order that works. Pure.
//!
//! ```text
//! FROM a AS one            one ───────────┐
//! FROM b AS two                           ├→ three (the target): build one, then three
//! FROM one AS three        two (not needed, never built)
//! COPY --from=0 …
//! ```
//! A stage may only use stages above it, so there are no cycles and the file's order is one that works;
//! what is left is to keep what the target reaches, and to say clearly what a wrong name meant.
//!
//! May touch: its arguments. Knows nothing of images, builds, files.

use crate::containerfile::suggest::closest;

/// What one stage uses, its names expanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageNeeds {
    /// `AS name`, in small letters.
    pub name: Option<String>,
    /// What stands behind FROM.
    pub base: String,
    /// `COPY --from=` and `RUN --mount=from=`, in order.
    pub sources: Vec<String>,
}

/// Where something comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The stage with this index in the file.
    Stage(usize),
    /// No stage: an image, a named context, or `scratch`.
    Outside(String),
}

/// A stage that has to be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStage {
    /// Its index in the file.
    pub index: usize,
    pub base: Source,
    /// As in [`StageNeeds::sources`], resolved.
    pub sources: Vec<Source>,
    /// The stages among base and sources, each once, ascending.
    pub needs: Vec<usize>,
}

/// The stages to build, each behind those it uses. The last one is the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageGraph {
    pub stages: Vec<PlannedStage>,
    /// The target's index in the file.
    pub target: usize,
}

/// Why the stages can't be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StageGraphError {
    #[error("there are no stages")]
    NoStages,
    #[error("target stage `{target}` could not be found{}", did_you_mean(.suggestion.as_deref()))]
    UnknownTarget { target: String, suggestion: Option<String> },
    #[error("stage {index} cannot use stage {wanted}: the file has {count}, counted from 0")]
    NoSuchIndex { index: usize, wanted: usize, count: usize },
    #[error("stage {} uses itself", shown(*.index, .name.as_deref()))]
    Itself { index: usize, name: Option<String> },
    #[error(
        "stage {} uses stage {}, which comes later in the file: a stage can only use stages above it",
        shown(*.index, .name.as_deref()), shown(*.later, .later_name.as_deref())
    )]
    Later { index: usize, name: Option<String>, later: usize, later_name: Option<String> },
    #[error("stages use each other in a circle: {}", circle.join(" → "))]
    Circle { circle: Vec<String> },
}

impl StageGraph {
    /// Finds the target (by name or index; the last stage if none is named) and what it needs.
    ///
    /// Only the stages that the target reaches are judged: a mistake in another one stops no build.
    pub fn new(stages: &[StageNeeds], target: Option<&str>) -> Result<Self, StageGraphError> {
        let target = find_target(stages, target)?;
        let mut planned: Vec<Option<PlannedStage>> = vec![None; stages.len()];
        let mut waiting = vec![target];
        while let Some(index) = waiting.pop() {
            if planned[index].is_none() {
                let stage = resolve(stages, index)?;
                waiting.extend(&stage.needs);
                planned[index] = Some(stage);
            }
        }
        // What a stage needs is above it, so the file's order is the order to build in.
        Ok(Self { stages: planned.into_iter().flatten().collect(), target })
    }
}

/// Resolves the names that one stage uses.
fn resolve(stages: &[StageNeeds], index: usize) -> Result<PlannedStage, StageGraphError> {
    let base = base(stages, index);
    let sources = stages[index]
        .sources
        .iter()
        .map(|name| resolve_source(stages, index, name))
        .collect::<Result<Vec<_>, _>>()?;
    let mut needs: Vec<usize> = [&base]
        .into_iter()
        .chain(&sources)
        .filter_map(|source| match source {
            Source::Stage(index) => Some(*index),
            Source::Outside(_) => None,
        })
        .collect();
    needs.sort_unstable();
    needs.dedup();
    Ok(PlannedStage { index, base, sources, needs })
}

/// FROM takes the last stage above that has exactly this name; anything else is an image.
fn base(stages: &[StageNeeds], index: usize) -> Source {
    let name = &stages[index].base;
    match stages[..index].iter().rposition(|stage| stage.name.as_deref() == Some(name)) {
        Some(above) => Source::Stage(above),
        None => Source::Outside(name.clone()),
    }
}

/// What `--from` means in the stage with this index: an index or a name in any case of a stage above;
/// anything else is an image.
pub fn resolve_source(stages: &[StageNeeds], index: usize, written: &str) -> Result<Source, StageGraphError> {
    let name = || stages[index].name.clone();
    let found = match written.parse::<usize>() {
        Ok(wanted) if wanted >= stages.len() => {
            return Err(StageGraphError::NoSuchIndex { index, wanted, count: stages.len() });
        }
        Ok(wanted) => Some(wanted),
        Err(_) => find_name(stages, index, &written.to_lowercase()),
    };
    match found {
        None => Ok(Source::Outside(written.to_owned())),
        Some(above) if above < index => Ok(Source::Stage(above)),
        Some(same) if same == index => Err(StageGraphError::Itself { index, name: name() }),
        Some(later) => Err(not_above(stages, index, later)),
    }
}

/// The last stage above with a name; else the stage itself or the first below, for the message.
fn find_name(stages: &[StageNeeds], index: usize, name: &str) -> Option<usize> {
    let has_name = |stage: &StageNeeds| stage.name.as_deref() == Some(name);
    stages[..index]
        .iter()
        .rposition(has_name)
        .or_else(|| stages[index..].iter().position(has_name).map(|below| index + below))
}

/// A later stage was named: a circle if that one needs this one, else only the wrong order.
fn not_above(stages: &[StageNeeds], index: usize, later: usize) -> StageGraphError {
    match path(stages, later, index) {
        Some(mut circle) => {
            circle.insert(0, index);
            let circle = circle.iter().map(|&at| shown(at, stages[at].name.as_deref())).collect();
            StageGraphError::Circle { circle }
        }
        None => StageGraphError::Later {
            index,
            name: stages[index].name.clone(),
            later,
            later_name: stages[later].name.clone(),
        },
    }
}

/// How one stage reaches another one above it, both ends included.
fn path(stages: &[StageNeeds], from: usize, to: usize) -> Option<Vec<usize>> {
    let mut came_from: Vec<Option<usize>> = vec![None; stages.len()];
    let mut waiting = vec![from];
    while let Some(index) = waiting.pop() {
        if index == to {
            let back = std::iter::successors(Some(to), |&at| came_from[at].filter(|_| at != from));
            let mut path: Vec<usize> = back.collect();
            path.reverse();
            return Some(path);
        }
        let sources = stages[index]
            .sources
            .iter()
            .filter_map(|name| name.parse().ok().or_else(|| find_name(stages, index, &name.to_lowercase())));
        let base = match base(stages, index) {
            Source::Stage(above) => Some(above),
            Source::Outside(_) => None,
        };
        for next in sources.chain(base) {
            if next != from && came_from.get(next) == Some(&None) {
                came_from[next] = Some(index);
                waiting.push(next);
            }
        }
    }
    None
}

fn find_target(stages: &[StageNeeds], target: Option<&str>) -> Result<usize, StageGraphError> {
    let last = stages.len().checked_sub(1).ok_or(StageGraphError::NoStages)?;
    let Some(target) = target.filter(|target| !target.is_empty()) else { return Ok(last) };
    let name = target.to_lowercase();
    let by_name = stages.iter().rposition(|stage| stage.name.as_deref() == Some(&name));
    let by_index = || target.parse().ok().filter(|&index: &usize| index <= last);
    by_name.or_else(by_index).ok_or_else(|| StageGraphError::UnknownTarget {
        target: target.to_owned(),
        suggestion: closest(target, stages.iter().filter_map(|stage| stage.name.as_deref()))
            .map(str::to_owned),
    })
}

fn shown(index: usize, name: Option<&str>) -> String {
    name.map_or_else(|| index.to_string(), |name| format!("`{name}`"))
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name:base:source,source`
    fn stages(text: &str) -> Vec<StageNeeds> {
        text.split_whitespace()
            .map(|stage| {
                let mut parts = stage.split(':');
                let name = parts.next().filter(|name| !name.is_empty()).map(str::to_owned);
                let base = parts.next().unwrap_or_default().to_owned();
                let sources = parts.next().unwrap_or_default().split(',').filter(|name| !name.is_empty());
                StageNeeds { name, base, sources: sources.map(str::to_owned).collect() }
            })
            .collect()
    }

    fn order(text: &str, target: Option<&str>) -> Result<Vec<usize>, String> {
        match StageGraph::new(&stages(text), target) {
            Ok(graph) => Ok(graph.stages.iter().map(|stage| stage.index).collect()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn only_what_the_target_reaches_is_built_in_an_order_that_works() {
        let table: &[(&str, Option<&str>, &[usize])] = &[
            (":scratch", None, &[0]),
            ("a:scratch b:scratch", None, &[1]),
            ("a:scratch b:a", None, &[0, 1]),
            ("a:scratch b:scratch :a:b", None, &[0, 1, 2]),
            ("a:scratch b:scratch :scratch:0", None, &[0, 2]),
            ("a:scratch b:scratch :scratch:A", None, &[0, 2]),
            // FROM looks for the exact name.
            ("a:scratch :A", None, &[1]),
            // The last of two alike wins, and a stage may take the name of what it builds on.
            ("a:scratch a:a :a", None, &[0, 1, 2]),
            ("a:scratch a:scratch :a", None, &[1, 2]),
            ("a:scratch b:scratch c:a", Some("b"), &[1]),
            ("a:scratch b:scratch c:a", Some("B"), &[1]),
            ("a:scratch b:scratch c:a", Some("0"), &[0]),
            // A mistake in a stage that nobody needs stops nothing.
            ("a:scratch:9 b:scratch", None, &[1]),
            (":scratch:busybox,busybox", None, &[0]),
        ];
        for (text, target, expected) in table {
            assert_eq!(order(text, *target), Ok(expected.to_vec()), "{text}");
        }
    }

    #[test]
    fn a_wrong_name_is_explained() {
        let table: &[(&str, Option<&str>, &str)] = &[
            ("", None, "there are no stages"),
            ("build:scratch", Some("biuld"), "did you mean `build`?"),
            ("build:scratch", Some("1"), "target stage `1` could not be found"),
            (":scratch:4", None, "stage 0 cannot use stage 4: the file has 1"),
            ("me:scratch:me", None, "stage `me` uses itself"),
            (":scratch:0", None, "stage 0 uses itself"),
            ("a:scratch:b b:scratch", Some("a"), "stage `a` uses stage `b`, which comes later"),
            (":scratch:1 :scratch", Some("0"), "stage 0 uses stage 1, which comes later"),
            ("a:scratch:c b:a c:b", None, "in a circle: `a` → `c` → `b` → `a`"),
            ("a:scratch:b b:scratch:a", None, "in a circle: `a` → `b` → `a`"),
        ];
        for (text, target, expected) in table {
            let error = order(text, *target).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn what_a_stage_uses_is_resolved_in_the_order_written() {
        let graph = StageGraph::new(&stages("a:scratch b:scratch :debian:b,busybox,a,b"), None).unwrap();
        let last = graph.stages.last().unwrap();
        assert_eq!(last.base, Source::Outside("debian".to_owned()));
        let outside = Source::Outside("busybox".to_owned());
        assert_eq!(last.sources, [Source::Stage(1), outside, Source::Stage(0), Source::Stage(1)]);
        assert_eq!(last.needs, [0, 1]);
    }
}
