//! What a command did: status and texts, and what a test expects of them.

use std::os::unix::process::ExitStatusExt;
use std::process::Output;

/// The end of a command.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The command line, for messages.
    pub(crate) what: String,
    /// The exit status, or 128 + the signal that ended it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn new(what: String, output: &Output) -> Self {
        let code = output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Self { what, code: code.expect("it ended"), stdout, stderr }
    }

    /// The command must have succeeded.
    #[track_caller]
    pub(crate) fn expect_ok(self) -> Self {
        self.expect_code(0)
    }

    /// The command must have ended with this status.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "the status of {self}");
        self.expect_no_panic()
    }

    /// The command must have refused: status not 0, exactly one error, no panic, and every word of `said` in it.
    #[track_caller]
    pub(crate) fn expect_error(self, said: &[&str]) -> Self {
        assert_ne!(self.code, 0, "{self} must fail");
        let errors = self.stderr.lines().filter(|line| line.starts_with("error")).count();
        assert_eq!(errors, 1, "one line that starts with `error` from {self}");
        said.iter().fold(self, |outcome, text| outcome.expect_stderr(text)).expect_no_panic()
    }

    /// The command must have said this on stderr.
    #[track_caller]
    pub(crate) fn expect_stderr(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "`{text}` on the stderr of {self}");
        self
    }

    /// The command must not have said this on stderr.
    #[track_caller]
    pub(crate) fn expect_stderr_without(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text), "no `{text}` on the stderr of {self}");
        self
    }

    /// The command must have printed exactly this on stdout.
    #[track_caller]
    pub(crate) fn expect_stdout(self, text: &str) -> Self {
        assert_eq!(self.stdout, text, "the stdout of {self}");
        self
    }

    /// The last line of stdout: the image ID after a build.
    #[track_caller]
    pub(crate) fn last_line(&self) -> String {
        self.stdout.lines().last().unwrap_or_else(|| panic!("a line on the stdout of {self}")).to_owned()
    }

    /// How many steps of a build came from the cache.
    pub(crate) fn cached_steps(&self) -> usize {
        self.stderr.lines().filter(|line| line.contains("CACHED")).count()
    }

    #[track_caller]
    fn expect_no_panic(self) -> Self {
        assert!(!self.stderr.contains("panicked at"), "no panic in {self}");
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, code, stdout, stderr } = self;
        write!(f, "{what} (status {code})\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}
