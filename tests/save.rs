//! `rbuild save`: archives and folders that peers read, the same bytes each time.

mod shell;

use std::fs;
use std::path::Path;

use shell::{Outcome, Rbuild, host, needs, run};

const FORMATS: [&str; 2] = ["docker-archive", "oci-archive"];

fn with_two_layers() -> Option<Rbuild> {
    if !needs::busybox() {
        return None;
    }
    let rbuild = Rbuild::with_busybox();
    rbuild.build_with(&["-t", "two"], "FROM busybox\nCOPY a /a\nENV A=1\n", &[("a", "text")]).expect_ok();
    Some(rbuild)
}

fn save(rbuild: &Rbuild, format: &str, name: &str, images: &[&str]) -> String {
    let place = rbuild.path(name);
    rbuild.run(&[&["save", "--format", format, "-o", &place], images].concat()).expect_ok().expect_stdout("");
    place
}

#[test]
fn the_same_images_give_the_same_bytes_to_files_and_to_standard_output() {
    let Some(rbuild) = with_two_layers() else { return };
    for format in FORMATS {
        let first = save(&rbuild, format, "first", &["two", "busybox"]);
        let second = save(&rbuild, format, "second", &["two", "busybox"]);
        assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "{format}");
        let mut shell = std::process::Command::new("sh");
        shell.args([
            "-c",
            "\"$0\" --root \"$1\" save --format \"$2\" two busybox | cmp - \"$3\"",
            env!("CARGO_BIN_EXE_rbuild"),
        ]);
        shell.arg(rbuild.root()).args([format, &first]);
        run(shell, b"").expect_ok();
    }
}

#[test]
fn skopeo_podman_and_umoci_take_every_form() {
    if !["skopeo", "podman", "umoci"].iter().all(|tool| needs::tool(tool)) {
        return;
    }
    let Some(rbuild) = with_two_layers() else { return };
    let docker = save(&rbuild, "docker-archive", "docker", &["two"]);
    let oci = save(&rbuild, "oci-archive", "oci", &["two"]);
    let folder = save(&rbuild, "oci-dir", "folder", &["two"]);
    let layers = rbuild.run(&["inspect", "--format", "RootFS.Layers", "two"]).expect_ok().stdout;
    let diff_ids: serde_json::Value = serde_json::from_str(&layers).unwrap();
    for transport in
        [format!("docker-archive:{docker}"), format!("oci-archive:{oci}"), format!("oci:{folder}")]
    {
        let config = host("skopeo", &["inspect", "--config", &transport]).expect_ok().stdout;
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], diff_ids, "{transport}");
        assert_eq!(config["config"]["Env"][1], "A=1", "{transport}");
        // A copy reads every layer and checks every digest.
        let copy = format!("dir:{}", rbuild.path("copy"));
        host("skopeo", &["--insecure-policy", "copy", &transport, &copy]).expect_ok();
    }
    for archive in [&docker, &oci] {
        let podman = |words: &[&str]| -> Outcome {
            let (root, runroot) = (format!("{archive}.podman"), format!("{archive}.podman-run"));
            let store = ["--root", &root, "--runroot", &runroot, "--storage-driver", "vfs"];
            host("podman", &[&store[..], words].concat()).expect_ok()
        };
        podman(&["load", "-i", archive]);
        let layers = podman(&["image", "inspect", "--format", "{{json .RootFS.Layers}}", "two"]).stdout;
        assert_eq!(serde_json::from_str::<serde_json::Value>(&layers).unwrap(), diff_ids);
    }
    let tag = host("umoci", &["ls", "--layout", &folder]).expect_ok().last_line();
    let bundle = rbuild.path("bundle");
    host("umoci", &["unpack", "--image", &format!("{folder}:{tag}"), &bundle]).expect_ok();
    assert_eq!(fs::read_to_string(Path::new(&bundle).join("rootfs/a")).unwrap(), "text");
}

#[test]
fn several_names_and_images_go_into_one_archive() {
    let Some(rbuild) = with_two_layers() else { return };
    rbuild.run(&["tag", "two", "me/two:2"]).expect_ok();
    for format in FORMATS {
        let archive = save(&rbuild, format, format, &["two", "me/two:2", "busybox"]);
        let loaded = Rbuild::new().run(&["load", "-i", &archive]).expect_ok();
        let expected =
            ["two:latest", "me/two:2", "busybox:latest"].map(|name| format!("Loaded image: {name}\n"));
        assert_eq!(loaded.stdout, expected.concat());
    }
}

#[test]
fn a_save_that_fails_leaves_nothing_and_keeps_what_was_there() {
    let Some(rbuild) = with_two_layers() else { return };
    let place = rbuild.path("kept");
    fs::write(&place, "before").unwrap();
    rbuild.run(&["save", "-o", &place, "two", "nowhere"]).expect_error(&["nowhere"]);
    assert_eq!(fs::read_to_string(&place).unwrap(), "before");
    let into = rbuild.path("missing/file");
    rbuild.run(&["save", "-o", &into, "two"]).expect_error(&["missing/file", "No such file"]);
    rbuild.run(&["save", "--format", "oci-dir", "two"]).expect_error(&["--output"]);
    fs::create_dir(rbuild.path("full")).unwrap();
    fs::write(rbuild.path("full/a"), "").unwrap();
    rbuild
        .run(&["save", "--format", "oci-dir", "-o", &rbuild.path("full"), "two"])
        .expect_error(&["not empty"]);
    rbuild.run(&["save", "-o", &rbuild.path("full"), "two"]).expect_error(&["full"]);
    rbuild.run(&["save", "-o", "/dev/full", "two"]).expect_error(&["/dev/full", "No space left"]);
    rbuild.run(&["save", "-o", "/dev/null", "two"]).expect_ok();
    assert!(!Path::new("/dev/null").is_file());
    let left = fs::read_dir(rbuild.home()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(
        left.into_iter().all(|name| !name.to_string_lossy().starts_with('.')),
        "no half-made file is left"
    );
    rbuild.run(&["save", "--format", "oci-dir", "-o", &rbuild.path("new"), "two"]).expect_ok();
    rbuild.run(&["load", "-i", &rbuild.path("new")]).expect_ok().expect_stdout("Loaded image: two:latest\n");
}
