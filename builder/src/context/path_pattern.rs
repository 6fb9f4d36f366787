//! One whole path against one pattern that may hold `**`, as moby's pattern matcher has it. Pure.
//!
//! ```text
//! *  ?  [a-z]  \x     as in a single component; none takes a `/`
//! **/  in front or between     nothing, or any number of folders
//! **   at the end              everything
//! ```
//! Most patterns are plain names, `dir/**` or `**/name`, and are compared as bytes. The others are matched
//! from their end to their front over a table, so a match costs (pattern × path) and never more.
//!
//! May touch: its arguments. Knows nothing of files.

use super::pattern::{self, BadPattern, Class, character};

/// A pattern, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    shape: Shape,
}

/// How a pattern is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `a/b`
    Exact(Vec<u8>),
    /// `a/**`: the bytes in front of the stars.
    Prefix(Vec<u8>),
    /// `**/a` and `**a`: the bytes behind the stars.
    Suffix(Vec<u8>),
    Items(Vec<Item>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Literal(Vec<u8>),
    /// `?`
    AnyOne,
    /// `*`
    AnyMany,
    /// `[…]`
    Class(Class),
    /// `**` that something follows.
    Folders,
    /// `**` at the end.
    Everything,
}

impl PathPattern {
    /// Compiles a pattern that is already cleaned (no `//`, no `.` or `..` that could go, no `/` at the end).
    pub fn compile(text: &[u8]) -> Result<Self, BadPattern> {
        pattern::check(text)?;
        let items = items(text)?;
        let shape = match items.as_slice() {
            [] => Shape::Exact(Vec::new()),
            [Item::Literal(name)] => Shape::Exact(name.clone()),
            [Item::Everything] => Shape::Prefix(Vec::new()),
            [Item::Literal(folder), Item::Everything] => Shape::Prefix(folder.clone()),
            // moby compares the end of the text here, so `**a` matches `ba` too.
            [Item::Folders, Item::Literal(_)] if !text.contains(&b'\\') => Shape::Suffix(text[2..].to_vec()),
            _ => Shape::Items(items),
        };
        Ok(Self { shape })
    }

    /// Says whether the whole of `path` (relative, `a/b`) fits.
    pub fn matches(&self, path: &[u8]) -> bool {
        match &self.shape {
            Shape::Exact(name) => path == name,
            Shape::Prefix(prefix) => path.starts_with(prefix),
            Shape::Suffix(suffix) => path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path),
            Shape::Items(items) => may_fit(items, path) && fits(items, path, Ending::Exact),
        }
    }

    /// Says whether anything below the folder `path` could fit.
    pub fn may_match_below(&self, path: &[u8]) -> bool {
        let folder = [path, b"/"].concat();
        match &self.shape {
            Shape::Exact(name) => name.len() > folder.len() && name.starts_with(&folder),
            Shape::Prefix(prefix) => prefix.starts_with(&folder) || folder.starts_with(prefix),
            Shape::Suffix(_) => true,
            Shape::Items(items) => fits(items, &folder, Ending::Open),
        }
    }

    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }
}

/// Splits a checked pattern into items.
fn items(text: &[u8]) -> Result<Vec<Item>, BadPattern> {
    let mut items: Vec<Item> = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let (item, length) = match rest {
            [b'*', b'*', rest @ ..] => {
                let length = 2 + usize::from(rest.first() == Some(&b'/'));
                (if at + length == text.len() { Item::Everything } else { Item::Folders }, length)
            }
            [b'*', ..] => (Item::AnyMany, 1),
            [b'?', ..] => (Item::AnyOne, 1),
            [b'[', ..] => {
                let class = Class::read(rest).ok_or(BadPattern)?;
                let length = class.length;
                (Item::Class(class), length)
            }
            [b'\\', escaped, ..] => (Item::Literal(vec![*escaped]), 2),
            [byte, ..] => (Item::Literal(vec![*byte]), 1),
            [] => break,
        };
        at += length;
        match (items.last_mut(), item) {
            (Some(Item::Literal(before)), Item::Literal(more)) => before.extend(more),
            (_, item) => items.push(item),
        }
    }
    Ok(items)
}

/// Looks for the literals only, each behind the one before: most paths end here.
fn may_fit(items: &[Item], path: &[u8]) -> bool {
    let mut rest = path;
    for (at, item) in items.iter().enumerate() {
        let Item::Literal(text) = item else { continue };
        if at == 0 && !path.starts_with(text) || at + 1 == items.len() && !path.ends_with(text) {
            return false;
        }
        match find(rest, text) {
            Some(place) => rest = &rest[place + text.len()..],
            None => return false,
        }
    }
    true
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let last = text.len().checked_sub(wanted.len())?;
    (0..=last).find(|&at| text[at] == first && text[at..].starts_with(wanted))
}

