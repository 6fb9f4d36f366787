//! `rbuild import`: a root file system tar becomes an image.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod shell;

use std::fs;

use serde_json::{Value, json};
use shell::{Rbuild, host, needs, run};

fn inspect(rbuild: &Rbuild, name: &str) -> Value {
    let text = rbuild.run(&["inspect", name]).expect_ok().stdout;
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

/// A small tar, made by this machine's tar.
fn small_tar(rbuild: &Rbuild) -> String {
    fs::create_dir(rbuild.path("root")).unwrap();
    fs::write(rbuild.path("root/hello"), "hello").unwrap();
    let tar = rbuild.path("root.tar");
    host("tar", &["-C", &rbuild.path("root"), "-cf", &tar, "."]).expect_ok();
    tar
}

#[test]
fn the_id_is_printed_and_the_files_are_there() {
    let rbuild = Rbuild::new();
    let tar = small_tar(&rbuild);
    let imported = rbuild.run(&["import", "-m", "by hand", &tar, "small:1"]).expect_ok();
    let id = imported.stdout.trim().to_owned();
    assert!(
        id.starts_with("sha256:") && id.len() == 71 && imported.stdout.lines().count() == 1,
        "{imported}"
    );
    let inspected = inspect(&rbuild, "small:1");
    assert_eq!(inspected["Id"], id);
    assert_eq!(inspected["Comment"], "by hand");
    assert_eq!(inspected["Os"], "linux");
    assert_eq!(inspected["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    assert_eq!(rbuild.saved("small:1").text("hello"), "hello");
}

#[test]
fn changes_are_applied_in_order() {
    let rbuild = Rbuild::new();
    let tar = small_tar(&rbuild);
    let changes = [
        "CMD [\"/bin/sh\"]",
        "ENV A=1 B=two",
        "ENV C=$A",
        "WORKDIR /a",
        "WORKDIR b",
        "USER 7:8",
        "EXPOSE 80",
        "LABEL x=\"y z\"",
        "ENTRYPOINT [\"/hello\"]",
        "STOPSIGNAL SIGINT",
        "VOLUME /data",
    ];
    let mut words = vec!["import"];
    for change in changes {
        words.extend(["--change", change]);
    }
    words.extend([&tar, "changed"]);
    rbuild.run(&words).expect_ok();
    let config = &inspect(&rbuild, "changed")["Config"];
    assert_eq!(config["Env"], json!(["A=1", "B=two", "C=1"]));
    assert_eq!(config["WorkingDir"], "/a/b");
    assert_eq!(config["User"], "7:8");
    assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}}));
    assert_eq!(config["Labels"], json!({"x": "y z"}));
    assert_eq!(config["Entrypoint"], json!(["/hello"]));
    assert_eq!(config["StopSignal"], "SIGINT");
    assert_eq!(config["Volumes"], json!({"/data": {}}));
    for (bad, said) in
        [("RUN true", "RUN"), ("NOPE x", "NOPE"), ("COPY a b", "COPY"), ("STOPSIGNAL what", "what"), ("", "")]
    {
        rbuild.run(&["import", "--change", bad, &tar, "never"]).expect_error(&["--change", said]);
    }
    rbuild.run(&["inspect", "never"]).expect_code(1);
}

#[test]
fn every_compression_and_standard_input_give_the_same_layer() {
    let rbuild = Rbuild::new();
    let tar = small_tar(&rbuild);
    rbuild.run(&["import", &tar, "plain"]).expect_ok();
    let expected = inspect(&rbuild, "plain")["RootFS"]["Layers"].clone();
    for tool in ["gzip", "xz", "zstd", "bzip2"] {
        if !needs::tool(tool) {
            continue;
        }
        let mut command = std::process::Command::new(tool);
        command.arg("-c").arg(&tar);
        let packed = command.output().unwrap().stdout;
        rbuild.run_with_input(&["import", "-", tool], &packed).expect_ok();
        assert_eq!(inspect(&rbuild, tool)["RootFS"]["Layers"], expected, "{tool}");
    }
}

#[test]
fn what_can_t_be_imported_is_told() {
    let rbuild = Rbuild::new();
    let tar = small_tar(&rbuild);
    rbuild.run(&["import", &rbuild.path("missing"), "a"]).expect_error(&["missing", "No such file"]);
    rbuild.run(&["import", &rbuild.path("root"), "a"]).expect_error(&["is a folder"]);
    rbuild.run(&["import", &tar, "A:b"]).expect_error(&["A:b", "lower case"]);
    rbuild.run_with_input(&["import", "-", "a"], b"this is no tar").expect_error(&["cannot import -"]);
    assert_eq!(rbuild.run(&["images", "-q"]).expect_ok().stdout, "");
    let mut command = rbuild.command(&["import", &tar, "a"]);
    command.env("RBUILD_ROOT", "/nowhere");
    run(command, b"").expect_ok();
}
