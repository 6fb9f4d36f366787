//! One logical line → one instruction.
//!
//! Reading goes in two steps, because a heredoc's body must be taken off the file even if its line
//! turns out to be wrong: first [`Head`] (keyword, flags, arguments), then the keyword's own rules.
//!
//! May touch: the lines given. Knows nothing of stages.

mod copy;
mod from;
mod health;

use super::expand;
use super::flags::{self, Flag, Flags};
use super::heredoc::{self, Announced};
use super::json;
use super::lines::{Line, Lines};
use super::suggest::closest;
use super::syntax::{Arg, Command, Heredoc, Instruction, Kind, Run, Span, Stage, Word};
use super::words::Stretch;
use super::{Notes, fault, warning};

/// Every instruction there is.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// What a line turned out to be.
#[derive(Debug)]
pub(super) enum Parsed {
    From(Stage),
    Instruction(Instruction),
}

/// An instruction, taken apart but not yet judged.
struct Head<'l> {
    /// In capitals; `None` is no instruction.
    keyword: Option<&'static str>,
    written: Stretch<'l>,
    /// Everything behind the keyword.
    arguments: Stretch<'l>,
    flags: Vec<Flag>,
    /// Everything behind the flags.
    rest: Stretch<'l>,
}

impl<'l> Head<'l> {
    fn read(text: &Stretch<'l>) -> Self {
        let (written, arguments) = text.trimmed().split_first();
        let keyword = KEYWORDS.into_iter().find(|keyword| keyword.eq_ignore_ascii_case(written.text()));
        let (flags, rest) = flags::split(&arguments);
        Self { keyword, written, arguments, flags, rest }
    }
}

/// A heredoc and its body as the file has it.
struct Body {
    announced: Announced,
    raw: String,
}

/// Reads the instruction on `line`, and its heredocs off `lines`.
pub(super) fn parse(line: &Line, lines: &mut Lines<'_>, notes: &mut Notes) -> Option<Parsed> {
    let whole = Stretch::whole(line).trimmed();
    for &span in &line.empty_continuations {
        notes.warnings.push(warning(
            "NoEmptyContinuation",
            "empty continuation line",
            "delete this line",
            span,
        ));
    }
    let head = Head::read(&whole);
    notes.keywords.push(head.written.word());
    let bodies = bodies(&head, line, lines, notes)?;
    let span = whole.span();
    let keyword = known(&head, notes)?;
    let text = format!("{keyword} {}", head.arguments.text()).trim_end().to_owned();
    let escape = lines.escape;
    if keyword == "FROM" {
        return from::from(head, span, notes).map(Parsed::From);
    }
    let kind = Reader { keyword, head, escape, bodies, notes }.kind()?;
    Some(Parsed::Instruction(Instruction { kind, span, text }))
}

