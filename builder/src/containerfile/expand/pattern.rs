//! The patterns of `${v#p}` and `${v/p/r}`: `*`, `?`, and `\` before either. Pure.
//!
//! One table per match, filled from the pattern's end to its front: `ends[at]` is where a match of the
//! rest of the pattern that starts at `at` ends. So a match costs (pattern × value), never more.
//!
//! May touch: its arguments. Knows nothing of words and variables.

/// What a `*` prefers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Greed {
    Shortest,
    Longest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Item {
    One(char),
    AnyOne,
    AnyMany,
}

/// A pattern, compiled.
pub(super) struct Pattern(Vec<Item>);

impl Pattern {
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        let mut items = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            items.push(match character {
                '*' => Item::AnyMany,
                '?' => Item::AnyOne,
                // `\}` and `\/` only hide the character from `${…}` itself.
                '\\' if matches!(rest.peek(), Some('}' | '/')) => continue,
                '\\' => match rest.next() {
                    Some(escaped @ ('*' | '?' | '\\')) => Item::One(escaped),
                    Some(other) => return Err(format!("invalid escape '\\{other}'")),
                    None => return Err("an escape at the end".to_owned()),
                },
                _ => Item::One(character),
            });
        }
        Ok(Self(items))
    }

    /// The value without what the pattern matches at its front.
    pub(super) fn trim_front(&self, value: &str, greed: Greed) -> String {
        let value: Vec<char> = value.chars().collect();
        trim(&self.0, &value, greed).iter().collect()
    }

    /// The value without what the pattern matches at its back.
    pub(super) fn trim_back(&self, value: &str, greed: Greed) -> String {
        let items: Vec<Item> = self.0.iter().rev().copied().collect();
        let value: Vec<char> = value.chars().rev().collect();
        trim(&items, &value, greed).iter().rev().collect()
    }

    /// The value with its first or each match replaced; a match starts as early and ends as late as it can.
    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool) -> String {
        let value: Vec<char> = value.chars().collect();
        let ends = ends_of_matches(&self.0, &value, Greed::Longest);
        let mut out = String::new();
        let mut at = 0;
        let mut last_end = None;
        let mut left = if all { usize::MAX } else { 1 };
        while at <= value.len() {
            // An empty match right behind the last one is none.
            let end = ends[at].filter(|&end| left > 0 && !(end == at && last_end == Some(at)));
            if let Some(end) = end {
                out.push_str(replacement);
                left -= 1;
                last_end = Some(end);
                if end > at {
                    at = end;
                    continue;
                }
            }
            out.extend(value.get(at));
            at += 1;
        }
        out
    }
}

fn trim<'v>(items: &[Item], value: &'v [char], greed: Greed) -> &'v [char] {
    let end = ends_of_matches(items, value, greed)[0].unwrap_or(0);
    &value[end..]
}

/// For each place in `value`: where the preferred match that starts there ends.
fn ends_of_matches(items: &[Item], value: &[char], greed: Greed) -> Vec<Option<usize>> {
    let mut ends: Vec<Option<usize>> = (0..=value.len()).map(Some).collect();
    for item in items.iter().rev() {
        // `ends` is that of the items behind this one. Neither wildcard takes a line's end.
        match item {
            Item::AnyMany => {
                for at in (0..value.len()).rev().filter(|&at| value[at] != '\n') {
                    ends[at] = match greed {
                        Greed::Longest => ends[at + 1].or(ends[at]),
                        Greed::Shortest => ends[at].or(ends[at + 1]),
                    };
                }
            }
            Item::AnyOne | Item::One(_) => {
                for at in 0..value.len() {
                    let fits = match item {
                        Item::One(character) => value[at] == *character,
                        _ => value[at] != '\n',
                    };
                    ends[at] = ends[at + 1].filter(|_| fits);
                }
                ends[value.len()] = None;
            }
        }
    }
    ends
}
