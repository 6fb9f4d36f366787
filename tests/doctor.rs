//! `rbuild doctor`: tells what the machine can do, touches nothing, and its status says whether that is enough.

mod shell;

use serde_json::Value;
use shell::Rbuild;

#[test]
fn both_forms_tell_the_same_and_the_store_stays_closed() {
    let rbuild = Rbuild::new();
    let table = rbuild.run(&["doctor"]);
    let json = rbuild.run(&["doctor", "--format", "json"]);
    assert!(!rbuild.root().exists(), "asking makes nothing");

    let findings: Vec<Value> = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(table.stdout.lines().count(), findings.len() + 1, "one line each below the head");
    for (line, finding) in table.stdout.lines().skip(1).zip(&findings) {
        let present = finding["present"].as_bool().unwrap();
        assert!(line.starts_with(finding["name"].as_str().unwrap()), "{line}");
        assert_eq!(line.contains("missing"), !present, "{line}");
        assert_eq!(finding["mend"].is_string(), !present, "what is missing can be mended: {finding}");
    }
    let unfit = findings.iter().any(|finding| finding["essential"] == true && finding["present"] == false);
    table.expect_code(i32::from(unfit));
    json.expect_code(i32::from(unfit));
}
