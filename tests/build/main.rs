//! `rbuild build`, end to end: a Containerfile and a context go in, the image's files and config are looked at.
//!
//! The tables of each file hold one case a row; [`check`] builds every row and compares.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

#[path = "../shell/mod.rs"]
mod shell;

mod cache;
mod command_line;
mod configure;
mod copy;
mod run;
mod variables;

use std::path::Path;

use serde_json::Value;
use shell::{Rbuild, Saved};

/// One build and what must come out of it.
pub(crate) struct Case {
    /// What is shown, as a sentence.
    name: &'static str,
    flags: &'static [&'static str],
    containerfile: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// Makes what can't be said by name and text: archives, modes.
    prepare: fn(&Path),
    expect: &'static [Expect],
}

impl Case {
    /// A case without flags, files and expectations, to be filled by `..`.
    pub(crate) const EMPTY: Self =
        Self { name: "", flags: &[], containerfile: "", files: &[], prepare: |_| (), expect: &[] };
}

/// Something that must be true of the image. Paths have no leading slash.
#[derive(Debug)]
pub(crate) enum Expect {
    Text(&'static str, &'static str),
    Absent(&'static str),
    Folder(&'static str),
    Link(&'static str, &'static str),
    Mode(&'static str, u32),
    Owner(&'static str, u64, u64),
    /// The part of the image's config under `config`, as JSON.
    Config(&'static str, &'static str),
    /// `config.Env` has this entry.
    Env(&'static str),
    /// `config.Env` has no variable of this name.
    NoEnv(&'static str),
    /// How many layers lie over the base.
    Layers(usize),
}

/// Builds every case on one store and checks what came out.
pub(crate) fn check(cases: &[Case]) {
    if !shell::needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    for case in cases {
        let saved = build(&rbuild, case);
        for expect in case.expect {
            check_one(case, &saved, expect);
        }
    }
}

fn build(rbuild: &Rbuild, case: &Case) -> Saved {
    let context = rbuild.context(case.containerfile, case.files);
    (case.prepare)(&context);
    let mut words = vec!["build"];
    words.extend(case.flags);
    words.push(context.to_str().expect("a path in UTF-8"));
    let built = rbuild.run(&words);
    assert_eq!(built.code, 0, "{}: {built}", case.name);
    rbuild.saved(&built.last_line())
}

fn check_one(case: &Case, saved: &Saved, expect: &Expect) {
    let name = case.name;
    let config = |key: &str| saved.start()[key].clone();
    match *expect {
        Expect::Text(path, text) => assert_eq!(saved.text(path), text, "{name}: the text of `{path}`"),
        Expect::Absent(path) => assert!(!saved.has(path), "{name}: `{path}` must not be there"),
        Expect::Folder(path) => assert_eq!(saved.node(path).kind, 'd', "{name}: `{path}` is a folder"),
        Expect::Link(path, target) => {
            assert_eq!((saved.node(path).kind, &*saved.node(path).target), ('l', target), "{name}: `{path}`");
        }
        Expect::Mode(path, mode) => {
            let found = saved.node(path).mode;
            assert_eq!(found, mode, "{name}: the mode of `{path}` is {found:o}, not {mode:o}");
        }
        Expect::Owner(path, uid, gid) => {
            let node = saved.node(path);
            assert_eq!((node.uid, node.gid), (uid, gid), "{name}: the owner of `{path}`");
        }
        Expect::Config(key, json) => {
            let expected: Value = serde_json::from_str(json).expect("the test's JSON");
            assert_eq!(config(key), expected, "{name}: {key} in {}", saved.config);
        }
        Expect::Env(entry) => {
            let found = config("Env");
            assert!(list(&found).contains(&entry), "{name}: `{entry}` in {found}");
        }
        Expect::NoEnv(variable) => {
            let found = config("Env");
            let named = list(&found).into_iter().find(|entry| entry.split('=').next() == Some(variable));
            assert_eq!(named, None, "{name}: {variable} does not belong into the config");
        }
        Expect::Layers(count) => assert_eq!(saved.layers.len(), count, "{name}: number of layers"),
    }
}

fn list(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}
