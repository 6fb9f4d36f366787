//! Guards the shape of the house: arrows between crates, what may stand where, names, and lists that must be true.
//!
//! May touch: the sources as text, `cargo metadata`. Knows nothing of what the code does.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The one file that may hold `unsafe` and call the C library.
const UNSAFE_ROOM: &str = "runner/src/sandbox/sys.rs";

/// A source file: its path from the root, all its lines, and the code above its unit tests without comments.
struct Source {
    path: String,
    text: String,
    code: Vec<(usize, String)>,
}

#[test]
fn no_arrow_between_crates_points_back() {
    let words = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let told = Command::new(env!("CARGO")).args(words).current_dir(ROOT).output().unwrap();
    let metadata: Value = serde_json::from_slice(&told.stdout).unwrap();
    let allowed: [(&str, &[&str]); 4] = [
        ("store", &[]),
        ("runner", &["store"]),
        ("builder", &["store", "runner"]),
        ("rbuild", &["store", "runner", "builder"]),
    ];
    let ours: BTreeSet<&str> = allowed.iter().map(|(name, _)| *name).collect();
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), allowed.len(), "a new crate needs its place in the chain");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let (_, may) = allowed.iter().find(|(crate_name, _)| *crate_name == name).unwrap();
        let needs = package["dependencies"].as_array().unwrap().iter();
        for needed in
            needs.map(|needed| needed["name"].as_str().unwrap()).filter(|needed| ours.contains(needed))
        {
            assert!(may.contains(&needed), "{name} must not depend on {needed}");
        }
    }
}

