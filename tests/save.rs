//! `rbuild save`: archives and folders that peers read, the same bytes each time.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod shell;

use std::fs;
use std::path::Path;

use shell::{Outcome, Rbuild, host, needs, run};

const FORMATS: [&str; 2] = ["docker-archive", "oci-archive"];
/// Ways to pack that two saves must agree in.
const PACKINGS: [&[&str]; 5] = [
    &[],
    &["--compression", "gzip", "--compression-level", "9"],
    &["--compression-format", "zstd"],
    &["--compression", "none"],
    &["--force-compression"],
];

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

/// The store's images come in one order or the other; what is saved must not tell.
fn store_in_order(backwards: bool) -> Rbuild {
    let rbuild = Rbuild::new();
    let build = || {
        let context =
            rbuild.context("FROM scratch\nCOPY a /a\nCOPY b /b\nENV A=1\n", &[("a", "text"), ("b", "")]);
        // Files' times are part of the image: the same in both stores.
        let files = ["a", "b"].map(|name| context.join(name).to_str().unwrap().to_owned());
        host("touch", &["-d", "@1700000000", &files[0], &files[1]]).expect_ok();
        let mut build = rbuild.command(&["build", "-t", "two", context.to_str().unwrap()]);
        build.env("SOURCE_DATE_EPOCH", "1700000000");
        run(build, b"").expect_ok();
    };
    if backwards {
        build();
    }
    rbuild.import_busybox("busybox");
    if !backwards {
        build();
    }
    rbuild
}

#[test]
fn two_stores_give_the_same_bytes_with_any_umask_time_zone_and_number_of_threads() {
    if !needs::busybox() || !needs::tool("taskset") {
        return;
    }
    let (one, other) = (store_in_order(false), store_in_order(true));
    let id = |rbuild: &Rbuild| rbuild.run(&["inspect", "--format", "Id", "two"]).expect_ok().stdout;
    assert_eq!(id(&one), id(&other), "the builds are the same image");
    for format in ["docker-archive", "oci-archive", "oci-dir", "dir"] {
        for (number, packing) in PACKINGS.iter().enumerate() {
            let place = |rbuild: &Rbuild| rbuild.path(&format!("{format}-{number}"));
            let words = ["save", "--format", format, "-o"];
            one.run(&[&words[..], &[&place(&one)], packing, &["two"]].concat()).expect_ok();
            let mut shell = std::process::Command::new("sh");
            shell.args([
                "-c",
                "umask 077; cd /; exec taskset -c 0 \"$@\"",
                "sh",
                env!("CARGO_BIN_EXE_rbuild"),
            ]);
            shell.arg("--root").arg(other.root()).args(words).arg(place(&other)).args(*packing).arg("two");
            shell.envs([("TZ", "Asia/Kathmandu"), ("LC_ALL", "tr_TR.UTF-8"), ("HOME", "/nowhere")]);
            run(shell, b"").expect_ok();
            host("diff", &["-r", &place(&one), &place(&other)]).expect_ok();
        }
    }
}

#[test]
fn skopeo_takes_every_packing() {
    if !needs::tool("skopeo") {
        return;
    }
    let Some(rbuild) = with_two_layers() else { return };
    let transports = ["docker-archive", "oci-archive", "oci-dir", "dir"];
    for (number, packing) in PACKINGS.iter().enumerate() {
        for format in transports {
            let place = rbuild.path(&format!("{format}-{number}"));
            let words = ["save", "--format", format, "-o", &place];
            rbuild.run(&[&words[..], packing, &["two"]].concat()).expect_ok();
            let source = format!("{}:{place}", format.replace("oci-dir", "oci"));
            // A copy reads every layer and checks every digest.
            let copy = rbuild.path(&format!("copy-{format}-{number}"));
            host("skopeo", &["--insecure-policy", "copy", &source, &format!("dir:{copy}")]).expect_ok();
            if format != "docker-archive" {
                let manifest = fs::read_to_string(Path::new(&copy).join("manifest.json")).unwrap();
                let is_zstd = packing.contains(&"zstd");
                assert_eq!(manifest.contains("tar+zstd"), is_zstd, "{format} {packing:?}: {manifest}");
                assert_eq!(manifest.contains("layer.v1.tar\""), packing.contains(&"none"), "{manifest}");
            }
            let loaded = Rbuild::new();
            loaded.run(&["load", "-i", &copy]).expect_ok();
        }
    }
}

