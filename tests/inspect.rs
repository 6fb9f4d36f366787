//! `rbuild inspect`: docker's keys, whole or one by one.

mod shell;

use serde_json::{Value, json};
use shell::{Rbuild, needs};

#[test]
fn an_image_is_described_in_docker_s_words() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let text = rbuild.run(&["inspect", "busybox", "busybox:latest"]).expect_ok().stdout;
    let inspected: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(inspected.as_array().unwrap().len(), 2);
    let image = &inspected[0];
    for key in [
        "Id",
        "RepoTags",
        "RepoDigests",
        "Parent",
        "Comment",
        "Created",
        "Config",
        "Architecture",
        "Os",
        "Size",
        "RootFS",
        "Metadata",
    ] {
        assert!(image.get(key).is_some(), "{key}");
    }
    assert_eq!(image["RepoTags"], json!(["busybox:latest"]));
    assert_eq!(image["Config"]["Cmd"], json!(["/bin/sh"]));
    assert_eq!(image["Config"]["Entrypoint"], Value::Null);
    assert_eq!(image["RootFS"]["Type"], "layers");
    assert!(image["Size"].as_u64().unwrap() > 100_000);

    let field = |format: &str| rbuild.run(&["inspect", "--format", format, "busybox"]).expect_ok().stdout;
    assert_eq!(field("Config.Cmd"), "[\"/bin/sh\"]\n");
    assert_eq!(field("{{.Id}}"), format!("{}\n", image["Id"].as_str().unwrap()));
    assert_eq!(field("{{json .Config.Cmd}}"), "[\"/bin/sh\"]\n");
    assert_eq!(field("Config.Cmd.0"), "/bin/sh\n");
    assert_eq!(field("json"), field("json"));
    rbuild.run(&["inspect", "--format", "Config.Nope", "busybox"]).expect_error(&["Config.Nope"]);
    rbuild.run(&["inspect", "--type", "image", "busybox"]).expect_ok();
    rbuild.run(&["inspect", "busybox", "nowhere"]).expect_error(&["nowhere"]).expect_stdout("");
}

#[test]
fn an_image_that_came_with_a_manifest_is_found_by_its_digest() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let archive = rbuild.path("archive");
    rbuild.run(&["save", "--format", "oci-archive", "-o", &archive, "busybox"]).expect_ok();
    rbuild.run(&["load", "-i", &archive]).expect_ok();
    let digest = rbuild.run(&["inspect", "--format", "RepoDigests.0", "busybox"]).expect_ok().last_line();
    assert!(digest.starts_with("busybox@sha256:"), "{digest}");
    rbuild.run(&["inspect", &digest]).expect_ok();
}

#[test]
fn a_container_is_described_in_docker_s_keys() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let command =
        ["--network", "none", "--label", "a.b=c", "busybox", "sh", "-c", "echo text > /file; exit 7"];
    rbuild.run(&[&["run", "--name", "busybox"], &command[..]].concat()).expect_code(7);
    let text = rbuild.run(&["inspect", "--size", "busybox"]).expect_ok().stdout;
    let found: Value = serde_json::from_str(&text).unwrap();
    let container = &found[0];
    for key in ["Id", "Created", "Path", "Args", "State", "Image", "Name", "SizeRw", "Config"] {
        assert!(container.get(key).is_some(), "{key}: {container}");
    }
    assert_eq!(container["Name"], "/busybox");
    assert_eq!((&container["State"]["ExitCode"], &container["State"]["Running"]), (&json!(7), &json!(false)));
    assert_eq!(container["Path"], "sh");
    assert!(container["SizeRw"].as_u64().unwrap() >= 4096);

    let by = |words: &[&str]| rbuild.run(&[&["inspect"], words].concat());
    let form = r#"{{.State.Status}} {{.State.ExitCode}} {{index .Config.Labels "a.b"}}"#;
    by(&["--format", form, "busybox"]).expect_ok().expect_stdout("exited 7 c\n");
    let image = by(&["--type", "image", "-f", "{{.Id}}", "busybox"]).expect_ok().last_line();
    assert_eq!(container["Image"], image.as_str());
    by(&["--type", "container", &image]).expect_error(&["sha256"]);
    by(&["--type", "container", "nowhere"]).expect_error(&["nowhere"]);
}
