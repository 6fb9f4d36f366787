//! The variables that an instruction sees: ARG and ENV of a stage, in order. Pure.
//!
//! ```text
//! --build-arg ─┐
//! global ARG  ─┼→ ARG name[=default] ─→ ┐
//! automatic   ─┘                        ├→ variables (the later declaration wins) → words, RUN's environment
//!                ENV name=value ───────→ ┘
//! ```
//!
//! The image keeps only what ENV set; ARG values live in the build. The proxy arguments reach RUN
//! without being declared and are in no key and no history (FEATURES F10).
//!
//! May touch: its arguments. Knows nothing of disk, clock, environment, store.

use std::collections::BTreeMap;

use crate::containerfile::expand::{self, ExpandError};

/// Names of proxy variables, both cases of each are known without ARG.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// What every stage of a build shares.
#[derive(Clone, Debug, Default)]
pub struct Globals {
    /// `--build-arg`, values settled.
    pub build_args: BTreeMap<String, String>,
    /// `TARGETPLATFORM` and the like.
    pub automatic: BTreeMap<String, String>,
    /// ARG before the first FROM, with the values they came to.
    pub args: Vec<(String, Option<String>)>,
}

/// The variables of one stage so far.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// In the order of first declaration.
    variables: Vec<(String, String)>,
    /// Names declared by ARG, in order, with their value at that time; for history.
    declared: Vec<String>,
}

impl Globals {
    /// The value of a name in FROM lines and in global ARG defaults.
    pub fn value(&self, name: &str) -> Option<String> {
        let global = self.args.iter().rev().find(|(known, _)| known == name);
        match global {
            Some((_, value)) => value.clone(),
            None => self
                .build_args
                .get(name)
                .filter(|_| self.automatic.contains_key(name))
                .cloned()
                .or_else(|| self.automatic.get(name).cloned()),
        }
    }

    /// Declares a global ARG: `--build-arg` beats the default.
    pub fn declare(&mut self, name: &str, default: Option<String>) {
        let value =
            self.build_args.get(name).cloned().or(default).or_else(|| self.automatic.get(name).cloned());
        self.args.push((name.to_owned(), value));
    }

    /// The proxy variables that the user passed; for RUN's environment only.
    pub fn proxies(&self) -> impl Iterator<Item = (&String, &String)> {
        self.build_args.iter().filter(|(name, _)| is_proxy(name))
    }

    /// What `ARG name[=default]` in a stage comes to.
    fn argument(&self, name: &str, default: Option<String>) -> Option<String> {
        if let Some(given) = self.build_args.get(name) {
            return Some(given.clone());
        }
        let global =
            || self.args.iter().rev().find(|(known, _)| known == name).and_then(|(_, value)| value.clone());
        default.or_else(global).or_else(|| self.automatic.get(name).cloned())
    }
}

/// Whether `name` is a proxy variable, in either case.
pub fn is_proxy(name: &str) -> bool {
    PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
}

impl Scope {
    /// A scope that starts with an image's environment (`KEY=VALUE`).
    pub fn of_image(env: &[String]) -> Self {
        let mut scope = Self::default();
        for entry in env {
            if let Some((name, value)) = entry.split_once('=') {
                scope.set(name, value);
            }
        }
        scope
    }

    /// `ENV name=value`.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.variables.push((name.to_owned(), value.to_owned())),
        }
    }

    /// `ARG name[=default]`; returns the value it has from here on.
    pub fn declare(&mut self, globals: &Globals, name: &str, default: Option<String>) -> Option<String> {
        if !self.declared.iter().any(|known| known == name) {
            self.declared.push(name.to_owned());
        }
        let value = globals.argument(name, default)?;
        self.set(name, &value);
        Some(value)
    }

    pub fn value(&self, name: &str) -> Option<String> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    /// Expands a word with these variables.
    pub fn word(&self, text: &str, escape: char) -> Result<String, ExpandError> {
        expand::word(text, escape, &|name| self.value(name))
    }

    /// Everything a RUN step sees, `KEY=VALUE`.
    pub fn env(&self) -> Vec<String> {
        self.variables.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// The ARGs in force as history shows them: `|2 A=1 B=2 `; empty without any.
    pub fn history_prefix(&self) -> String {
        let values: Vec<String> = self
            .declared
            .iter()
            .map(|name| format!("{name}={}", self.value(name).unwrap_or_default()))
            .collect();
        if values.is_empty() { String::new() } else { format!("|{} {} ", values.len(), values.join(" ")) }
    }

    /// Whether ARG declared `name` in this stage.
    pub fn is_declared(&self, name: &str) -> bool {
        self.declared.iter().any(|known| known == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globals() -> Globals {
        let mut globals = Globals {
            build_args: BTreeMap::from([("B".into(), "given".into()), ("http_proxy".into(), "p".into())]),
            automatic: BTreeMap::from([("TARGETARCH".into(), "amd64".into())]),
            args: Vec::new(),
        };
        globals.declare("G", Some("global".into()));
        globals.declare("B", Some("default".into()));
        globals
    }

    #[test]
    fn an_arg_takes_its_value_from_the_nearest_source() {
        let globals = globals();
        for (name, default, expected) in [
            ("G", None, Some("global")),
            ("G", Some("own"), Some("own")),
            ("B", None, Some("given")),
            ("B", Some("own"), Some("given")),
            ("TARGETARCH", None, Some("amd64")),
            ("NEW", None, None),
            ("NEW", Some("own"), Some("own")),
        ] {
            let mut scope = Scope::default();
            let value = scope.declare(&globals, name, default.map(str::to_owned));
            assert_eq!(value.as_deref(), expected, "{name} {default:?}");
            assert_eq!(scope.value(name), value);
        }
    }

    #[test]
    fn the_later_of_arg_and_env_wins() {
        let globals = globals();
        let mut scope = Scope::of_image(&["A=image".into()]);
        scope.declare(&globals, "A", Some("arg".into()));
        assert_eq!(scope.env(), ["A=arg"]);
        scope.set("A", "env");
        assert_eq!(scope.env(), ["A=env"]);
        assert_eq!(scope.history_prefix(), "|1 A=env ");
    }

    #[test]
    fn proxies_need_no_declaration_and_are_not_variables() {
        let globals = globals();
        assert_eq!(globals.proxies().count(), 1);
        assert_eq!(Scope::default().value("http_proxy"), None);
        assert!(is_proxy("No_Proxy") && !is_proxy("PROXY"));
    }
}