/// Where a match may end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// With the path.
    Exact,
    /// Behind the path: it is the front of a longer one.
    Open,
}

/// Matches items to a path, from the last item to the first: `row[at]` says whether the items behind
/// the current one fit `path[at..]`.
fn fits(items: &[Item], path: &[u8], ending: Ending) -> bool {
    let open = ending == Ending::Open;
    let mut row = vec![false; path.len() + 1];
    row[path.len()] = !open;
    for item in items.iter().rev() {
        match item {
            Item::Literal(text) => {
                for at in 0..=path.len() {
                    let rest = &path[at..];
                    row[at] = if rest.len() < text.len() {
                        open && text.starts_with(rest)
                    } else {
                        rest.starts_with(text) && row[at + text.len()]
                    };
                }
            }
            Item::AnyOne | Item::Class(_) => one(item, path, &mut row, open),
            Item::AnyMany => many(path, &mut row, open, |byte| byte != b'/'),
            Item::Everything => many(path, &mut row, open, |_| true),
            Item::Folders => folders(path, &mut row, open),
        }
    }
    row[0]
}

fn one(item: &Item, path: &[u8], row: &mut [bool], open: bool) {
    for at in 0..path.len() {
        let (character, length) = character(&path[at..]);
        let fits = path[at] != b'/'
            && match item {
                Item::Class(class) => class.holds(character),
                _ => true,
            };
        row[at] = fits && row[at + length];
    }
    row[path.len()] = open;
}

fn many(path: &[u8], row: &mut [bool], open: bool, takes: impl Fn(u8) -> bool) {
    row[path.len()] |= open;
    for at in (0..path.len()).rev() {
        row[at] |= takes(path[at]) && row[at + 1];
    }
}

/// Nothing, or everything up to and with some `/`.
fn folders(path: &[u8], row: &mut [bool], open: bool) {
    let mut behind_a_slash = open;
    let mut next = row[path.len()];
    row[path.len()] |= open;
    for at in (0..path.len()).rev() {
        behind_a_slash |= path[at] == b'/' && next;
        next = row[at];
        row[at] |= behind_a_slash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_fits_a_pattern_as_in_moby() {
        let table: &[(&str, &str, bool)] = &[
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "file", true),
            ("**/", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("dir/**", "dir", false),
            ("**/dir", "dir", true),
            ("**/dir", "dir/file", false),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/*", "dir/dir2/file/", false),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**/file", "dir/file", true),
            ("**file", "dir/dir/file", true),
            ("**/file*", "dir/dir/file", true),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/file*.txt*", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("**/*.txt", "file.txt", true),
            ("**/**/*.txt", "file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt", "a/file.txt", true),
            ("a/*.txt**", "a/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aae", false),
            ("a[^b-d]e", "aze", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcdef", false),
            ("abc.def", "abc.def", true),
            ("abc?def", "abcZdef", true),
            ("abc?def", "abcdef", false),
            ("a\\\\", "a\\", true),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "dir/foo/bar", true),
            ("**/foo/bar", "dir/dir2/foo/bar", true),
            ("abc/**", "abc", false),
            ("abc/**", "abc/def", true),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", ".foo", true),
            ("**/.foo", "bar.foo", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/xb", false),
            ("a?c", "a/c", false),
        ];
        for (pattern, path, expected) in table {
            let compiled = PathPattern::compile(pattern.as_bytes()).unwrap();
            assert_eq!(compiled.matches(path.as_bytes()), *expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_says_what_folder_its_matches_may_be_in() {
        let table: &[(&str, &str, bool)] = &[
            ("a/b", "a", true),
            ("a/b", "b", false),
            ("a", "a", false),
            ("a/b/c", "a/b", true),
            ("a/*/c", "a/b", true),
            ("a/*/c", "a/b/c", false),
            ("*", "a", false),
            ("*/b", "a", true),
            ("a*/b", "ba", false),
            ("**/b", "a/b/c", true),
            ("a/**", "a/b/c", true),
            ("a/**", "b", false),
            ("a/**/*.txt", "a/b", true),
            ("a/**/*.txt", "b", false),
            ("[ab]/c", "a", true),
            ("[ab]/c", "c", false),
            ("?/c", "x", true),
        ];
        for (pattern, folder, expected) in table {
            let compiled = PathPattern::compile(pattern.as_bytes()).unwrap();
            assert_eq!(compiled.may_match_below(folder.as_bytes()), *expected, "{pattern} {folder}");
        }
    }
}
