//! The Containerfile language, from the outside: goldens, laws, and the table of `${…}`.
//!
//! Each folder of `testdata/containerfiles` holds a file and what it means: `ast.txt` (the tree, then the
//! warnings) or `error.txt`. `UPDATE_GOLDEN=1 cargo test -p builder --test language` rewrites them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use builder::containerfile::{self, Containerfile, CopySource, Diagnostic, Kind, expand};
use builder::context::ignore::IgnoreRules;
use builder::lint;
use proptest::prelude::*;

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/containerfiles");
    let mut cases: Vec<PathBuf> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

/// What a file means, as text, and the name of the golden that holds it.
fn meaning(bytes: &[u8]) -> (&'static str, String) {
    let text = String::from_utf8_lossy(bytes);
    let rendered = |diagnostics: &[Diagnostic]| {
        let all: Vec<String> =
            diagnostics.iter().map(|one| containerfile::render(one, "Containerfile", &text)).collect();
        all.join("\n\n") + "\n"
    };
    match containerfile::parse(bytes) {
        Err(errors) => ("error.txt", rendered(&errors)),
        Ok(file) => match containerfile::validate(&file) {
            errors if errors.is_empty() => ("ast.txt", tree(&file)),
            errors => ("error.txt", rendered(&errors)),
        },
    }
}

fn tree(file: &Containerfile) -> String {
    let mut out = String::new();
    let Containerfile { escape, syntax, check, .. } = file;
    writeln!(out, "escape {escape:?} syntax {syntax:?} check {check:?}").unwrap();
    for instruction in &file.global_args {
        writeln!(out, "{}: {}", instruction.span.line, short(&instruction.kind)).unwrap();
    }
    for (index, stage) in file.stages.iter().enumerate() {
        let (image, platform) = (short(&stage.image), short(&stage.platform));
        writeln!(out, "stage {index} line {} {:?} {image} {platform}", stage.span.line, stage.name).unwrap();
        for instruction in &stage.instructions {
            writeln!(out, "  {}: {:?}", instruction.span.line, instruction.text).unwrap();
            writeln!(out, "     {}", short(&instruction.kind)).unwrap();
        }
    }
    for warning in lint::check(file) {
        let rule = warning.rule.unwrap_or("no rule");
        writeln!(out, "{}: {rule}: {} ({})", warning.span.line, warning.message, warning.label).unwrap();
    }
    out
}

/// The debug form, with `@start..end` for a span.
fn short(value: &impl std::fmt::Debug) -> String {
    let long = format!("{value:?}");
    let mut parts = long.split(", span: Span { start: ");
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        let (numbers, rest) = part.split_once(" }").unwrap();
        let (start, behind) = numbers.split_once(", end: ").unwrap();
        write!(out, " @{start}..{}{rest}", behind.split_once(',').unwrap().0).unwrap();
    }
    out
}

