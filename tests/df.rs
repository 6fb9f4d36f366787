//! `rbuild df`: what it says can be freed is what prune frees and what `du` sees go.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod shell;

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use shell::{Rbuild, needs};

/// Metadata that no row counts: recipes, folders of layers, the index.
const SLACK_BYTES: u64 = 512 * 1024;

fn rows(rbuild: &Rbuild) -> HashMap<String, Value> {
    let text = rbuild.run(&["df", "--format", "json"]).expect_ok().stdout;
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| (row["Type"].as_str().unwrap().to_owned(), row)).collect()
}

fn reclaimable(rows: &HashMap<String, Value>, kind: &str) -> u64 {
    rows[kind]["RawReclaimable"].as_u64().unwrap()
}

/// The bytes in `Reclaimed 1MB (1000000 bytes): …`.
fn freed(rbuild: &Rbuild, flags: &[&str]) -> u64 {
    let text = rbuild.run(&[&["prune", "-f"], flags].concat()).expect_ok().last_line();
    let (_, behind) = text.split_once('(').unwrap();
    behind.split_once(' ').unwrap().0.parse().unwrap()
}

fn du(folder: &Path) -> u64 {
    let text = shell::host("du", &["-s", "-B1", folder.to_str().unwrap()]).expect_ok().stdout;
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// A store with an image in use, an unused one, a cached layer, a stopped container, and volumes.
fn filled() -> Rbuild {
    let rbuild = Rbuild::with_busybox();
    let run = |tag: &str, command: &str| {
        let text = format!("FROM busybox\nRUN --network=none {command}\n");
        rbuild.build_with(&["-t", tag], &text, &[]).expect_ok();
    };
    run("used", "dd if=/dev/urandom of=/used bs=1M count=3");
    run("unused", "dd if=/dev/urandom of=/unused bs=1M count=5");
    let write = "dd if=/dev/urandom of=/own bs=1M count=2; dd if=/dev/urandom of=/kept/x bs=1M count=1";
    let words = ["run", "--name", "user", "--network", "none", "-v", "kept:/kept", "used", "sh", "-c", write];
    rbuild.run(&words).expect_ok();
    let write = "dd if=/dev/urandom of=/lost/x bs=1M count=4";
    let words = ["run", "--rm", "--network", "none", "-v", "lost:/lost", "used", "sh", "-c", write];
    rbuild.run(&words).expect_ok();
    rbuild
}

#[test]
#[expect(clippy::print_stdout, reason = "the test's own report")]
fn what_df_promises_prune_frees_and_du_sees() {
    if !needs::busybox() {
        return;
    }
    let rbuild = filled();
    // So the cache alone holds the layer of `unused`.
    rbuild.run(&["rmi", "unused"]).expect_ok();
    std::fs::write(rbuild.home().join("spare"), vec![7; 2 << 20]).unwrap();
    let tar = rbuild.path("spare.tar");
    shell::host("tar", &["-cf", &tar, "-C", rbuild.home().to_str().unwrap(), "spare"]).expect_ok();
    rbuild.run(&["import", &tar, "spare"]).expect_ok();
    let checks: [(&[&str], &[&str]); 4] = [
        (&["-a"], &["Images"]),
        (&["-a", "--build-cache"], &["Images", "Build Cache"]),
        (&["-a", "--volumes"], &["Images", "Local Volumes"]),
        (&["-a", "--containers", "--volumes", "--build-cache"], &[]),
    ];
    let mut count = 0;
    for (flags, kinds) in checks {
        let before = rows(&rbuild);
        let dry = rbuild.run(&[&["prune", "--dry-run"], flags].concat()).expect_ok().last_line();
        let disk = du(&rbuild.root());
        let freed = freed(&rbuild, flags);
        assert!(dry.contains(&format!("({freed} bytes)")), "{flags:?}: {dry}, {freed} freed");
        if !kinds.is_empty() {
            let promised: u64 = kinds.iter().map(|kind| reclaimable(&before, kind)).sum();
            assert_eq!(promised, freed, "{flags:?}: {before:?}");
        }
        assert!(freed > 1 << 20, "{flags:?}: {freed}");
        let gone = disk.saturating_sub(du(&rbuild.root()));
        assert!(gone.abs_diff(freed) < SLACK_BYTES, "{flags:?}: {freed} freed, du saw {gone}");
        count += 1;
    }
    let after = rows(&rbuild);
    for (kind, row) in &after {
        assert_eq!(
            (row["RawSize"].as_u64(), row["TotalCount"].as_u64()),
            (Some(0), Some(0)),
            "{kind}: {row}"
        );
    }
    println!("{count} prunes freed what df promised");
}

#[test]
fn what_is_in_use_is_counted_and_not_promised() {
    if !needs::busybox() {
        return;
    }
    let rbuild = filled();
    let rows = rows(&rbuild);
    let number = |kind: &str, key: &str| rows[kind][key].as_u64().unwrap();
    assert_eq!((number("Images", "TotalCount"), number("Images", "Active")), (3, 1));
    assert_eq!((number("Containers", "TotalCount"), number("Containers", "Active")), (1, 0));
    assert_eq!((number("Local Volumes", "TotalCount"), number("Local Volumes", "Active")), (2, 1));
    assert_eq!((number("Build Cache", "TotalCount"), number("Build Cache", "Active")), (2, 2));
    let mega = 1 << 20;
    assert!((8 * mega..20 * mega).contains(&number("Images", "RawSize")), "{rows:?}");
    assert!(number("Images", "RawReclaimable") < mega, "the cache keeps the layer of `unused`: {rows:?}");
    assert!((5 * mega..6 * mega).contains(&number("Build Cache", "RawReclaimable")), "{rows:?}");
    assert!((2 * mega..3 * mega).contains(&number("Containers", "RawReclaimable")), "{rows:?}");
    assert!((4 * mega..5 * mega).contains(&number("Local Volumes", "RawReclaimable")), "{rows:?}");

    let table = rbuild.run(&["df"]).expect_ok();
    let head: Vec<&str> = table.stdout.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    assert!(table.stderr.contains("shared blocks"), "{table}");
    let details = rbuild.run(&["df", "-v"]).expect_ok().stdout;
    for word in ["Images space usage", "UNIQUE SIZE", "kept", "lost", "user", "Build cache space usage"] {
        assert!(details.contains(word), "{word}: {details}");
    }
    let json = rbuild.run(&["df", "-v", "--format", "json"]).expect_ok().stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["Volumes"][0]["VolumeName"], "kept");
    assert_eq!(json["Images"].as_array().unwrap().len(), 3);
    assert_eq!(json["Images"][0]["Repository"], "unused");
}
