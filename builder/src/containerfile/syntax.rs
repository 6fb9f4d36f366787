//! The syntax tree: what was written, with places, before any variable has a value.

/// Byte offsets into the file, and the line (from 1) that the start is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
    pub line: usize,
}

/// A word as written, quotes and `$` still in it; [`super::expand`] gives it its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub span: Span,
}

/// An error or a warning at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// `BuildKit`'s rule name for a warning (`JSONArgsRecommended`); `None` for an error.
    pub rule: Option<&'static str>,
    /// `unknown instruction: RNU`
    pub message: String,
    /// Said at the caret: `expected …`, `did you mean RUN?`
    pub label: String,
    pub span: Span,
}

/// A parsed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Containerfile {
    /// The character that continues lines and escapes in words.
    pub escape: char,
    /// `# syntax=`, as written.
    pub syntax: Option<String>,
    /// `# check=`, as written.
    pub check: Option<String>,
    /// ARG lines before the first FROM.
    pub global_args: Vec<Instruction>,
    pub stages: Vec<Stage>,
    /// Warnings found while parsing.
    pub warnings: Vec<Diagnostic>,
}

/// FROM and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    pub image: Word,
    pub platform: Option<Word>,
    /// Lower-cased.
    pub name: Option<String>,
    /// The FROM line.
    pub span: Span,
    pub instructions: Vec<Instruction>,
}

/// One instruction with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub kind: Kind,
    pub span: Span,
    /// The instruction as one line, keyword in capitals, continuations joined: for history and display.
    pub text: String,
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Run(Run),
    Cmd(Command),
    Entrypoint(Command),
    Copy(Copy),
    Add(Copy),
    Env(Vec<(Word, Word)>),
    Label(Vec<(Word, Word)>),
    Arg(Vec<Arg>),
    Expose(Vec<Word>),
    Volume(Vec<Word>),
    User(Word),
    Workdir(Word),
    StopSignal(Word),
    Healthcheck(Healthcheck),
    /// JSON only, never empty.
    Shell(Vec<String>),
    /// The trigger's text, heredocs and all, checked to be parseable.
    OnBuild(String),
    Maintainer(String),
}

/// Shell form or JSON form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Shell(String),
    Exec(Vec<String>),
}

/// RUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub command: Command,
    /// `--mount=` values, in order, as written.
    pub mounts: Vec<Word>,
    pub network: Option<Word>,
    pub security: Option<Word>,
    /// Here-documents of the line, in order. When the whole command is one heredoc, `command` is
    /// `Shell("<<NAME")` as written.
    pub heredocs: Vec<Heredoc>,
}

/// A here-document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    pub content: String,
    /// No part of the delimiter was quoted, so COPY expands variables in it.
    pub expand: bool,
    /// `<<-`: leading tabs are already taken off `content`.
    pub strip_tabs: bool,
    /// The descriptor before `<<`; 0 when none was written.
    pub descriptor: u32,
}

/// COPY and ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    pub sources: Vec<CopySource>,
    pub destination: Word,
    pub from: Option<Word>,
    pub chown: Option<Word>,
    pub chmod: Option<Word>,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<Word>,
    pub checksum: Option<Word>,
    pub keep_git_dir: bool,
    /// ADD only; `None` lets the content decide.
    pub unpack: Option<bool>,
}

/// A thing that COPY or ADD takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// A path, a pattern, and for ADD a URL or a git reference.
    Path(Word),
    Heredoc(Heredoc),
}

/// `ARG name[=default]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    pub name: String,
    pub default: Option<Word>,
    pub span: Span,
}

/// HEALTHCHECK; times in nanoseconds, 0 is "not given".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `None` is `HEALTHCHECK NONE`.
    pub command: Option<Command>,
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
}

impl Default for Command {
    fn default() -> Self {
        Self::Shell(String::new())
    }
}
