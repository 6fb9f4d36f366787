//! `rbuild images`: names, IDs, filters, forms.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod shell;

use serde_json::Value;
use shell::{Rbuild, needs};

/// A store with `busybox:latest`, the same image as `me/app:1` and `me/app:2`, and an image without a name.
fn rbuild() -> Option<(Rbuild, String, String)> {
    if !needs::busybox() {
        return None;
    }
    let rbuild = Rbuild::with_busybox();
    rbuild.run(&["tag", "busybox", "me/app:1", "me/app:2"]).expect_ok();
    let named = rbuild.run(&["images", "-q", "busybox"]).expect_ok().last_line();
    let tar = shell::base::busybox_base();
    let change = ["import", "--change", "LABEL kind=nameless", tar.to_str().unwrap()];
    let nameless = rbuild.run(&change).expect_ok().last_line();
    Some((rbuild, named, nameless["sha256:".len()..][..12].to_owned()))
}

#[test]
fn the_table_has_docker_s_columns_and_the_newest_image_first() {
    let Some((rbuild, named, nameless)) = rbuild() else { return };
    let table = rbuild.run(&["images"]).expect_ok().stdout;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(rows[0], ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    assert_eq!(rows[1][..3], ["<none>", "<none>", &nameless]);
    assert_eq!(rows[2][..3], ["busybox", "latest", &named]);
    assert_eq!(rows[3][..3], ["me/app", "1", &named]);
    assert_eq!(rows.len(), 5);
    assert!(rows[1][3].ends_with("ago") && rows[1][4].ends_with("MB"), "{:?}", rows[1]);
    let digests = rbuild.run(&["images", "--digests"]).expect_ok().stdout;
    assert!(digests.lines().next().unwrap().contains("DIGEST"));
}

#[test]
fn filters_names_and_ids_choose() {
    let Some((rbuild, named, nameless)) = rbuild() else { return };
    let ids = |words: &[&str]| rbuild.run(&[&["images", "-q"], words].concat()).expect_ok().stdout;
    assert_eq!(ids(&[]), format!("{nameless}\n{named}\n"), "each image once");
    assert_eq!(ids(&["--filter", "dangling=true"]), format!("{nameless}\n"));
    assert_eq!(ids(&["--filter", "dangling=false"]), format!("{named}\n"));
    assert_eq!(ids(&["--filter", "label=kind=nameless"]), format!("{nameless}\n"));
    assert_eq!(ids(&["--filter", "label=kind=other"]), "");
    assert_eq!(ids(&["--filter", "reference=me/*:2"]), format!("{named}\n"));
    assert_eq!(ids(&["me/app"]), format!("{named}\n"));
    assert_eq!(ids(&["docker.io/me/app:1"]), format!("{named}\n"));
    assert_eq!(ids(&["nowhere"]), "");
    let whole = ids(&["--no-trunc", "busybox"]);
    assert!(whole.starts_with(&format!("sha256:{named}")) && whole.trim().len() == 71, "{whole}");
    assert_eq!(ids(&["--filter", "label!=kind"]), format!("{named}\n"));
    rbuild.run(&["images", "--filter", "colour=red"]).expect_error(&["colour=red", "dangling"]);
    rbuild.run(&["images", "--format", "xml"]).expect_code(2);
}

#[test]
fn json_is_one_object_a_line() {
    let Some((rbuild, named, _)) = rbuild() else { return };
    let text = rbuild.run(&["images", "--format", "json", "me/app:2"]).expect_ok().stdout;
    let row: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(row["Repository"], "me/app");
    assert_eq!(row["Tag"], "2");
    assert_eq!(row["ID"], named);
    assert_eq!((&row["SharedSize"], &row["UniqueSize"]), (&row["Size"], &Value::from("0B")), "{row}");
    assert_eq!(rbuild.run(&["images", "--format", "json"]).expect_ok().stdout.lines().count(), 4);
}

#[test]
fn templates_choose_fields() {
    let Some((rbuild, named, _)) = rbuild() else { return };
    let by = |form: &str| rbuild.run(&["images", "--format", form, "me/app:2"]);
    by("{{.ID}} {{.Repository}}:{{.Tag}}").expect_ok().expect_stdout(&format!("{named} me/app:2\n"));
    by(r"table {{.Tag}}\t{{.ID}}").expect_ok().expect_stdout(&format!("TAG   ID\n2     {named}\n"));
    by("{{json .Tag}}").expect_ok().expect_stdout("\"2\"\n");
    by("{{.Colour}}").expect_error(&["Colour", "Repository"]);
    by("{{range .}}").expect_code(2);
}

#[test]
fn times_choose_what_is_older_and_newer() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    for (name, seconds) in [("old", "1000"), ("middle", "2000"), ("new", "3000")] {
        let context = rbuild.context("FROM busybox\nARG N\nLABEL n=$N\n", &[]);
        let mut command = rbuild.command(&["build", "-t", name, "--build-arg", &format!("N={name}")]);
        command.arg(context).env("SOURCE_DATE_EPOCH", seconds);
        shell::run(command, b"").expect_ok();
    }
    rbuild.run(&["rmi", "busybox"]).expect_ok();
    let names = |filter: &str| {
        let words = ["images", "--filter", filter, "--format", "{{.Repository}}"];
        rbuild.run(&words).expect_ok().stdout.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names("before=middle"), ["old"]);
    assert_eq!(names("since=middle"), ["new"]);
    assert_eq!(names("until=1970-01-01T00:50:00Z"), ["middle", "old"]);
    assert_eq!(names("until=24h"), ["new", "middle", "old"]);
    rbuild.run(&["images", "--filter", "before=nothing"]).expect_error(&["nothing"]);
    rbuild.run(&["images", "--filter", "until=soon"]).expect_error(&["soon", "RFC 3339"]);
}
