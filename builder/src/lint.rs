//! Warnings on the tree: `BuildKit`'s rules, by its names. Pure.
//!
//! What only the text shows (casing, empty continuations, old forms) the parser has already noted; this
//! adds what the tree shows, and lets `# check=skip=…` have its say.
//!
//! May touch: its arguments. Knows nothing of disk, base images, values given on the command line.

use std::cell::RefCell;

use crate::containerfile::suggest::closest;
use crate::containerfile::{
    Command, Containerfile, Diagnostic, Instruction, Kind, Span, Stage, Word, expand,
};

/// Variables that every FROM sees without an ARG.
const AUTOMATIC: [&str; 12] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
    "SOURCE_DATE_EPOCH",
];

/// Parts of a variable's name that say it holds a secret.
const SECRET_WORDS: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];

/// `# check=skip=A,B;error=true`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckDirective {
    pub skip: Vec<String>,
    /// Warnings fail the build.
    pub error: bool,
}

impl CheckDirective {
    pub fn of(file: &Containerfile) -> Self {
        let mut directive = Self::default();
        for part in file.check.as_deref().unwrap_or_default().split(';') {
            match part.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                Some(("skip", rules)) => {
                    directive.skip = rules.split(',').map(|rule| rule.trim().to_owned()).collect();
                }
                Some(("error", value)) => directive.error = value.eq_ignore_ascii_case("true"),
                _ => {}
            }
        }
        directive
    }

    fn skips(&self, rule: &str) -> bool {
        self.skip.iter().any(|skipped| skipped == "all" || skipped == rule)
    }
}

/// All warnings of a file, in its order.
pub fn check(file: &Containerfile) -> Vec<Diagnostic> {
    let mut found = Findings(file.warnings.clone());
    found.global_arguments(file);
    found.stage_names(file);
    for stage in &file.stages {
        found.base(stage, file);
        found.repeated(stage);
        found.stage(stage);
    }
    let directive = CheckDirective::of(file);
    found.0.retain(|warning| !warning.rule.is_some_and(|rule| directive.skips(rule)));
    found.0.sort_by_key(|warning| warning.span.start);
    found.0
}

struct Findings(Vec<Diagnostic>);

type IsKind = fn(&Kind) -> bool;

impl Findings {
    fn add(&mut self, rule: &'static str, span: Span, message: impl Into<String>, label: impl Into<String>) {
        self.0.push(Diagnostic { rule: Some(rule), message: message.into(), label: label.into(), span });
    }

    fn global_arguments(&mut self, file: &Containerfile) {
        for instruction in &file.global_args {
            self.secrets(instruction);
        }
    }

    fn stage_names(&mut self, file: &Containerfile) {
        for (index, stage) in file.stages.iter().enumerate() {
            let Some(name) = &stage.name else { continue };
            if matches!(name.as_str(), "scratch" | "context") {
                let message = format!("stage name should not use the same name as reserved stage '{name}'");
                self.add("ReservedStageName", stage.span, message, "choose another name");
            }
            if file.stages[..index].iter().any(|above| above.name.as_ref() == Some(name)) {
                let message = format!("duplicate stage name '{name}', stage names should be unique");
                self.add("DuplicateStageName", stage.span, message, "the later one wins");
            }
        }
    }

    fn base(&mut self, stage: &Stage, file: &Containerfile) {
        let declared: Vec<(&str, Option<&Word>)> = file
            .global_args
            .iter()
            .filter_map(|instruction| match &instruction.kind {
                Kind::Arg(args) => Some(args),
                _ => None,
            })
            .flatten()
            .map(|arg| (arg.name.as_str(), arg.default.as_ref()))
            .collect();
        for word in std::iter::once(&stage.image).chain(&stage.platform) {
            self.undefined(word, &declared, file.escape);
        }
        self.default_base(stage, &declared, file.escape);
        if let Some(platform) = &stage.platform {
            if matches!(platform.text.as_str(), "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
                let message =
                    format!("setting platform to predefined {} in FROM is redundant", platform.text);
                self.add("RedundantTargetPlatform", platform.span, message, "this is the default");
            } else if !platform.text.contains('$') {
                let message =
                    format!("FROM --platform flag should not use constant value {:?}", platform.text);
                self.add("FromPlatformFlagConstDisallowed", platform.span, message, "leave it to the build");
            }
        }
    }