#[test]
fn every_golden_file_means_what_it_says() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    let cases = cases();
    for case in &cases {
        let (name, actual) = meaning(&fs::read(case.join("Containerfile")).unwrap());
        let other = case.join(if name == "ast.txt" { "error.txt" } else { "ast.txt" });
        if update {
            fs::write(case.join(name), &actual).unwrap();
            drop(fs::remove_file(other));
        } else if other.exists()
            || fs::read_to_string(case.join(name)).ok().as_deref() != Some(actual.as_str())
        {
            wrong.push(format!("{}\n{actual}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    let bad = cases.iter().filter(|case| case.join("error.txt").exists()).count();
    assert!(cases.len() - bad >= 25 && bad >= 15, "{bad} of {} are mistakes", cases.len());
}

#[test]
fn a_bad_case_is_called_bad_and_only_a_bad_case_is() {
    for case in cases() {
        let is_bad = case.file_name().unwrap().to_string_lossy().starts_with("bad-");
        let (name, _) = meaning(&fs::read(case.join("Containerfile")).unwrap());
        assert_eq!(name == "error.txt", is_bad, "{}", case.display());
    }
}

#[test]
fn a_trigger_is_read_like_the_instruction_it_holds() {
    for text in
        ["RUN a b", "COPY --from=x a /b", "RUN <<E\necho\nE", "ENV a=b c=d", "COPY <<-E /x\n\tbody\nE"]
    {
        let file = containerfile::parse(format!("FROM scratch\nONBUILD {text}\n").as_bytes()).unwrap();
        let Kind::OnBuild(trigger) = &file.stages[0].instructions[0].kind else { panic!("no trigger") };
        assert_eq!(trigger, text);
        assert_eq!(containerfile::parse_instruction(trigger), containerfile::parse_instruction(text));
        assert!(containerfile::parse_instruction(trigger).is_ok());
    }
    for bad in ["", "# nothing", "FROM a", "RNU a", "RUN a\nRUN b", "COPY a"] {
        assert!(containerfile::parse_instruction(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_large_file_is_read_in_linear_time_and_a_huge_one_not_at_all() {
    let started = std::time::Instant::now();
    for line in
        ["RUN a \\\n", "ENV a=\"b c\" \\\n", "# comment\n", "ENV a=$b\n", "COPY [\"a\", \"b\"]\n", "\\\n"]
    {
        let text = ["FROM scratch\n", &line.repeat(200_000)].concat();
        drop(containerfile::parse(text.as_bytes()));
    }
    // Quadratic work on these sizes takes minutes.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    assert!(containerfile::parse(&vec![b'#'; 5 << 20]).is_err());
}

fn value(name: &str) -> Option<String> {
    let value = match name {
        "PWD" => "/home",
        "EMPTY" => "",
        "FILE" => "a/b/c.tar.gz",
        "STARS" => "*a*",
        "LINES" => "a\nb",
        "BLANKS" => "one two",
        _ => return None,
    };
    Some(value.to_owned())
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn words_get_their_values() {
    let table = [
        ("hello", "hello"),
        ("he'll'o", "hello"),
        ("he\"ll\"o", "hello"),
        (r"he\'llo", "he'llo"),
        (r"a\nb", "anb"),
        (r#""a\nb""#, r"a\nb"),
        (r#""a\"b""#, "a\"b"),
        (r#""a\\b""#, r"a\b"),
        (r"'a\b'", r"a\b"),
        ("a\\", "a"),
        ("$PWD", "/home"),
        ("${PWD}x", "/homex"),
        ("$PWDx", ""),
        ("'$PWD'", "$PWD"),
        ("\"$PWD\"", "/home"),
        (r"\$PWD", "$PWD"),
        (r#""\$PWD""#, "$PWD"),
        ("$", "$"),
        ("a$", "a$"),
        ("$/x", "$/x"),
        ("$1", ""),
        ("$12x", "x"),
        ("$@y", "y"),
        ("$$", ""),
        ("${1}", ""),
        ("\"$\"", "$"),
        ("$é", ""),
        ("${X-d}", "d"),
        ("${X:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${EMPTY:-d}", "d"),
        ("${PWD:-d}", "/home"),
        ("${X+d}", ""),
        ("${EMPTY+d}", "d"),
        ("${EMPTY:+d}", ""),
        ("${PWD:+d}", "d"),
        ("${PWD?no}", "/home"),
        ("${EMPTY?no}", ""),
        ("${X:-${Y:-z}}", "z"),
        ("${X:-$PWD}", "/home"),
        ("${X:-'}'}", "}"),
        (r"${X:-\}}", "}"),
        ("${X:-\"a b\"}", "a b"),
        ("${FILE#*/}", "b/c.tar.gz"),
        ("${FILE##*/}", "c.tar.gz"),
        ("${FILE%.*}", "a/b/c.tar"),
        ("${FILE%%.*}", "a/b/c"),
        ("${FILE#x}", "a/b/c.tar.gz"),
        ("${FILE#?}", "/b/c.tar.gz"),
        ("${FILE%}", "a/b/c.tar.gz"),
        ("${FILE##*}", ""),
        ("${FILE%%*}", ""),
        (r"${STARS#\*}", "a*"),
        (r"${STARS%\*}", "*a"),
        ("${X#a}", ""),
        ("${FILE/b/x}", "a/x/c.tar.gz"),
        ("${FILE//./-}", "a/b/c-tar-gz"),
        (r"${FILE//\//_}", "a_b_c.tar.gz"),
        ("${FILE/a*c/x}", "x.tar.gz"),
        ("${FILE//?./_}", "a/b/_ta_gz"),
        ("${FILE/x/y}", "a/b/c.tar.gz"),
        ("${PWD/home/$FILE}", "/a/b/c.tar.gz"),
        (r"${STARS//\*/+}", "+a+"),
        ("${LINES%%?}", "a\n"),
        ("${LINES##*}", "\nb"),
        ("${EMPTY//*/x}", "x"),
        ("a b", "a b"),
        ("한국어$PWD", "한국어/home"),
    ];
    for (word, expected) in table {
        assert_eq!(expand::word(word, '\\', &value).as_deref(), Ok(expected), "{word}");
    }
    let bad = [
        "'",
        "\"",
        "a'b",
        "\"a\\\"",
        "${",
        "${X",
        "${}",
        "${:}",
        "${{X}",
        "${X:x}",
        "${X=a}",
        "${X:#a}",
        "${X:%a}",
        "${X^}",
        "${X-a",
        "${X/a}",
        "${X/a/b",
        "${X?}",
        "${X:?no}",
        "${EMPTY:?}",
        r"${PWD#\a}",
        "${X-\"}",
    ];
    for word in bad {
        assert!(expand::word(word, '\\', &value).is_err(), "{word}: {:?}", expand::word(word, '\\', &value));
    }
    let messages = [
        ("${X?}", "X: is not allowed to be unset"),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
        ("${X:?say $PWD}", "X: say /home"),
        ("${X", "syntax error: missing '}'"),
    ];
    for (word, message) in messages {
        assert_eq!(expand::word(word, '\\', &value).unwrap_err().to_string(), message, "{word}");
    }
}

#[test]
fn the_escape_directive_changes_what_escapes_in_words() {
    for (word, expected) in
        [("`$PWD", "$PWD"), (r"\$PWD", r"\/home"), ("\"`\"a\"", "\"a"), (r"c:\x", r"c:\x")]
    {
        assert_eq!(expand::word(word, '`', &value).as_deref(), Ok(expected), "{word}");
    }
}

#[test]
fn only_unquoted_results_are_split_at_blanks() {
    let table: &[(&str, &[&str])] = &[
        ("$BLANKS three", &["one", "two", "three"]),
        ("\"$BLANKS\" three", &["one two", "three"]),
        (r"a\ b c", &["a b", "c"]),
        ("  a  b  ", &["a", "b"]),
        ("x${BLANKS}y", &["xone", "twoy"]),
        ("$EMPTY", &[]),
        ("''", &[]),
        ("", &[]),
    ];
    for (text, expected) in table {
        let expected: Vec<String> = expected.iter().map(|&word| word.to_owned()).collect();
        assert_eq!(expand::words(text, '\\', &value), Ok(expected), "{text}");
    }
}

#[test]
fn a_heredoc_keeps_its_quotes_and_loses_its_backslashes() {
    let table = [
        ("'$PWD' \"x\"\n", "'/home' \"x\"\n"),
        ("\\$PWD\n", "$PWD\n"),
        ("\\\n", "\n"),
        ("\\\\\n", "\\\n"),
        ("it's ${X:-fine}", "it's fine"),
    ];
    for (text, expected) in table {
        assert_eq!(expand::heredoc(text, &value).as_deref(), Ok(expected), "{text}");
    }
}

/// Pieces that Containerfiles are made of, good and bad.
fn scraps() -> impl Strategy<Value = Vec<u8>> {
    let scrap = prop_oneof![
        proptest::sample::select(
            [
                "FROM ",
                "scratch",
                "RUN ",
                "COPY ",
                "ADD ",
                "ENV ",
                "ARG ",
                "ONBUILD ",
                "HEALTHCHECK ",
                "SHELL ",
                "EXPOSE ",
                "VOLUME ",
                "LABEL ",
                "CMD ",
                "\n",
                "\r\n",
                "\\\n",
                "\\",
                "`",
                "# ",
                "# escape=`\n",
                "<<E",
                "<<-\"E\"",
                "E\n",
                " ",
                "\t",
                "\"",
                "'",
                "[",
                "]",
                "[\"a\"",
                ",",
                "=",
                "a",
                "é",
                "--from=",
                "--link",
                "--",
                "$",
                "${",
                "}",
                ":-",
                "/",
                "#",
                "%",
                "1m",
                "AS ",
                "\u{feff}",
                "\u{a0}",
                "0",
                "CMD",
                "NONE",
            ]
            .map(|scrap| scrap.as_bytes().to_vec())
            .to_vec()
        ),
        proptest::collection::vec(any::<u8>(), 0..4),
    ];
    proptest::collection::vec(scrap, 0..60).prop_map(|scraps| scraps.concat())
}

/// Plain model of the ignore rules: every rule is asked at every level by backtracking over characters.
fn plainly_ignored(rules: &[(bool, String)], path: &str) -> bool {
    let mut above = vec![false; rules.len()];
    let mut verdict = false;
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for end in ends {
        verdict = false;
        for (at, (exception, pattern)) in rules.iter().enumerate() {
            if !above[at] && *exception == verdict {
                let pattern: Vec<char> = pattern.chars().collect();
                let path: Vec<char> = path[..end].chars().collect();
                above[at] = fits(&pattern, &path);
            }
            if above[at] {
                verdict = !exception;
            }
        }
    }
    verdict
}

fn fits(pattern: &[char], path: &[char]) -> bool {
    match pattern {
        [] => path.is_empty(),
        ['*', '*'] | ['*', '*', '/'] => true,
        ['*', '*', rest @ ..] => {
            let rest = rest.strip_prefix(&['/']).unwrap_or(rest);
            let literal = !rest.iter().any(|character| "*?".contains(*character));
            fits(rest, path) || (0..path.len()).any(|at| path[at] == '/' && fits(rest, &path[at + 1..])) || {
                // `**a` at a pattern's front compares only the end.
                pattern.get(2) != Some(&'/')
                    && literal
                    && rest.len() == pattern.len() - 2
                    && path.ends_with(rest)
                    && FRONT.get()
            }
        }
        ['*', rest @ ..] => {
            let free = path.iter().position(|&character| character == '/').unwrap_or(path.len());
            (0..=free).any(|taken| inner(rest, &path[taken..]))
        }
        ['?', rest @ ..] => path.first().is_some_and(|&first| first != '/') && inner(rest, &path[1..]),
        [first, rest @ ..] => path.first() == Some(first) && inner(rest, &path[1..]),
    }
}

thread_local! {
    static FRONT: std::cell::Cell<bool> = const { std::cell::Cell::new(true) };
}

/// As [`fits`], behind a pattern's front.
fn inner(pattern: &[char], path: &[char]) -> bool {
    let before = FRONT.replace(false);
    let result = fits(pattern, path);
    FRONT.set(before);
    result
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_parser_panic(text in scraps()) {
        let shown = String::from_utf8_lossy(&text);
        let check = |diagnostics: &[Diagnostic]| {
            for one in diagnostics {
                assert!(one.span.start <= one.span.end && one.span.end <= shown.len(), "{one:?}");
                assert!(!containerfile::render(one, "f", &shown).is_empty());
            }
        };
        match containerfile::parse(&text) {
            Ok(file) => { check(&lint::check(&file)); check(&containerfile::validate(&file)); }
            Err(errors) => { prop_assert!(!errors.is_empty()); check(&errors); }
        }
    }

    #[test]
    fn words_keep_their_text_and_place_wherever_lines_are_broken(
        words in proptest::collection::vec(("[a-zé/.]{1,6}", proptest::sample::select(vec![" ", "  ", " \\\n ", " \\\r\n# note\n\t"])), 2..8)
    ) {
        let mut text = "FROM scratch\nCOPY ".to_owned();
        for (word, gap) in &words {
            text.push_str(word);
            text.push_str(gap);
        }
        text.push_str("/end\n");
        let file = containerfile::parse(text.as_bytes()).unwrap();
        let Kind::Copy(copy) = &file.stages[0].instructions[0].kind else { panic!("no COPY") };
        prop_assert_eq!(copy.sources.len(), words.len());
        for (source, (word, _)) in copy.sources.iter().zip(&words) {
            let CopySource::Path(found) = source else { panic!("no path") };
            prop_assert_eq!(&found.text, word);
            prop_assert_eq!(&text[found.span.start..found.span.end], word.as_str());
            prop_assert_eq!(text[..found.span.start].matches('\n').count() + 1, found.span.line);
        }
    }

    #[test]
    fn ignore_rules_agree_with_the_plain_model(
        rules in proptest::collection::vec((any::<bool>(), "(\\*\\*/|\\*\\*)?[ab?*]{1,2}(/[ab*]{1,2}|/\\*\\*/[ab]|/\\*\\*){0,2}"), 1..6),
        path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
    ) {
        let lines: Vec<String> = rules.iter().map(|(exception, pattern)| [if *exception { "!" } else { "" }, pattern].concat()).collect();
        let text = lines.join("
");
        let compiled = IgnoreRules::parse(text.as_bytes()).unwrap();
        let ignored = compiled.verdict(path.as_bytes()).ignored;
        prop_assert_eq!(ignored, plainly_ignored(&rules, &path), "{:?} {}", text, path);
        // Whatever comes back below an ignored folder must have been announced.
        if let Some((folder, _)) = path.rsplit_once('/')
            && compiled.verdict(folder.as_bytes()).ignored && !ignored {
            prop_assert!(compiled.may_hold_exceptions(folder.as_bytes()), "{:?} {}", text, path);
        }
    }

    #[test]
    fn no_ignore_file_and_no_path_makes_the_rules_panic(text in proptest::collection::vec(any::<u8>(), 0..40), path in proptest::collection::vec(any::<u8>(), 0..20)) {
        if let Ok(rules) = IgnoreRules::parse(&text) {
            let verdict = rules.verdict(&path);
            prop_assert!(verdict.line.is_some() || !verdict.ignored);
            rules.may_hold_exceptions(&path);
        }
    }
}

#[test]
fn a_hundred_thousand_paths_meet_two_hundred_rules_quickly() {
    let mut text = String::new();
    for n in 0..40 {
        writeln!(text, "target{n}\n**/node_modules{n}\n*.ext{n}\n**/*.tmp{n}\nsrc/**/gen{n}/*.rs").unwrap();
    }
    let rules = IgnoreRules::parse(text.as_bytes()).unwrap();
    let paths: Vec<String> =
        (0..100_000).map(|n| format!("src/module{}/part{}/file{n}.rs", n % 97, n % 31)).collect();
    let started = std::time::Instant::now();
    let ignored = paths.iter().filter(|path| rules.verdict(path.as_bytes()).ignored).count();
    let taken = started.elapsed();
    assert_eq!(ignored, 0);
    // The aim is 0.1 s in a release build; this bound only tells work that grows from work that doesn't.
    assert!(taken.as_secs() < 5, "{taken:?}");
}
