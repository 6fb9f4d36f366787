//! Forms of a list: a table, JSON, or a line by a template, in docker's words.
//!
//! ```text
//! table                      columns under a head
//! json                       one object a line
//! {{.ID}}: {{json .Names}}   fields of that object in a text; \t and \n are known
//! table {{.ID}}\t{{.Size}}   the same under a head
//! ```
//! Templates have no functions but `json`, no conditions and no loops: what needs these reads JSON.
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
    /// A field's name, or none for all of the row.
    Field {
        name: Option<String>,
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

fn parts(template: &str) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once("{{") {
        let (inner, after) = behind.split_once("}}").context("a `{{` has no `}}`")?;
        parts.push(Part::Text(unescaped(before)));
        let inner = inner.trim();
        let (as_json, place) = match inner.strip_prefix("json ") {
            Some(place) => (true, place.trim()),
            None => (false, inner),
        };
        let name = place.strip_prefix('.').filter(|name| name.chars().all(char::is_alphanumeric));
        let name = name.with_context(|| {
            format!("`{{{{{inner}}}}}` is more than a field: use `--format json` for anything else")
        })?;
        parts.push(Part::Field { name: (!name.is_empty()).then(|| name.to_owned()), as_json });
        rest = after;
    }
    parts.push(Part::Text(unescaped(rest)));
    Ok(parts)
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
        Part::Field { name, .. } => name.as_deref().unwrap_or_default().to_uppercase(),
    };
    parts.iter().map(title).collect()
}

fn filled(parts: &[Part], row: &Value) -> anyhow::Result<String> {
    let mut line = String::new();
    for part in parts {
        match part {
            Part::Text(text) => line.push_str(text),
            Part::Field { name, as_json } => {
                let value = match name {
                    None => row,
                    Some(name) => row.get(name).with_context(|| no_field(name, row))?,
                };
                match value {
                    Value::String(text) if !as_json => line.push_str(text),
                    other => line.push_str(&other.to_string()),
                }
            }
        }
    }
    Ok(line)
}

fn no_field(name: &str, row: &Value) -> String {
    let known: Vec<&str> = row.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    format!("there is no field `{name}`: there are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_filled() {
        let row = json!({"ID": "ab\"c", "Size": 5, "Names": ["x"]});
        for (template, expected) in [
            ("{{.ID}}", "ab\"c"),
            (r"{{ .ID }}\t{{.Size}}!", "ab\"c\t5!"),
            ("{{json .ID}} {{.Names}}", r#""ab\"c" ["x"]"#),
            ("{{json .Names}}{{.Size}}", r#"["x"]5"#),
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