    fn undefined(&mut self, word: &Word, declared: &[(&str, Option<&Word>)], escape: char) {
        for name in names_in(word, escape) {
            let known = || declared.iter().map(|(name, _)| *name).chain(AUTOMATIC);
            if !known().any(|known| known == name) {
                let label =
                    closest(&name, known()).map(|name| format!("did you mean {name}?")).unwrap_or_default();
                let message = format!("FROM argument '{name}' is not declared");
                self.add("UndefinedArgInFrom", word.span, message, label);
            }
        }
    }

    /// An image that is named by arguments has a name without any being given, too.
    fn default_base(&mut self, stage: &Stage, declared: &[(&str, Option<&Word>)], escape: char) {
        if !stage.image.text.contains('$') {
            return;
        }
        let default = |name: &str| {
            let (_, default) = declared.iter().rev().find(|(declared, _)| *declared == name)?;
            expand::word(&default.as_ref()?.text, escape, &|_| None).ok()
        };
        let Ok(image) = expand::word(&stage.image.text, escape, &default) else { return };
        if image.is_empty() || image.ends_with([':', '/', '@']) || image.starts_with([':', '/', '@']) {
            let message = format!(
                "default value for ARG {} results in empty or invalid base image name",
                stage.image.text
            );
            self.add("InvalidDefaultArgInFrom", stage.image.span, message, format!("this is `{image}`"));
        }
    }

    /// Of CMD, ENTRYPOINT and HEALTHCHECK only the last one counts.
    fn repeated(&mut self, stage: &Stage) {
        let kinds: [(&str, IsKind); 3] = [
            ("CMD", |kind| matches!(kind, Kind::Cmd(_))),
            ("ENTRYPOINT", |kind| matches!(kind, Kind::Entrypoint(_))),
            ("HEALTHCHECK", |kind| matches!(kind, Kind::Healthcheck(_))),
        ];
        for (name, is_kind) in kinds {
            let all: Vec<Span> = stage
                .instructions
                .iter()
                .filter(|i| is_kind(&i.kind))
                .map(|instruction| instruction.span)
                .collect();
            for &span in all.iter().rev().skip(1) {
                let message = format!("multiple {name} instructions should not be used in the same stage");
                self.add("MultipleInstructionsDisallowed", span, message, "only the last one counts");
            }
        }
    }

    fn stage(&mut self, stage: &Stage) {
        let mut has_shell = false;
        let mut has_workdir = false;
        for instruction in &stage.instructions {
            let span = instruction.span;
            match &instruction.kind {
                Kind::Shell(_) => has_shell = true,
                Kind::Cmd(Command::Shell(_)) if !has_shell => self.shell_form("CMD", span),
                Kind::Entrypoint(Command::Shell(_)) if !has_shell => self.shell_form("ENTRYPOINT", span),
                Kind::Maintainer(name) => {
                    let message = "maintainer instruction is deprecated in favor of using label";
                    let label = format!("write LABEL org.opencontainers.image.authors={name:?}");
                    self.add("MaintainerDeprecated", span, message, label);
                }
                Kind::Workdir(path) => {
                    if !has_workdir && !path.text.trim_start_matches(['"', '\'']).starts_with(['/', '$']) {
                        let message = format!("relative workdir {} can have unexpected results", path.text);
                        self.add("WorkdirRelativePath", path.span, message, "it depends on the base image");
                    }
                    has_workdir = true;
                }
                Kind::Expose(ports) => ports.iter().for_each(|port| self.port(port)),
                _ => {}
            }
            self.secrets(instruction);
        }
    }

    fn shell_form(&mut self, keyword: &str, span: Span) {
        let message = format!("JSON arguments recommended for {keyword} to prevent unintended behavior");
        self.add("JSONArgsRecommended", span, message, "a shell stands between signals and this command");
    }

    fn port(&mut self, port: &Word) {
        if port.text.contains('$') {
            return;
        }
        let (number, protocol) = port.text.split_once('/').unwrap_or((&port.text, ""));
        if protocol.contains(|character: char| character.is_ascii_uppercase()) {
            let message = format!("defined protocol '{}' in EXPOSE should be lowercase", port.text);
            self.add("ExposeProtoCasing", port.span, message, format!("write {}", port.text.to_lowercase()));
        }
        if number.contains(':') {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{number}'"
            );
            self.add("ExposeInvalidFormat", port.span, message, "expected port[/protocol]");
        }
    }

    fn secrets(&mut self, instruction: &Instruction) {
        let names: Vec<(&str, &str, Span)> = match &instruction.kind {
            Kind::Arg(args) => args.iter().map(|arg| ("ARG", arg.name.as_str(), arg.span)).collect(),
            Kind::Env(pairs) => {
                pairs.iter().map(|(name, _)| ("ENV", name.text.as_str(), name.span)).collect()
            }
            _ => return,
        };
        for (keyword, name, span) in names.into_iter().filter(|(_, name, _)| names_a_secret(name)) {
            let message =
                format!("do not use ARG or ENV instructions for sensitive data ({keyword} {name:?})");
            self.add(
                "SecretsUsedInArgOrEnv",
                span,
                message,
                "it stays in the image; use RUN --mount=type=secret",
            );
        }
    }
}

