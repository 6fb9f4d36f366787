//! `rbuild history`: how an image was made, newest step first.

mod shell;

use serde_json::Value;
use shell::{Rbuild, needs};

#[test]
fn steps_are_told_with_the_size_of_their_layers() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let long = format!("FROM busybox\nCOPY a /a\nENV LONG={}\n", "x".repeat(100));
    rbuild.build_with(&["-t", "app"], &long, &[("a", &"text".repeat(10_000))]).expect_ok();
    let id = rbuild.run(&["images", "-q", "app"]).expect_ok().last_line();
    let json =
        rbuild.run(&["history", "--format", "json", "--no-trunc", "--human=false", "app"]).expect_ok().stdout;
    let steps: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps.len(), 3, "{json}");
    assert!(steps[0]["CreatedBy"].as_str().unwrap().starts_with("ENV LONG=xxx"));
    assert_eq!(steps[0]["Size"], "0");
    assert!(steps[1]["CreatedBy"].as_str().unwrap().starts_with("COPY"));
    assert!(steps[1]["Size"].as_str().unwrap().parse::<u64>().unwrap() > 40_000);
    assert!(steps[2]["Comment"].as_str().unwrap().starts_with("Imported from"));

    let size = |step: usize| steps[step]["Size"].as_str().unwrap();

    let table = rbuild.run(&["history", "app"]).expect_ok().stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    );
    assert!(lines[1].starts_with(&id) && lines[1].contains('…'), "{table}");
    assert!(lines[2].starts_with("<missing>"), "{table}");
    rbuild.run(&["history", "-q", "app"]).expect_ok().expect_stdout(&format!("{id}\n<missing>\n<missing>\n"));
    rbuild
        .run(&["history", "--format", "{{.ID}} {{.Size}}", "--human=false", "app"])
        .expect_ok()
        .expect_stdout(&format!("{id} 0\n<missing> {}\n<missing> {}\n", size(1), size(2)));
    rbuild.run(&["history", "nowhere"]).expect_error(&["nowhere"]);
}