#[test]
fn words_stand_only_in_the_rooms_that_may_use_them() {
    let rules: [(&[&str], &[&str]); 5] = [
        (&["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "allow(unsafe_code"], &[UNSAFE_ROOM]),
        (&["libc::"], &[UNSAFE_ROOM]),
        (&["println!", "print!", "eprintln!", "eprint!", "dbg!"], &["src/output.rs"]),
        (&["env::var", "env::args", "env::current_dir", "env::temp_dir", "env::home_dir"], &["src/"]),
        (&["Command::new"], &["runner/src/sandbox/", "runner/src/network/"]),
    ];
    let mut wrong = Vec::new();
    for source in sources(&["src", "store/src", "runner/src", "builder/src"]) {
        for (words, rooms) in rules {
            if rooms.iter().any(|room| source.path.starts_with(room)) {
                continue;
            }
            let found = source.code.iter().filter(|(_, line)| words.iter().any(|word| has_word(line, word)));
            wrong.extend(found.map(|(number, line)| format!("{}:{number}: {}", source.path, line.trim())));
        }
    }
    assert!(wrong.is_empty(), "these words belong elsewhere:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_first_what_it_is_and_has_a_telling_name() {
    const NO_NAMES: [&str; 7] = ["utils", "util", "common", "helpers", "types", "misc", "manager"];
    let folders = ["src", "store", "runner", "builder", "tests"];
    for Source { path, text, .. } in sources(&folders) {
        assert!(text.starts_with("//! "), "{path} does not start with `//!`");
        let stem = Path::new(&path).file_stem().unwrap().to_str().unwrap();
        assert!(!NO_NAMES.contains(&stem), "{path}: a name that says nothing");
        let folder = Path::new(&path).parent().unwrap().file_name().unwrap().to_str().unwrap();
        assert!(!stem.starts_with(&format!("{folder}_")), "{path} repeats its folder");
    }
}

#[test]
fn a_function_fits_on_a_screen() {
    const MOST_LINES: usize = 70;
    let mut long = Vec::new();
    for Source { path, text, .. } in sources(&["src", "store/src", "runner/src", "builder/src"]) {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate().filter(|(_, line)| starts_function(line)) {
            let end = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
            let length = lines[start..].iter().position(|line| *line == end).unwrap_or(0) + 1;
            if length > MOST_LINES {
                long.push(format!("{path}:{}: {length} lines", start + 1));
            }
        }
    }
    assert!(long.is_empty(), "these functions are longer than {MOST_LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn every_command_has_its_tests() {
    let list = fs::read_to_string(Path::new(ROOT).join("src/commands/mod.rs")).unwrap();
    let list = list.split("\ncommands! {").nth(1).unwrap().split("\n}").next().unwrap();
    let commands: Vec<&str> =
        list.lines().filter_map(|line| line.trim().split_once(" = ")?.1.strip_suffix(',')).collect();
    assert!(!commands.is_empty(), "`commands!` lists `Variant = module,`");
    for name in commands {
        let places = [format!("tests/{name}.rs"), format!("tests/{name}/main.rs")];
        let tested = places.iter().any(|place| Path::new(ROOT).join(place).exists());
        assert!(tested, "`rbuild {name}` has no {}", places[0]);
    }
}

#[test]
fn every_example_is_listed_and_says_what_it_prints() {
    let list = fs::read_to_string(Path::new(ROOT).join("Containerfile-examples/README.md")).unwrap();
    let folders = fs::read_dir(Path::new(ROOT).join("Containerfile-examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut count = 0;
    for folder in folders.filter(|path| path.is_dir()) {
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(
            list.contains(&format!("| [{name}]({name}/Containerfile) |")),
            "{name} has no row in the list"
        );
        for file in ["Containerfile", "expect.txt"] {
            assert!(folder.join(file).is_file(), "{name} has no {file}");
        }
        count += 1;
    }
    assert_eq!(list.matches("/Containerfile) |").count(), count, "a row for each example and no other");
}

#[test]
fn the_top_level_holds_what_the_architecture_names() {
    // Cargo and rustfmt decide where these stand.
    const BY_TOOLS: [&str; 3] = ["Cargo.lock", "rustfmt.toml", "target"];
    let plan = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).unwrap();
    for entry in fs::read_dir(ROOT).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_named =
            plan.split(|c: char| !(c.is_alphanumeric() || "._-".contains(c))).any(|word| word == name);
        let hidden = name.starts_with('.');
        assert!(hidden || BY_TOOLS.contains(&&*name) || is_named, "ARCHITECTURE.md does not name `{name}`");
    }
}

#[test]
fn every_word_of_the_glossary_is_used() {
    let glossary = fs::read_to_string(Path::new(ROOT).join("docs/glossary.md")).unwrap();
    let words = glossary.lines().filter_map(|line| line.strip_prefix("**")?.split_once("**"));
    let words: Vec<String> = words.map(|(word, _)| word.to_lowercase()).collect();
    assert!(words.len() >= 10, "the glossary lists its words as `**word**` at the start of a line");
    let code = sources(&["src", "store/src", "runner/src", "builder/src"]);
    for word in words {
        let joined = [word.replace(' ', "_"), word.replace(' ', "")];
        let used = |source: &Source| {
            let text = source.text.to_lowercase();
            text.contains(&word) || joined.iter().any(|form| text.contains(form))
        };
        assert!(code.iter().any(used), "nothing in the code is called `{word}`");
    }
}

fn starts_function(line: &str) -> bool {
    let mut words = line.trim_start().split(' ');
    let before = ["pub", "pub(crate)", "pub(super)", "const", "unsafe", "extern", "\"C\""];
    words.find(|word| !before.contains(word)) == Some("fn") && !line.trim_end().ends_with(';')
}

/// Whether `word` stands in `line` and is not the end of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let starts_name = |at: usize| line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| !starts_name(at))
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let paths = folders.iter().flat_map(|folder| below(folder));
    paths.filter(|path| Path::new(path).extension().is_some_and(|end| end == "rs")).map(read_source).collect()
}

fn read_source(path: String) -> Source {
    let text = fs::read_to_string(Path::new(ROOT).join(&path)).unwrap();
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").enumerate();
    let code = lines.filter(|(_, line)| !line.trim_start().starts_with("//"));
    let code = code.map(|(number, line)| (number + 1, line.to_owned())).collect();
    Source { path, text, code }
}

/// Every file below a folder, as paths from the root.
fn below(folder: &str) -> Vec<String> {
    let walk = walkdir::WalkDir::new(Path::new(ROOT).join(folder)).sort_by_file_name();
    let files = walk.into_iter().map(|entry| entry.unwrap()).filter(|entry| entry.file_type().is_file());
    let paths = files
        .map(walkdir::DirEntry::into_path)
        .filter(|path| !path.components().any(|part| part.as_os_str() == "target"));
    paths.map(|path: PathBuf| path.strip_prefix(ROOT).unwrap().to_str().unwrap().to_owned()).collect()
}
