//! Ignore files, as moby's pattern matcher reads them. Pure.
//!
//! ```text
//! # a comment, at column 0 only        the last rule that matches a path decides
//! *.log                                a rule that matches a folder holds for all below it
//! !keep.log                            `!` takes back, even below an ignored folder
//! ```
//! A path is judged folder by folder from the top, and each folder hands down which rules matched it. As in
//! moby, a rule that could not have changed a folder's verdict is not asked, and so is not handed down.
//!
//! Few rules can match a given path at all: they are found by whole path, by last name, or by first or
//! last byte, and only they are asked.
//!
//! May touch: its arguments. Knows nothing of disk.

use std::collections::HashMap;

use super::path_pattern::{Item, PathPattern, Shape};

/// The rules of one ignore file, compiled.
#[derive(Clone, Debug, Default)]
pub struct IgnoreRules {
    rules: Vec<Rule>,
    index: Index,
}

#[derive(Clone, Debug)]
struct Rule {
    pattern: PathPattern,
    /// `!`
    exception: bool,
    line: usize,
}

/// What the rules say of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub ignored: bool,
    /// The line (from 1) of the rule that decided, if any matched.
    pub line: Option<usize>,
}

/// Says that a line is no valid pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the ignore file is no valid pattern: `{pattern}`")]
pub struct BadPattern {
    pub line: usize,
    pub pattern: String,
}

impl IgnoreRules {
    /// Reads an ignore file.
    pub fn parse(text: &[u8]) -> Result<Self, BadPattern> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let lines = text.split(|&byte| byte == b'\n').zip(1..);
        Self::from_lines(lines.filter(|(line, _)| !line.starts_with(b"#")))
    }

    /// Takes the values of `COPY --exclude=`; `line` is then the place in the list, from 1.
    pub fn from_patterns<'p>(patterns: impl IntoIterator<Item = &'p str>) -> Result<Self, BadPattern> {
        Self::from_lines(patterns.into_iter().map(str::as_bytes).zip(1..))
    }

    fn from_lines<'p>(lines: impl Iterator<Item = (&'p [u8], usize)>) -> Result<Self, BadPattern> {
        let mut rules = Vec::new();
        for (written, line) in lines {
            let text = trim(written);
            let (exception, text) = match text.strip_prefix(b"!") {
                Some(rest) => (true, trim(rest)),
                None => (false, text),
            };
            let bad = || BadPattern { line, pattern: String::from_utf8_lossy(written).trim().to_owned() };
            if text.is_empty() {
                if exception {
                    return Err(bad());
                }
                continue;
            }
            let pattern = PathPattern::compile(&cleaned(text)).map_err(|_| bad())?;
            rules.push(Rule { pattern, exception, line });
        }
        let index = Index::new(&rules);
        Ok(Self { rules, index })
    }

    /// Says whether `path` (relative, `a/b`) is ignored, its parents taken into account.
    pub fn verdict(&self, path: &[u8]) -> Verdict {
        let matched = self.matched(path);
        let decided = matched.last().map(|&at| &self.rules[at]);
        Verdict { ignored: decided.is_some_and(|rule| !rule.exception), line: decided.map(|rule| rule.line) }
    }

    /// Whether anything below the ignored directory `path` could come back through a `!` rule.
    pub fn may_hold_exceptions(&self, path: &[u8]) -> bool {
        if !self.index.has_exceptions {
            return false;
        }
        // Only an exception below the last rule that ignores the folder can take anything back.
        let matched = self.matched(path);
        let last = matched.iter().rev().find(|&&at| !self.rules[at].exception);
        let behind = last.map_or(0, |&at| at + 1);
        self.rules[behind..].iter().any(|rule| rule.exception && rule.pattern.may_match_below(path))
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules that match `path` or hold for it through a parent, in order.
    fn matched(&self, path: &[u8]) -> Vec<usize> {
        let mut above = Vec::new();
        let mut asked = Vec::new();
        if path.is_empty() || self.rules.is_empty() {
            return above;
        }
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut start = 0;
        for end in slashes.chain([path.len()]) {
            let (whole, name) = (&path[..end], &path[start..end]);
            start = end + 1;
            asked.clear();
            asked.extend_from_slice(&above);
            self.index.candidates(whole, name, &mut asked);
            asked.sort_unstable();
            asked.dedup();
            above = self.level(whole, &above, &asked);
            if !self.index.has_exceptions && !above.is_empty() {
                break;
            }
        }
        above
    }

    /// Judges one level: `above` are the rules handed down, `asked` those that may match, both in order.
    fn level(&self, path: &[u8], above: &[usize], asked: &[usize]) -> Vec<usize> {
        let mut matched = Vec::new();
        let mut ignored = false;
        let mut above = above.iter().peekable();
        for &at in asked {
            let rule = &self.rules[at];
            let handed_down = above.next_if_eq(&&at).is_some();
            if handed_down || (rule.exception == ignored && rule.pattern.matches(path)) {
                matched.push(at);
                ignored = !rule.exception;
            }
        }
        matched
    }
}

