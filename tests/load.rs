//! `rbuild load`: archives of peers come in, by name, by pipe and by folder.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod shell;

use std::fs;
use std::process::Command;

use shell::{Rbuild, host, needs, run};

fn diff_ids(rbuild: &Rbuild, name: &str) -> String {
    rbuild.run(&["inspect", "--format", "RootFS.Layers", name]).expect_ok().stdout
}

fn id(rbuild: &Rbuild, name: &str) -> String {
    rbuild.run(&["inspect", "--format", "Id", name]).expect_ok().stdout.trim().to_owned()
}

/// Loads an archive, given its path and its bytes.
type Way = fn(&Rbuild, &str, &[u8]) -> shell::Outcome;

#[test]
fn what_save_wrote_comes_back_from_file_pipe_and_redirection() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let forms = [("docker-archive", "none"), ("docker-archive", "gzip"), ("docker-archive", "zstd")];
    for (format, compression) in [("oci-archive", "gzip"), ("oci-archive", "zstd")].into_iter().chain(forms) {
        let archive = rbuild.path(&format!("{format}.{compression}"));
        let words = ["save", "--format", format, "--compression", compression];
        rbuild.run(&[&words[..], &["-o", &archive, "busybox"]].concat()).expect_ok();
        let bytes = fs::read(&archive).unwrap();
        let ways: [Way; 3] = [
            |rbuild, path, _| rbuild.run(&["load", "-i", path]),
            |rbuild, _, bytes| rbuild.run_with_input(&["load"], bytes),
            |rbuild, path, _| {
                let mut shell = Command::new("sh");
                shell.args(["-c", "exec \"$0\" --root \"$1\" load <\"$2\"", env!("CARGO_BIN_EXE_rbuild")]);
                shell.arg(rbuild.root()).arg(path);
                run(shell, b"")
            },
        ];
        for way in ways {
            let other = Rbuild::new();
            way(&other, &archive, &bytes).expect_ok().expect_stdout("Loaded image: busybox:latest\n");
            assert_eq!(id(&other, "busybox"), id(&rbuild, "busybox"));
        }
    }
}

#[test]
fn an_image_without_a_name_is_told_by_its_id_and_a_name_that_moves_is_noted() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let first = id(&rbuild, "busybox");
    let archive = rbuild.path("archive");
    rbuild.run(&["save", "-o", &archive, &first]).expect_ok();
    let loaded = Rbuild::new().run(&["load", "-i", &archive]).expect_ok();
    assert_eq!(loaded.stdout, format!("Loaded image ID: {first}\n"));

    rbuild.run(&["save", "-o", &archive, "busybox"]).expect_ok();
    let tar = shell::base::busybox_base();
    let change = ["import", "--change", "LABEL a=b", tar.to_str().unwrap(), "busybox"];
    rbuild.run(&change).expect_ok().expect_stderr(&first);
    let second = id(&rbuild, "busybox");
    rbuild
        .run(&["load", "-i", &archive])
        .expect_ok()
        .expect_stderr(&format!("moved busybox:latest from {second}, which has no name now"));
    rbuild.run(&["load", "-i", &archive]).expect_ok().expect_stderr_without("moved");
    // Said to whoever asks for quiet too, and of an image that keeps another name.
    rbuild.run(&["tag", &first, "kept"]).expect_ok().expect_stderr_without("moved");
    rbuild.run(&["tag", &second, "busybox"]).expect_ok().expect_stderr("moved busybox:latest");
    let loaded = rbuild.run(&["load", "-q", "-i", &archive]).expect_ok();
    loaded.expect_stderr(&format!("moved busybox:latest from {second}"));
    rbuild.run(&["inspect", &second]).expect_ok();
}

