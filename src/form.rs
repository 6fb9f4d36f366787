//! Forms of a list: a table, JSON, or a line by a template, in docker's words.
//!
//! ```text
//! table                      columns under a head
//! json                       one object a line
//! {{.ID}}: {{json .A.B}}     fields of that object in a text; \t and \n are known
//! {{index .A.B "c"}}         what a list or a map has at a place; nothing where it has nothing
//! table {{.ID}}\t{{.Size}}   the same under a head
//! ```
//! Templates have no other functions, no conditions and no loops: what needs these reads JSON.
//!
//! May touch: its arguments. Knows nothing of commands.

use std::str::FromStr;

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;

use crate::output::Output;

/// How a list is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Table,
    Json,
    Template { has_head: bool, parts: Vec<Part> },
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    /// From the row inwards; an empty path is all of it.
    Field {
        path: Vec<String>,
        index: Option<String>,
        as_json: bool,
    },
}

impl FromStr for Form {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (has_head, template) = match text.strip_prefix("table ") {
            Some(template) => (true, template.trim_start()),
            None => (false, text),
        };
        match template {
            "table" => Ok(Self::Table),
            "json" if !has_head => Ok(Self::Json),
            _ if template.contains("{{") => Ok(Self::Template { has_head, parts: parts(template)? }),
            _ => bail!("expected `table`, `json` or a template such as `{{{{.ID}}}}`"),
        }
    }
}

/// Reads a template.
pub(crate) fn parts(template: &str) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once("{{") {
        let (inner, after) = behind.split_once("}}").context("a `{{` has no `}}`")?;
        parts.push(Part::Text(unescaped(before)));
        let field = field(inner.trim()).with_context(|| {
            format!("`{{{{{inner}}}}}` is more than a field: use `--format json` for anything else")
        })?;
        parts.push(field);
        rest = after;
    }
    parts.push(Part::Text(unescaped(rest)));
    Ok(parts)
}

/// What stands between braces.
fn field(inner: &str) -> Option<Part> {
    let (as_json, inner) = match inner.strip_prefix("json ") {
        Some(inner) => (true, inner.trim().trim_start_matches('(').trim_end_matches(')')),
        None => (false, inner),
    };
    let (place, index) = match inner.strip_prefix("index ") {
        Some(words) => {
            let (place, index) = words.trim().split_once(' ')?;
            (place, Some(index.trim().trim_matches('"').to_owned()))
        }
        None => (inner, None),
    };
    let path = place.strip_prefix('.')?;
    let is_known = |letter: char| letter.is_alphanumeric() || "._-".contains(letter);
    let path: Vec<String> = match path {
        "" => Vec::new(),
        _ if path.chars().all(is_known) => path.split('.').map(str::to_owned).collect(),
        _ => return None,
    };
    Some(Part::Field { path, index, as_json })
}

fn unescaped(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

impl Form {
    pub(crate) fn is_table(&self) -> bool {
        *self == Self::Table
    }

    /// Prints rows; as a table by `cells` under `head`, else by the fields they serialize to.
    pub(crate) fn print<R: Serialize>(
        &self,
        rows: &[R],
        head: &[&str],
        cells: impl Fn(&R) -> Vec<String>,
        out: &mut Output,
    ) -> anyhow::Result<()> {
        match self {
            Self::Table => out.table(head, &rows.iter().map(cells).collect::<Vec<_>>())?,
            Self::Json => {
                let mut text = String::new();
                for row in rows {
                    text.push_str(&serde_json::to_string(row)?);
                    text.push('\n');
                }
                out.text(&text)?;
            }
            Self::Template { has_head, parts } => {
                let lines = rows.iter().map(|row| filled(parts, &serde_json::to_value(row)?));
                let lines = lines.collect::<anyhow::Result<Vec<String>>>()?;
                if *has_head {
                    let split = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
                    let head = head_of(parts);
                    let head: Vec<&str> = head.split('\t').collect();
                    out.table(&head, &lines.iter().map(|line| split(line)).collect::<Vec<_>>())?;
                } else {
                    out.text(&lines.iter().flat_map(|line| [line, "\n"]).collect::<String>())?;
                }
            }
        }
        Ok(())
    }
}

/// The fields' names in capitals, as docker heads such a table.
fn head_of(parts: &[Part]) -> String {
    let title = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Field { path, .. } => path.last().map(|name| name.to_uppercase()).unwrap_or_default(),
    };
    parts.iter().map(title).collect()
}

/// The text of a template for one row.
pub(crate) fn filled(parts: &[Part], row: &Value) -> anyhow::Result<String> {
    let mut line = String::new();
    for part in parts {
        match part {
            Part::Text(text) => line.push_str(text),
            Part::Field { path, index, as_json } => {
                let mut value = inside(row, path)?;
                if let Some(index) = index {
                    let Some(found) = step(value, index) else { continue };
                    value = found;
                }
                match value {
                    Value::String(text) if !as_json => line.push_str(text),
                    other => line.push_str(&other.to_string()),
                }
            }
        }
    }
    Ok(line)
}

/// What a path leads to.
fn inside<'v>(row: &'v Value, path: &[String]) -> anyhow::Result<&'v Value> {
    let mut found = row;
    for name in path {
        found = step(found, name).with_context(|| {
            let known: Vec<&str> =
                found.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
            let path = path.join(".").escape_debug().to_string();
            match known[..] {
                [] => format!("there is no field `{path}` in it"),
                _ => format!("there is no field `{path}`: there are {}", known.join(", ")),
            }
        })?;
    }
    Ok(found)
}

fn step<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    match value {
        Value::Array(values) => name.parse::<usize>().ok().and_then(|place| values.get(place)),
        _ => value.get(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_filled() {
        let row = json!({"ID": "ab\"c", "Size": 5, "Names": ["x"], "Map": {"a.b": "y"}});
        for (template, expected) in [
            ("{{.ID}}", "ab\"c"),
            (r"{{ .ID }}\t{{.Size}}!", "ab\"c\t5!"),
            ("{{json .ID}} {{.Names}}", r#""ab\"c" ["x"]"#),
            ("{{json .Names}}{{.Size}}", r#"["x"]5"#),
            ("{{.Names.0}} {{index .Names 0}} {{index .Map \"a.b\"}}{{index .Map \"none\"}}!", "x x y!"),
        ] {
            let Form::Template { parts, .. } = template.parse().unwrap() else { panic!("{template}") };
            assert_eq!(filled(&parts, &row).unwrap(), expected, "{template}");
        }
        let Form::Template { parts, has_head } = r"table {{.ID}}\t{{.Size}}".parse().unwrap() else {
            panic!()
        };
        assert!(has_head);
        assert_eq!(head_of(&parts), "ID\tSIZE");
        assert!(filled(&parts, &json!({})).unwrap_err().to_string().contains("`ID`"));
    }

    #[test]
    fn what_is_no_form_is_refused() {
        for bad in
            ["", "xml", "{{.ID", "{{range .}}", "{{if .ID}}x{{end}}", "{{ID}}", "table x", "table json"]
        {
            assert!(bad.parse::<Form>().is_err(), "{bad}");
        }
        assert_eq!("table".parse::<Form>().unwrap(), Form::Table);
        assert_eq!("json".parse::<Form>().unwrap(), Form::Json);
    }
}