fn known(head: &Head<'_>, notes: &mut Notes) -> Option<&'static str> {
    if head.keyword.is_none() {
        let written = head.written.text();
        let label = match closest(written, KEYWORDS) {
            Some(keyword) => format!("did you mean {keyword}?"),
            None => "expected an instruction".to_owned(),
        };
        notes.errors.push(fault(format!("unknown instruction: {written}"), label, head.written.span()));
    }
    head.keyword
}

/// Takes the bodies of the heredocs that an instruction announces. `None` if one is never closed.
fn bodies(head: &Head<'_>, line: &Line, lines: &mut Lines<'_>, notes: &mut Notes) -> Option<Vec<Body>> {
    let takes_them = match head.keyword {
        Some("ONBUILD") => takes_heredocs(&Head::read(&head.rest)),
        _ => takes_heredocs(head),
    };
    let mut bodies = Vec::new();
    if takes_them {
        for announced in heredoc::announced(&line.text) {
            let Some(raw) = lines.heredoc(&announced.name, announced.strip_tabs) else {
                let label = format!("expected a line `{}` before the end of the file", announced.name);
                notes.errors.push(fault("unterminated heredoc", label, head.arguments.span()));
                return None;
            };
            bodies.push(Body { announced, raw });
        }
    }
    Some(bodies)
}

fn takes_heredocs(head: &Head<'_>) -> bool {
    matches!(head.keyword, Some("ADD" | "COPY" | "RUN")) && !matches!(json::read(&head.rest), Ok(Some(_)))
}

/// How arguments are written.
enum Form {
    Json(Vec<Word>),
    Plain,
}

/// Reads one instruction by its keyword's rules.
struct Reader<'l, 'n> {
    keyword: &'static str,
    head: Head<'l>,
    escape: char,
    bodies: Vec<Body>,
    notes: &'n mut Notes,
}

impl Reader<'_, '_> {
    fn kind(mut self) -> Option<Kind> {
        match self.keyword {
            "RUN" => return self.run(),
            "COPY" => return self.copy(),
            "ADD" => return self.add(),
            "HEALTHCHECK" => return self.healthcheck(),
            _ => {}
        }
        // None of the others has flags; `CMD --help` is a mistake in BuildKit too.
        Flags::new(self.keyword, std::mem::take(&mut self.head.flags), &mut self.notes.errors).finish();
        match self.keyword {
            "CMD" => self.command().map(Kind::Cmd),
            "ENTRYPOINT" => self.command().map(Kind::Entrypoint),
            "ENV" => self.pairs().map(Kind::Env),
            "LABEL" => self.pairs().map(Kind::Label),
            "ARG" => self.arg(),
            "EXPOSE" => self.some_fields().map(Kind::Expose),
            "VOLUME" => self.volume(),
            "USER" => self.one().map(Kind::User),
            "WORKDIR" => self.one().map(Kind::Workdir),
            "STOPSIGNAL" => self.one().map(Kind::StopSignal),
            "MAINTAINER" => self.maintainer(),
            "SHELL" => self.shell(),
            "ONBUILD" => self.on_build(),
            _ => None,
        }
    }

    fn error(&mut self, message: impl Into<String>, label: impl Into<String>, span: Span) {
        self.notes.errors.push(fault(message, label, span));
    }

    /// Reports that there are no arguments.
    fn nothing(&mut self, requires: &str) {
        let message = format!("{} requires {requires}", self.keyword);
        let span = self.head.written.span();
        self.error(message, format!("expected {requires}"), span);
    }

    /// The arguments as a JSON array of strings, or as the plain text that they are otherwise.
    fn form(&mut self) -> Option<Form> {
        match json::read(&self.head.rest) {
            Ok(Some(list)) => return Some(Form::Json(list)),
            Ok(None) => {}
            Err(error) => {
                self.notes.errors.push(error);
                return None;
            }
        }
        if json::is_meant(self.head.rest.text()) {
            let message =
                format!("{} looks like JSON but is none, so it is taken as plain text", self.keyword);
            let label = "JSON has double quotes, and no comma at the end";
            self.notes.warnings.push(warning("InvalidJSONArray", message, label, self.head.rest.span()));
        }
        Some(Form::Plain)
    }

    /// Shell form or JSON form.
    fn command(&mut self) -> Option<Command> {
        Some(match self.form()? {
            Form::Json(list) => Command::Exec(texts(list)),
            Form::Plain => Command::Shell(self.head.rest.text().to_owned()),
        })
    }

    fn run(mut self) -> Option<Kind> {
        let given = std::mem::take(&mut self.head.flags);
        let mut flags = Flags::new("RUN", given, &mut self.notes.errors);
        let mounts = flags.values("mount");
        let network = flags.value("network");
        let security = flags.value("security");
        flags.finish();
        self.one_of("network mode", network.as_ref(), &["default", "none", "host"]);
        self.one_of("security mode", security.as_ref(), &["sandbox", "insecure"]);
        let command = self.command()?;
        let heredocs = self.bodies.iter().map(heredoc_of).collect();
        Some(Kind::Run(Run { command, mounts, network, security, heredocs }))
    }

    fn one_of(&mut self, what: &str, value: Option<&Word>, allowed: &[&str]) {
        if let Some(value) = value
            && !value.text.contains('$')
            && !allowed.contains(&value.text.as_str())
        {
            let label = match closest(&value.text, allowed.iter().copied()) {
                Some(close) => format!("did you mean {close}?"),
                None => format!("expected {}", allowed.join(" or ")),
            };
            self.error(format!("invalid {what} `{}`", value.text), label, value.span);
        }
    }

    /// `name=value …`, or the old `name rest of the line`; the first word decides.
    fn pairs(mut self) -> Option<Vec<(Word, Word)>> {
        let words = self.head.rest.quoted_words(self.escape);
        let Some(first) = words.first() else {
            self.nothing("at least one argument");
            return None;
        };
        if !first.text().contains('=') {
            return self.old_pair().map(|pair| vec![pair]);
        }
        let mut pairs = Vec::new();
        for word in &words {
            match word.split_at_equals() {
                Some((name, value)) if !name.is_empty() => pairs.push((name.word(), value.word())),
                Some(_) => self.error(
                    format!("{} names can not be blank", self.keyword),
                    "expected a name before `=`",
                    word.span(),
                ),
                None => self.error(
                    format!("can't find = in `{}`", word.text()),
                    format!(
                        "expected name=value; quote a value that has blanks: {}",
                        quoted_hint(&pairs, word)
                    ),
                    word.span(),
                ),
            }
        }
        Some(pairs)
    }

    fn old_pair(&mut self) -> Option<(Word, Word)> {
        let (name, value) = self.head.rest.split_first();
        if value.is_empty() {
            let label = format!("expected {}=value", name.text());
            self.error(format!("{} must have two arguments", self.keyword), label, name.span());
            return None;
        }
        let label = format!("write {}=…", name.text());
        let message = "\"key=value\" should be used instead of the legacy \"key value\" format";
        self.notes.warnings.push(warning("LegacyKeyValueFormat", message, label, name.span()));
        Some((name.word(), value.word()))
    }

    fn arg(mut self) -> Option<Kind> {
        let words = self.head.rest.quoted_words(self.escape);
        if words.is_empty() {
            self.nothing("at least one argument");
            return None;
        }
        let mut args = Vec::new();
        for word in words {
            let (name, default) = match word.split_at_equals() {
                Some((name, value)) => (name, Some(value.word())),
                None => (word.clone(), None),
            };
            // The name may be quoted; variables in it stay as they are.
            let text = expand::unquoted(name.text(), self.escape);
            match text {
                Ok(text) if !text.is_empty() => args.push(Arg { name: text, default, span: word.span() }),
                Ok(_) => self.error("ARG names can not be blank", "expected a name", word.span()),
                Err(problem) => self.error(problem.to_string(), "in this name", word.span()),
            }
        }
        Some(Kind::Arg(args))
    }

    fn some_fields(&mut self) -> Option<Vec<Word>> {
        let words: Vec<Word> = self.head.rest.fields().iter().map(Stretch::word).collect();
        if words.is_empty() {
            self.nothing("at least one argument");
            return None;
        }
        Some(words)
    }

    fn volume(mut self) -> Option<Kind> {
        let mut words = match self.form()? {
            Form::Json(list) => list,
            Form::Plain => self.some_fields()?,
        };
        if words.is_empty() {
            self.nothing("at least one argument");
            return None;
        }
        for word in &mut words {
            word.text = word.text.trim().to_owned();
            if word.text.is_empty() {
                self.error("VOLUME specified can not be an empty string", "expected a path", word.span);
            }
        }
        Some(Kind::Volume(words))
    }

    /// The whole rest of the line.
    fn one(&mut self) -> Option<Word> {
        if self.head.rest.is_empty() {
            self.nothing("exactly one argument");
            return None;
        }
        Some(self.head.rest.word())
    }

    fn maintainer(mut self) -> Option<Kind> {
        Some(Kind::Maintainer(self.one()?.text))
    }

    fn shell(mut self) -> Option<Kind> {
        let span = self.head.rest.span();
        match self.form()? {
            Form::Json(list) if !list.is_empty() => return Some(Kind::Shell(texts(list))),
            Form::Json(_) => self.error("SHELL requires at least one argument", "expected a shell", span),
            Form::Plain if self.head.rest.is_empty() => self.nothing("a JSON array"),
            Form::Plain => {
                let label = r#"expected a JSON array, as in ["/bin/bash", "-c"]"#;
                self.error("SHELL requires the arguments to be in JSON form", label, span);
            }
        }
        None
    }

    fn on_build(mut self) -> Option<Kind> {
        if self.head.rest.is_empty() {
            self.nothing("at least one argument");
            return None;
        }
        let head = Head::read(&self.head.rest);
        let span = head.written.span();
        match known(&head, self.notes)? {
            "ONBUILD" => {
                self.error("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", "a second ONBUILD", span);
                None
            }
            keyword @ ("FROM" | "MAINTAINER") => {
                let message = format!("{keyword} isn't allowed as an ONBUILD trigger");
                self.error(message, "expected another instruction", span);
                None
            }
            keyword => {
                let mut trigger = self.head.rest.text().to_owned();
                for body in &self.bodies {
                    trigger.push('\n');
                    trigger.push_str(&body.raw);
                    trigger.push_str(&body.announced.name);
                }
                let bodies = std::mem::take(&mut self.bodies);
                Reader { keyword, head, escape: self.escape, bodies, notes: self.notes }.kind()?;
                Some(Kind::OnBuild(trigger))
            }
        }
    }
}

fn quoted_hint(pairs: &[(Word, Word)], word: &Stretch<'_>) -> String {
    match pairs.last() {
        Some((name, value)) => format!("{}=\"{} {}\"", name.text, value.text.trim_matches('"'), word.text()),
        None => format!("\"{}\"", word.text()),
    }
}

fn texts(words: Vec<Word>) -> Vec<String> {
    words.into_iter().map(|word| word.text).collect()
}

fn heredoc_of(body: &Body) -> Heredoc {
    let Announced { name, expand, strip_tabs, descriptor } = body.announced.clone();
    let content = if strip_tabs { without_tabs(&body.raw) } else { body.raw.clone() };
    Heredoc { name, content, expand, strip_tabs, descriptor }
}

fn without_tabs(text: &str) -> String {
    text.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}