fn names_a_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    let has = |word: &str| name.split('_').any(|part| part == word);
    SECRET_WORDS.into_iter().any(has) && !has("public")
}

/// The variables that a word asks for.
fn names_in(word: &Word, escape: char) -> Vec<String> {
    let names = RefCell::new(Vec::new());
    let asked = expand::word(&word.text, escape, &|name| {
        names.borrow_mut().push(name.to_owned());
        None
    });
    // A word that can't be expanded is reported as an error elsewhere.
    drop(asked);
    names.into_inner().into_iter().filter(|name: &String| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerfile;

    fn rules(text: &str) -> Vec<&'static str> {
        let file = containerfile::parse(text.as_bytes()).unwrap();
        check(&file).into_iter().filter_map(|warning| warning.rule).collect()
    }

    #[test]
    fn each_rule_finds_what_it_is_for_and_no_more() {
        let table: &[(&str, &[&str])] = &[
            ("FROM a AS b\nCMD [\"x\"]\nWORKDIR /x\nWORKDIR y\nEXPOSE 80 53/udp $P", &[]),
            ("FROM a AS B", &["StageNameCasing"]),
            ("FROM a as b", &["FromAsCasing"]),
            ("from a AS b", &["FromAsCasing"]),
            ("FROM a\nRUN x \\\n\n y", &["NoEmptyContinuation"]),
            ("FROM a\nrun x\nRUN y", &["ConsistentInstructionCasing"]),
            ("from a\nrun x\nRUN y", &["ConsistentInstructionCasing"]),
            ("FROM a\nRun x", &["ConsistentInstructionCasing"]),
            ("FROM a AS b\nFROM a AS b", &["DuplicateStageName"]),
            ("FROM a AS scratch", &["ReservedStageName"]),
            ("FROM a\nCMD x", &["JSONArgsRecommended"]),
            ("FROM a\nENTRYPOINT x", &["JSONArgsRecommended"]),
            ("FROM a\nSHELL [\"bash\"]\nCMD x", &[]),
            ("FROM a\nMAINTAINER me", &["MaintainerDeprecated"]),
            ("FROM a:$V", &["UndefinedArgInFrom", "InvalidDefaultArgInFrom"]),
            ("ARG V=1\nFROM a:$V", &[]),
            ("ARG V\nFROM a:$V", &["InvalidDefaultArgInFrom"]),
            ("FROM --platform=$BUILDPLATFORM a", &[]),
            ("FROM --platform=$TARGETPLATFORM a", &["RedundantTargetPlatform"]),
            ("FROM --platform=linux/arm64 a", &["FromPlatformFlagConstDisallowed"]),
            ("FROM a\nWORKDIR x", &["WorkdirRelativePath"]),
            ("FROM a\nCMD [\"x\"]\nCMD [\"y\"]", &["MultipleInstructionsDisallowed"]),
            ("FROM a\nENV a b", &["LegacyKeyValueFormat"]),
            ("FROM a\nENV API_TOKEN=x", &["SecretsUsedInArgOrEnv"]),
            ("FROM a\nARG password", &["SecretsUsedInArgOrEnv"]),
            ("FROM a\nENV PUBLIC_KEY=x TOKENS=y", &[]),
            ("FROM a\nEXPOSE 80/TCP", &["ExposeProtoCasing"]),
            ("FROM a\nEXPOSE 127.0.0.1:80:80", &["ExposeInvalidFormat"]),
            ("FROM a\nRUN ['x']", &["InvalidJSONArray"]),
            ("FROM a\nRUN [\"x\",]", &["InvalidJSONArray"]),
            ("FROM a\nRUN [ \"$x\" = y ] && z", &[]),
            ("# check=skip=JSONArgsRecommended\nFROM a\nCMD x", &[]),
            ("# check=skip=all\nFROM a\nCMD x\nENV a b", &[]),
        ];
        for (text, expected) in table {
            assert_eq!(rules(text), *expected, "{text}");
        }
    }
}