#[test]
fn archives_of_podman_and_skopeo_come_in() {
    if !needs::busybox() || !["podman", "skopeo"].iter().all(|tool| needs::tool(tool)) {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let archive = rbuild.path("archive");
    rbuild.run(&["save", "-o", &archive, "busybox"]).expect_ok();
    let podman = |words: &[&str]| {
        let (root, runroot) = (rbuild.path("podman"), rbuild.path("podman-run"));
        let store = ["--root", &root, "--runroot", &runroot, "--storage-driver", "vfs"];
        host("podman", &[&store[..], words].concat()).expect_ok()
    };
    podman(&["load", "-i", &archive]);
    let place = |name: &str| rbuild.path(name);
    podman(&["save", "-o", &place("podman.tar"), "busybox"]);
    podman(&["save", "--format", "oci-archive", "-o", &place("podman.oci"), "busybox"]);
    podman(&["save", "--format", "oci-dir", "-o", &place("podman.dir"), "busybox"]);
    podman(&["save", "--format", "docker-dir", "-o", &place("podman.other"), "busybox"]);
    let source = format!("docker-archive:{archive}");
    for target in ["oci", "oci-archive", "docker-archive"] {
        let target = format!("{target}:{}:app:1", place(&format!("skopeo.{target}")));
        host("skopeo", &["--insecure-policy", "copy", &source, &target]).expect_ok();
    }
    for name in [
        "podman.tar",
        "podman.oci",
        "podman.dir",
        "skopeo.oci",
        "skopeo.oci-archive",
        "skopeo.docker-archive",
    ] {
        let other = Rbuild::new();
        let loaded = other.run(&["load", "-i", &place(name)]).expect_ok();
        let image = loaded.stdout.trim().strip_prefix("Loaded image: ").unwrap().to_owned();
        assert_eq!(diff_ids(&other, &image), diff_ids(&rbuild, "busybox"), "{name}");
        let expected = if name.starts_with("podman") { "localhost/busybox:latest" } else { "app:1" };
        assert_eq!(image, expected, "{name}");
    }
    // No name stands in a `dir:`.
    let other = Rbuild::new();
    let loaded = other.run(&["load", "-i", &place("podman.other")]).expect_ok();
    let image = loaded.stdout.trim().strip_prefix("Loaded image ID: ").unwrap().to_owned();
    assert_eq!(diff_ids(&other, &image), diff_ids(&rbuild, "busybox"));
    podman(&["tag", "busybox", "again:2"]);
    podman(&["save", "-m", "-o", &place("podman.several"), "busybox", "again:2"]);
    let several = Rbuild::new().run(&["load", "-i", &place("podman.several")]).expect_ok();
    several.expect_stdout("Loaded image: localhost/busybox:latest\nLoaded image: localhost/again:2\n");
    archives_of_umoci_come_in(&rbuild, &place("skopeo.oci"));
}

/// A layout that umoci changed: a layer of its own, a config with other history.
fn archives_of_umoci_come_in(rbuild: &Rbuild, layout: &str) {
    if !needs::tool("umoci") {
        return;
    }
    let tag = host("umoci", &["ls", "--layout", layout]).expect_ok().last_line();
    let bundle = rbuild.path("bundle");
    host("umoci", &["unpack", "--image", &format!("{layout}:{tag}"), &bundle]).expect_ok();
    fs::write(format!("{bundle}/rootfs/new"), "text").unwrap();
    host("umoci", &["repack", "--image", &format!("{layout}:repacked"), &bundle]).expect_ok();
    let other = Rbuild::new();
    other.run(&["copy", &format!("oci:{layout}:repacked"), "repacked"]).expect_ok();
    assert_eq!(other.saved("repacked").text("new"), "text");
    assert_eq!(other.run(&["load", "-i", layout]).expect_ok().stdout.lines().count(), 2);
}

#[test]
fn what_can_t_be_loaded_is_told() {
    let rbuild = Rbuild::new();
    let file = rbuild.path("file");
    rbuild.run(&["load", "-i", &rbuild.path("missing")]).expect_error(&["missing", "No such file"]);
    fs::write(&file, "text").unwrap();
    rbuild.run(&["load", "-i", &file]).expect_error(&["cannot load", "file"]);
    rbuild.run_with_input(&["load"], b"").expect_error(&["standard input", "no image"]);
    fs::create_dir(rbuild.path("folder")).unwrap();
    rbuild.run(&["load", "-i", &rbuild.path("folder")]).expect_error(&["no image"]);
    rbuild.run(&["load", "--platform", "linux", "-i", &file]).expect_code(2);
    assert_eq!(rbuild.run(&["images", "-q"]).expect_ok().stdout, "");
}