/// Which rules to ask for a path.
#[derive(Clone, Debug, Default)]
struct Index {
    /// Rules that match one path only.
    by_path: HashMap<Vec<u8>, Vec<usize>>,
    /// `**/…/name`, by its last name.
    by_name: HashMap<Vec<u8>, Vec<usize>>,
    by_first_byte: HashMap<u8, Vec<usize>>,
    by_last_byte: HashMap<u8, Vec<usize>>,
    others: Vec<usize>,
    has_exceptions: bool,
}

impl Index {
    fn new(rules: &[Rule]) -> Self {
        let mut index = Self { has_exceptions: rules.iter().any(|rule| rule.exception), ..Self::default() };
        for (at, rule) in rules.iter().enumerate() {
            index.place(rule.pattern.shape()).push(at);
        }
        index
    }

    /// The list that finds a rule soonest.
    fn place(&mut self, shape: &Shape) -> &mut Vec<usize> {
        match shape {
            Shape::Exact(path) => self.by_path.entry(path.clone()).or_default(),
            Shape::Suffix(suffix) => match suffix.iter().rposition(|&byte| byte == b'/') {
                Some(slash) => self.by_name.entry(suffix[slash + 1..].to_vec()).or_default(),
                None => self.last_byte(suffix),
            },
            Shape::Prefix(prefix) => match prefix.first() {
                Some(&first) => self.by_first_byte.entry(first).or_default(),
                None => &mut self.others,
            },
            Shape::Items(items) => match (items.first(), items.last()) {
                (_, Some(Item::Literal(text))) if items.len() > 1 => self.last_byte(text),
                (Some(Item::Literal(text)), _) => self.by_first_byte.entry(text[0]).or_default(),
                _ => &mut self.others,
            },
        }
    }

    fn last_byte(&mut self, text: &[u8]) -> &mut Vec<usize> {
        match text.last() {
            Some(&last) => self.by_last_byte.entry(last).or_default(),
            None => &mut self.others,
        }
    }

    /// Adds the rules that may match a path with this last name.
    fn candidates(&self, path: &[u8], name: &[u8], found: &mut Vec<usize>) {
        let by_path = self.by_path.get(path);
        let by_name = self.by_name.get(name);
        let by_first_byte = path.first().and_then(|byte| self.by_first_byte.get(byte));
        let by_last_byte = path.last().and_then(|byte| self.by_last_byte.get(byte));
        for list in [by_path, by_name, by_first_byte, by_last_byte, Some(&self.others)].into_iter().flatten()
        {
            found.extend_from_slice(list);
        }
    }
}

