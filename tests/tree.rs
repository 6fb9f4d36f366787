//! `rbuild tree`: which images share which layers.

mod shell;

use serde_json::Value;
use shell::{Rbuild, needs};

#[test]
fn images_hang_below_the_layers_that_they_share() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let build = |tag: &str, text: &str, file: &str| {
        rbuild.build_with(&["-t", tag], text, &[("a", file)]).expect_ok();
    };
    build("one", "FROM busybox\nCOPY a /a\n", "1");
    build("two", "FROM one\nCOPY a /b\n", "2");
    rbuild.run(&["tag", "two", "too"]).expect_ok();

    let text = rbuild.run(&["tree"]).expect_ok().stdout;
    let shape: Vec<String> = text
        .lines()
        .map(|line| match line.split_once("layer ") {
            Some((before, _)) => format!("{before}layer"),
            None => line.to_owned(),
        })
        .collect();
    let expected = [
        "layer",
        "├── busybox:latest",
        "└── layer",
        "    ├── one:latest",
        "    └── layer",
        "        └── two:latest, too:latest",
    ];
    assert_eq!(shape, expected, "{text}");

    let json = rbuild.run(&["tree", "--format", "json"]).expect_ok().stdout;
    let rows: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let counts: Vec<usize> = rows.iter().map(|row| row["Images"].as_array().unwrap().len()).collect();
    assert_eq!(counts, [3, 2, 1]);
    assert!(rows[0]["Size"].as_u64().unwrap() > rows[1]["Size"].as_u64().unwrap());

    let alone = rbuild.run(&["tree", "one"]).expect_ok().stdout;
    assert!(alone.contains("one:latest") && !alone.contains("busybox"), "{alone}");
    let whole = rbuild.run(&["tree", "--no-trunc", "busybox"]).expect_ok().stdout;
    assert!(whole.starts_with("layer sha256:"), "{whole}");
    rbuild.run(&["tree", "nowhere"]).expect_error(&["nowhere"]);
}

#[test]
fn an_empty_store_has_an_empty_tree() {
    let rbuild = Rbuild::new();
    assert_eq!(rbuild.run(&["tree"]).expect_ok().stdout, "");
}
