//! `rbuild copy`: between the store, archives and folders, digests and all.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod shell;

use std::fs;
use std::path::Path;

use shell::{Rbuild, host, needs};

fn id(rbuild: &Rbuild, name: &str) -> String {
    rbuild.run(&["inspect", "--format", "Id", name]).expect_ok().stdout.trim().to_owned()
}

/// Everything that lies in the store's folders of layers and blobs, and its images.
fn content(rbuild: &Rbuild) -> Vec<String> {
    let list = |folder: &str| {
        let entries = fs::read_dir(rbuild.root().join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let mut found = [list("layers"), list("blobs/sha256"), list("staging")].concat();
    found.sort();
    found.push(rbuild.run(&["images", "-a"]).expect_ok().stdout.lines().skip(1).collect());
    found
}

#[test]
fn an_image_goes_round_all_places_and_keeps_its_digests() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let image = id(&rbuild, "busybox");
    let between = Rbuild::new();
    between.run(&["images"]).expect_ok();
    let empty = content(&between);
    let place = |transport: &str, name: &str, tag: &str| format!("{transport}:{}{tag}", rbuild.path(name));
    let stops = [
        place("oci-archive", "one", ":app:1"),
        place("dir", "two", ""),
        place("oci", "three", ":1.0"),
        place("docker-archive", "four", ":app:4"),
        place("oci-archive", "five", ""),
    ];
    let first = rbuild.run(&["copy", "busybox", &stops[0]]).expect_ok();
    first.expect_stdout(&format!("{image}\n"));
    for pair in stops.windows(2) {
        // Between two places that are not the store: it is as empty as before.
        between.run(&["copy", &pair[0], &pair[1]]).expect_ok().expect_stdout(&format!("{image}\n"));
        assert_eq!(content(&between), empty, "{pair:?}");
    }
    let manifest = fs::read(rbuild.path("two/manifest.json")).unwrap();
    let hex = fs::read_to_string(rbuild.path("three/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&hex).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
    assert_eq!(fs::read(rbuild.path("three/blobs")).ok(), None);
    assert_eq!(fs::read(Path::new(&rbuild.path("three/blobs")).join(digest)).unwrap(), manifest);
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "1.0");
    for (number, stop) in stops.iter().enumerate() {
        let other = Rbuild::new();
        let name = format!("mine:{number}");
        other.run(&["copy", stop, &format!("store:{name}")]).expect_ok().expect_stdout(&format!("{image}\n"));
        assert_eq!(id(&other, &name), image);
        let names = other.run(&["images"]).expect_ok().stdout;
        assert_eq!(names.lines().count(), 2, "no other name came along: {names}");
    }
    // The name at the destination is the one that was typed, none otherwise.
    let loaded = Rbuild::new().run(&["load", "-i", &rbuild.path("four")]).expect_ok();
    loaded.expect_stdout("Loaded image: app:4\n");
    let loaded = Rbuild::new().run(&["load", "-i", &rbuild.path("five")]).expect_ok();
    loaded.expect_stdout(&format!("Loaded image ID: {image}\n"));
}

#[test]
fn what_skopeo_wrote_is_read_and_what_is_written_skopeo_reads() {
    if !needs::busybox() || !needs::tool("skopeo") {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let image = id(&rbuild, "busybox");
    let place = |transport: &str, name: &str, tag: &str| format!("{transport}:{}{tag}", rbuild.path(name));
    let skopeo = |from: &str, to: &str| host("skopeo", &["--insecure-policy", "copy", from, to]).expect_ok();
    let start = place("oci-archive", "start", ":busybox:latest");
    rbuild.run(&["copy", "busybox", &start]).expect_ok();
    for (transport, tag) in
        [("oci", ":a"), ("oci-archive", ":a"), ("dir", ""), ("docker-archive", ":a:latest")]
    {
        let theirs = place(transport, &format!("theirs.{transport}"), tag);
        skopeo(&start, &theirs);
        let ours = place(transport, &format!("ours.{transport}"), tag);
        let between = Rbuild::new();
        between.run(&["copy", &theirs, &ours]).expect_ok().expect_stdout(&format!("{image}\n"));
        skopeo(&ours, &place("dir", &format!("back.{transport}"), ""));
        if transport != "docker-archive" {
            let manifest = |name: &str| fs::read(rbuild.path(&format!("{name}/manifest.json"))).unwrap();
            skopeo(&theirs, &place("dir", &format!("their-back.{transport}"), ""));
            let (back, their_back) = (format!("back.{transport}"), format!("their-back.{transport}"));
            assert_eq!(manifest(&back), manifest(&their_back), "{transport}");
        }
    }
    // Two copies into one layout: skopeo finds both.
    let layout = |tag: &str| place("oci", "layout", tag);
    rbuild.run(&["copy", "busybox", &layout(":1")]).expect_ok();
    rbuild.run(&["copy", "--compression", "zstd", "busybox", &layout(":2")]).expect_ok();
    for tag in [":1", ":2"] {
        host("skopeo", &["inspect", &layout(tag)]).expect_ok();
    }
    Rbuild::new().run(&["copy", &layout(""), "x"]).expect_error(&["2 images", "1, ", "2"]);
}

#[test]
fn within_the_store_it_is_one_more_name_and_a_move_is_told() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let first = id(&rbuild, "busybox");
    rbuild.run(&["copy", "busybox", "store:other:1"]).expect_ok().expect_stderr_without("moved");
    assert_eq!(id(&rbuild, "other:1"), first);
    let tar = shell::base::busybox_base();
    rbuild.run(&["import", "--change", "LABEL a=b", tar.to_str().unwrap(), "second"]).expect_ok();
    let said = rbuild.run(&["copy", "second", "other:1"]).expect_ok();
    said.expect_stderr(&format!("moved other:1 from {first}")).expect_stderr_without("no name");
}

#[test]
fn what_can_t_be_copied_is_told_and_nothing_is_written() {
    let rbuild = Rbuild::new();
    let out = format!("dir:{}", rbuild.path("out"));
    rbuild.run(&["copy", "docker://debian", &out]).expect_error(&["docker://debian", "registries"]);
    rbuild.run(&["copy", "containers-storage:a", &out]).expect_error(&["containers-storage:", "oci:"]);
    rbuild.run(&["copy", "nowhere", &out]).expect_error(&["nowhere"]);
    rbuild.run(&["copy", "oci:", &out]).expect_error(&["no path"]);
    let missing = format!("oci-archive:{}", rbuild.path("missing"));
    rbuild.run(&["copy", &missing, &out]).expect_error(&["missing", "No such file"]);
    fs::write(rbuild.path("text"), "text").unwrap();
    let text = format!("docker-archive:{}", rbuild.path("text"));
    let archive = rbuild.path("archive");
    fs::write(&archive, "before").unwrap();
    rbuild.run(&["copy", &text, &format!("oci-archive:{archive}")]).expect_error(&["text"]);
    assert_eq!(fs::read_to_string(&archive).unwrap(), "before");
    rbuild.run(&["copy", &text, &out]).expect_error(&["text"]);
    assert!(!Path::new(&rbuild.path("out")).exists());
    let left = fs::read_dir(rbuild.home()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with('.')), "no half-made file");
}