fn trim(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

/// Takes the detours out of a pattern, as Go's `filepath.Clean` does, and the `/` at its front.
fn cleaned(text: &[u8]) -> Vec<u8> {
    let rooted = text.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in text.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|&last| last != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            _ => parts.push(part),
        }
    }
    if parts.is_empty() {
        // Neither matches anything: the context's root can't be ignored.
        return if rooted { "/" } else { "." }.into();
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(rules: &str, path: &str) -> bool {
        IgnoreRules::parse(rules.as_bytes()).unwrap().verdict(path.as_bytes()).ignored
    }

    #[test]
    fn lines_are_read_as_moby_reads_them() {
        let table: &[(&str, &str, bool)] = &[
            ("a", "a", true),
            ("  a\t\r\n", "a", true),
            ("\u{feff}a", "a", true),
            ("#a", "#a", false),
            (" #a", "#a", true),
            ("/a", "a", true),
            ("./a/", "a", true),
            ("a/../b", "b", true),
            ("../a", "a", false),
            ("/../a", "a", true),
            (".", "a", false),
            ("/", "a", false),
            ("*\n! a", "a", false),
            ("*\n!/a", "a", false),
            ("\n\n", "a", false),
        ];
        for (rules, path, expected) in table {
            assert_eq!(ignored(rules, path), *expected, "{rules:?} {path}");
        }
    }

    #[test]
    fn the_last_rule_that_matches_a_path_or_a_parent_decides() {
        let table: &[(&str, &str, bool)] = &[
            ("a", "a/b/c", true),
            ("a", "b/a", false),
            ("**/a", "b/a/c", true),
            ("a\n!a/b", "a/b", false),
            ("a\n!a/b", "a/b/c", false),
            ("a\n!a/b", "a/c", true),
            ("!a/b\na", "a/b", true),
            ("*\n!a\na/b", "a/c", false),
            ("*\n!a\na/b", "a/b/c", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README-public.md", false),
            ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", false),
            ("*/temp*", "a/temporary", true),
            ("*/temp*", "temporary", false),
            ("*/*/temp*", "a/b/temp/c", true),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            // A rule that was not asked for the folder is not handed down (so do moby's walks).
            ("dir\n!dir/f\nd*", "dir/f", false),
        ];
        for (rules, path, expected) in table {
            assert_eq!(ignored(rules, path), *expected, "{rules:?} {path}");
        }
    }

    #[test]
    fn the_line_of_the_deciding_rule_is_told() {
        let rules = IgnoreRules::parse(b"# what to leave out\n\n*.log\n!keep.log\n").unwrap();
        assert_eq!(rules.verdict(b"a.log"), Verdict { ignored: true, line: Some(3) });
        assert_eq!(rules.verdict(b"keep.log"), Verdict { ignored: false, line: Some(4) });
        assert_eq!(rules.verdict(b"a.txt"), Verdict { ignored: false, line: None });
    }

    #[test]
    fn an_ignored_folder_is_walked_only_if_something_in_it_may_come_back() {
        let table: &[(&str, &str, bool)] = &[
            ("a", "a", false),
            ("*\n!src", "node_modules", false),
            ("*\n!src/main.rs", "src", true),
            ("*\n!src/main.rs", "src/bin", false),
            ("*\n!**/*.rs", "src/bin", true),
            ("!a/b\na", "a", false),
            ("a\n!a/b\na", "a", true),
            ("a\n!a/b\na/b", "a", true),
        ];
        for (text, path, expected) in table {
            let rules = IgnoreRules::parse(text.as_bytes()).unwrap();
            assert_eq!(rules.may_hold_exceptions(path.as_bytes()), *expected, "{text:?} {path}");
        }
    }

    #[test]
    fn a_line_that_is_no_pattern_is_told_by_its_number() {
        for (text, line) in [("a\n[", 2), ("!", 1), ("a\\", 1), ("\n\n! ", 3), ("[]a]", 1)] {
            assert_eq!(IgnoreRules::parse(text.as_bytes()).unwrap_err().line, line, "{text:?}");
        }
    }
}