#[test]
fn flags_that_make_no_sense_are_told() {
    let Some(rbuild) = with_two_layers() else { return };
    let out = rbuild.path("out");
    let save = |words: &[&str]| rbuild.run(&[&["save", "-o", &out], words].concat());
    save(&["--compression", "xz", "two"]).expect_code(2);
    save(&["--compression", "gzip", "--compression-level", "13", "two"]).expect_error(&["13", "1 to 12"]);
    save(&["--compression", "zstd", "--compression-level", "-1", "two"]).expect_error(&["1 to 20"]);
    save(&["--compression", "none", "--compression-level", "1", "two"]).expect_error(&["no level"]);
    save(&["--format", "dir", "two", "busybox"]).expect_error(&["one image, not 2"]);
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_terminal_gets_no_archive() {
    if !needs::tool("script") {
        return;
    }
    let Some(rbuild) = with_two_layers() else { return };
    let (binary, root) = (env!("CARGO_BIN_EXE_rbuild"), rbuild.root());
    for output in ["", "-o -", "-o /dev/tty"] {
        let command = format!("{binary} --root {} save {output} two", root.display());
        let said = host("script", &["-qec", &command, "/dev/null"]);
        assert_ne!(said.code, 0, "{said}");
        assert!(said.stdout.contains("terminal") && said.stdout.len() < 1000, "{said}");
    }
}

/// The most memory that a command held at once.
fn most_memory_bytes(rbuild: &Rbuild, words: &[&str]) -> u64 {
    let mut child = rbuild.command(words).stdout(std::process::Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        // The line is gone once the process is.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        most = most.max(kib.unwrap_or(0) << 10);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().unwrap().success(), "{words:?}");
    assert_ne!(most, 0, "{words:?}");
    most
}

#[test]
fn memory_stays_below_64_mib_whatever_the_layer_s_size() {
    const LIMIT_BYTES: u64 = 64 << 20;
    if !needs::root() {
        return;
    }
    let rbuild = Rbuild::new();
    // Twice the limit, half of it zeros.
    let mut state = 1_u32;
    let random = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u8::try_from(state >> 24).unwrap()
    });
    let content: Vec<u8> = random.take(1 << 20).collect();
    let mut archive = tar::Builder::new(fs::File::create(rbuild.path("large.tar")).unwrap());
    let mut header = tar::Header::new_ustar();
    header.set_size(2 * LIMIT_BYTES);
    let content = content.repeat(64);
    let content = std::io::Read::chain(&content[..], std::io::Read::take(std::io::repeat(0), LIMIT_BYTES));
    archive.append_data(&mut header, "large", content).unwrap();
    archive.finish().unwrap();
    let path = |name: &str| rbuild.path(name);
    let mut rows: Vec<Vec<String>> = vec![vec!["import".into(), path("large.tar"), "large".into()]];
    for packing in PACKINGS {
        let (archive, number) = (path("archive"), rows.len());
        let packing = packing.iter().map(|word| (*word).to_owned());
        let save = ["save", "--format", "oci-archive", "-o", &archive].map(str::to_owned);
        rows.push(save.into_iter().chain(packing).chain(["large".to_owned()]).collect());
        rows.push(vec!["load".into(), "-i".into(), archive.clone()]);
        let to = format!("dir:{}", path(&number.to_string()));
        rows.push(vec!["copy".into(), format!("oci-archive:{archive}"), to]);
    }
    for row in rows {
        let words: Vec<&str> = row.iter().map(String::as_str).collect();
        let most = most_memory_bytes(&rbuild, &words);
        assert!(most < LIMIT_BYTES, "{words:?} held {most} bytes");
    }
}

#[test]
fn what_is_killed_half_way_leaves_no_file() {
    let Some(rbuild) = with_two_layers() else { return };
    let list = || {
        let names = fs::read_dir(rbuild.home()).unwrap().map(|entry| entry.unwrap().file_name());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let before = list();
    for milliseconds in [2, 5, 10, 20, 40] {
        let mut child = rbuild.command(&["save", "-o", "killed", "two"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        // It may have ended before.
        drop(child.kill());
        child.wait().unwrap();
        let mut now = list();
        if now.remove(std::ffi::OsStr::new("killed")) {
            // Once the name is there the file is whole.
            Rbuild::new().run(&["load", "-i", &rbuild.path("killed")]).expect_ok();
            fs::remove_file(rbuild.path("killed")).unwrap();
        }
        assert_eq!(now, before);
    }
}

#[test]
fn a_link_to_a_file_stays_a_link() {
    let Some(rbuild) = with_two_layers() else { return };
    fs::write(rbuild.path("file"), "before").unwrap();
    std::os::unix::fs::symlink("file", rbuild.path("link")).unwrap();
    rbuild.run(&["save", "-o", &rbuild.path("link"), "two"]).expect_ok();
    assert!(fs::symlink_metadata(rbuild.path("link")).unwrap().is_symlink());
    rbuild.run(&["load", "-i", &rbuild.path("file")]).expect_ok();
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
