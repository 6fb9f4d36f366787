//! What a step depends on, as typed components, hashed. Pure.
//!
//! A key is a list of named components. Names and values are hashed with their lengths, so no two
//! different lists have the same bytes. The components are kept beside the key in the index: a
//! miss is explained by the first component that differs from the nearest remembered step.
//!
//! The parent counts by *content* (the chain of its layers), never by how it was made: a step that
//! comes out the same as before stops the rebuild there. Times, host paths and names of images are
//! in no key.
//!
//! May touch: its arguments. Knows nothing of disk, clock, environment, store.

use serde::{Deserialize, Serialize};
use store::digest::Hasher;
use store::{ChainId, Digest};

/// One thing that a step depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// `parent`, `command`, `env`, `files`, …
    pub name: String,
    pub value: String,
}

/// What a step depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheKey(pub Vec<Component>);

impl CacheKey {
    /// A key of a step of `kind` on top of the files of `parent`.
    pub fn new(kind: &str, parent: Option<ChainId>) -> Self {
        let mut key = Self::default();
        key.add("kind", kind);
        key.add("parent", parent.map_or_else(|| "scratch".to_owned(), |chain| chain.to_string()));
        key
    }

    /// Adds a component.
    pub fn add(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(Component { name: name.to_owned(), value: value.into() });
    }

    /// Adds a list as one component; the items' borders count.
    pub fn add_list(&mut self, name: &str, items: &[String]) {
        self.add(name, serde_json::to_string(items).expect("strings are always JSON"));
    }

    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::new();
        for component in &self.0 {
            for text in [&component.name, &component.value] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
        hasher.finish()
    }

    /// The form that the index keeps.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings are always JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[(&str, &str)]) -> Digest {
        let mut key = CacheKey::new("run", None);
        for (name, value) in parts {
            key.add(name, *value);
        }
        key.digest()
    }

    #[test]
    fn equal_components_give_equal_keys_and_any_change_another() {
        let base = key(&[("command", "make"), ("env", "A=1")]);
        assert_eq!(base, key(&[("command", "make"), ("env", "A=1")]));
        for other in [
            key(&[("command", "make"), ("env", "A=2")]),
            key(&[("command", "makeenv"), ("", "A=1")]),
            key(&[("command", "make")]),
            key(&[("env", "A=1"), ("command", "make")]),
            key(&[("commandmake", ""), ("env", "A=1")]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn the_borders_of_a_list_count() {
        let list = |items: &[&str]| {
            let mut key = CacheKey::new("run", None);
            key.add_list("argv", &items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>());
            key.digest()
        };
        assert_ne!(list(&["a", "b c"]), list(&["a b", "c"]));
    }
}
