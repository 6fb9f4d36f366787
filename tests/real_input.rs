//! Real input: a Debian base from `mmdebstrap`, packages installed over the network, a C program compiled in one
//! stage and copied into another; Docker, Podman, Skopeo and umoci take what rbuild saves, and the other way round.
//!
//! ```text
//! mmdebstrap → import debian → build ─┬→ save docker-archive → docker load, podman load, skopeo inspect
//!                                     ├→ save oci-archive    → podman load, skopeo inspect
//!                                     └→ save oci-dir        → umoci unpack, skopeo inspect
//!                        rbuild load, rbuild run ← docker save, podman save, skopeo copy
//! ```
//!
//! May touch: a temporary folder, Debian's mirror, a dockerd of its own. Knows nothing of rbuild's libraries.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod shell;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use shell::{Outcome, Rbuild, needs, run};

const CONTAINERFILE: &str = "\
FROM debian AS compile
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
WORKDIR /src
COPY hello.c .
RUN gcc -O2 -Wall -Werror -o hello hello.c && chown 0:50 hello && chmod 2755 hello

FROM debian
COPY --from=compile /src/hello /usr/local/bin/hello
RUN ln /usr/local/bin/hello /usr/local/bin/again && rm /etc/motd
ENV WHO=world
LABEL org.example.title=\"a real image\"
CMD [\"hello\"]
";
const HELLO: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <gnu/libc-version.h>
int main(void) { printf("hello %s from glibc %s\n", getenv("WHO"), gnu_get_libc_version()); return 0; }
"#;
/// Bookworm's C library says so.
const GREETING: &str = "hello world from glibc 2.36\n";

#[test]
fn a_debian_image_is_built_run_and_exchanged_with_every_peer() {
    let tools = ["mmdebstrap", "docker", "dockerd", "podman", "skopeo", "umoci"];
    if !needs::root() || !needs::debian_mirror() || !tools.iter().all(|tool| needs::tool(tool)) {
        return;
    }
    let rbuild = Rbuild::new();
    build(&rbuild);
    rbuild.run(&["run", "--rm", "hello"]).expect_ok().expect_stdout(GREETING);
    let diff_ids = rbuild.saved("hello").diff_ids();
    assert_eq!(diff_ids.len(), 3, "the base, the COPY, the RUN");

    let archives = Archives::save(&rbuild);
    let docker = Docker::start(&rbuild);
    docker_takes(&docker, &archives, &diff_ids);
    podman_takes(&rbuild, &archives, &diff_ids);
    skopeo_takes(&archives, &diff_ids);
    umoci_takes(&rbuild, &archives);
    rbuild_takes(&rbuild, &docker, &archives, &diff_ids);
    the_compiler_stage_travels_too(&rbuild, &docker);
}

fn build(rbuild: &Rbuild) {
    let base = shell::host(concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/debian-base"), &[]).expect_ok();
    rbuild.run(&["import", "--change", "CMD [\"bash\"]", base.stdout.trim(), "debian"]).expect_ok();
    let files = [("hello.c", HELLO)];
    rbuild.build_with(&["-t", "hello"], CONTAINERFILE, &files).expect_ok();
    let compile = ["-t", "compile", "--target", "compile"];
    let again = rbuild.build_with(&compile, CONTAINERFILE, &files).expect_ok();
    assert_eq!(again.cached_steps(), 4, "RUN, WORKDIR, COPY, RUN were just made: {again}");
}

/// `hello` in every form that `save` knows.
struct Archives {
    docker: String,
    oci: String,
    folder: String,
}

impl Archives {
    fn save(rbuild: &Rbuild) -> Self {
        let save = |format: &str| {
            let place = rbuild.path(&format!("hello.{format}"));
            rbuild.run(&["save", "--format", format, "-o", &place, "hello"]).expect_ok();
            place
        };
        Self { docker: save("docker-archive"), oci: save("oci-archive"), folder: save("oci-dir") }
    }

    /// The archives as skopeo names them.
    fn transports(&self) -> [String; 3] {
        let Self { docker, oci, folder } = self;
        [format!("docker-archive:{docker}"), format!("oci-archive:{oci}"), format!("oci:{folder}")]
    }
}

fn docker_takes(docker: &Docker, archives: &Archives, diff_ids: &[String]) {
    docker.run(&["load", "-i", &archives.docker]).expect_ok();
    docker.run(&["run", "--rm", "--network", "none", "hello"]).expect_ok().expect_stdout(GREETING);
    let inspected = json(&docker.run(&["image", "inspect", "hello"]));
    assert_eq!(strings(&inspected[0]["RootFS"]["Layers"]), diff_ids, "docker's diff IDs");
    assert_eq!(inspected[0]["Config"]["Labels"]["org.example.title"], "a real image");
    let mode =
        ["run", "--rm", "--network", "none", "hello", "stat", "-c", "%a %u:%g %h", "/usr/local/bin/hello"];
    docker.run(&mode).expect_ok().expect_stdout("2755 0:50 2\n");
    docker.run(&["run", "--rm", "--network", "none", "hello", "test", "!", "-e", "/etc/motd"]).expect_ok();
}

fn podman_takes(rbuild: &Rbuild, archives: &Archives, diff_ids: &[String]) {
    for (archive, store) in [(&archives.docker, "podman-docker"), (&archives.oci, "podman-oci")] {
        let podman = Podman { home: rbuild.path(store) };
        podman.run(&["load", "-i", archive]).expect_ok();
        podman.run_image("hello", &[]).expect_ok().expect_stdout(GREETING);
        let inspected = json(&podman.run(&["image", "inspect", "hello"]));
        assert_eq!(strings(&inspected[0]["RootFS"]["Layers"]), diff_ids, "podman's diff IDs of {archive}");
    }
}

fn skopeo_takes(archives: &Archives, diff_ids: &[String]) {
    for transport in archives.transports() {
        let config = json(&shell::host("skopeo", &["inspect", "--config", &transport]));
        assert_eq!(strings(&config["rootfs"]["diff_ids"]), diff_ids, "skopeo's diff IDs of {transport}");
        let inspected = json(&shell::host("skopeo", &["inspect", &transport]));
        assert_eq!(inspected["Layers"].as_array().unwrap().len(), diff_ids.len(), "{transport}");
    }
}

fn umoci_takes(rbuild: &Rbuild, archives: &Archives) {
    let listed = shell::host("umoci", &["ls", "--layout", &archives.folder]).expect_ok().stdout;
    let tag = listed.lines().next().expect("a tag in the OCI folder");
    let bundle = rbuild.path("bundle");
    let image = format!("{}:{tag}", archives.folder);
    shell::host("umoci", &["unpack", "--image", &image, &bundle]).expect_ok();
    let root = Path::new(&bundle).join("rootfs");
    let greeting = shell::host("chroot", &[root.to_str().unwrap(), "/usr/bin/env", "WHO=world", "hello"]);
    greeting.expect_ok().expect_stdout(GREETING);
    assert!(!root.join("etc/motd").exists(), "umoci follows the whiteout");
}

/// What the peers save, rbuild loads into an empty store and runs.
fn rbuild_takes(rbuild: &Rbuild, docker: &Docker, archives: &Archives, diff_ids: &[String]) {
    let podman = Podman { home: rbuild.path("podman-docker") };
    let place = |name: &str| rbuild.path(name);
    let (by_docker, by_podman, by_podman_oci) =
        (place("by-docker"), place("by-podman"), place("by-podman-oci"));
    docker.run(&["save", "-o", &by_docker, "hello"]).expect_ok();
    podman.run(&["save", "-o", &by_podman, "hello"]).expect_ok();
    podman.run(&["save", "--format", "oci-archive", "-o", &by_podman_oci, "hello"]).expect_ok();
    let (by_skopeo, by_skopeo_folder) = (place("by-skopeo"), place("by-skopeo-folder"));
    let from = &archives.transports()[0];
    for to in
        [format!("oci-archive:{by_skopeo}:hello:latest"), format!("oci:{by_skopeo_folder}:hello:latest")]
    {
        shell::host("skopeo", &["--insecure-policy", "copy", from, &to]).expect_ok();
    }
    for archive in [&by_docker, &by_podman, &by_podman_oci, &by_skopeo, &by_skopeo_folder] {
        let other = Rbuild::new();
        let loaded = other.run(&["load", "-i", archive]).expect_ok();
        let images = other.run(&["images", "-q"]).expect_ok().last_line();
        let saved = other.saved(&images);
        assert_eq!(saved.diff_ids(), diff_ids, "diff IDs of {archive}: {loaded}");
        other.run_in(&images, &["hello"]).expect_ok().expect_stdout(GREETING);
    }
}

/// A layer as `apt-get install` leaves it: thousands of files, hard links, capabilities, odd modes.
fn the_compiler_stage_travels_too(rbuild: &Rbuild, docker: &Docker) {
    let archive = rbuild.path("compile.tar");
    rbuild.run(&["save", "-o", &archive, "compile"]).expect_ok();
    docker.run(&["load", "-i", &archive]).expect_ok();
    let inspected = json(&docker.run(&["image", "inspect", "compile"]));
    assert_eq!(strings(&inspected[0]["RootFS"]["Layers"]), rbuild.saved("compile").diff_ids());
    // The base leaves documentation out (dpkg's path-exclude); all else must be as dpkg left it.
    let compile = "gcc -o /tmp/hello hello.c && WHO=again /tmp/hello && \
        ! dpkg --verify gcc libc6-dev | grep -v -e /usr/share/man -e /usr/share/doc";
    let words = ["sh", "-c", compile];
    let expected = GREETING.replace("world", "again");
    rbuild.run_in("compile", &words).expect_ok().expect_stdout(&expected);
    let run = [&["run", "--rm", "--network", "none", "compile"] as &[&str], &words].concat();
    docker.run(&run).expect_ok().expect_stdout(&expected);
}

/// A daemon of our own: state, socket and mounts are seen by nobody else and go with it.
struct Docker {
    daemon: Child,
    socket: String,
}

impl Docker {
    fn start(rbuild: &Rbuild) -> Self {
        let home = rbuild.path("docker");
        std::fs::create_dir(&home).unwrap();
        let socket = format!("unix://{home}/socket");
        let log = || {
            Stdio::from(
                std::fs::File::options().create(true).append(true).open(format!("{home}/log")).unwrap(),
            )
        };
        // Neither bridge nor packet filter: the test needs no network, and the machine's own stay as they are.
        let daemon = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "dockerd", "--bridge=none", "--iptables=false"])
            .args(["--ip6tables=false", "--storage-driver=overlay2", "--data-root", &format!("{home}/data")])
            .args([
                "--exec-root",
                &format!("{home}/exec"),
                "--pidfile",
                &format!("{home}/pid"),
                "-H",
                &socket,
            ])
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn()
            .unwrap();
        let docker = Self { daemon, socket };
        let start = Instant::now();
        while docker.run(&["info"]).code != 0 {
            let log = || std::fs::read_to_string(format!("{home}/log")).unwrap();
            assert!(start.elapsed() < Duration::from_mins(1), "dockerd does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        docker
    }

    fn run(&self, words: &[&str]) -> Outcome {
        // Debian's own client; another one may come first in PATH.
        shell::host("/usr/bin/docker", &[&["-H", &self.socket], words].concat())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let daemon = rustix::process::Pid::from_child(&self.daemon);
        rustix::process::kill_process(daemon, rustix::process::Signal::TERM).unwrap();
        self.daemon.wait().unwrap();
    }
}

struct Podman {
    home: String,
}

impl Podman {
    fn run(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "podman"]);
        command.args(["--root", &format!("{}/root", self.home), "--runroot", &format!("{}/run", self.home)]);
        command.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--runtime", "runc"]);
        command.args(words);
        run(command, b"")
    }

    fn run_image(&self, image: &str, command: &[&str]) -> Outcome {
        // podman's default limits are above what a machine without CAP_SYS_RESOURCE may set.
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        self.run(&[&["run", "--rm", "--network", "none"], &limits as &[&str], &[image], command].concat())
    }
}

fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.code, 0, "{outcome}");
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("JSON from {outcome}: {error}"))
}

fn strings(value: &Value) -> Vec<String> {
    let values = value.as_array().unwrap_or_else(|| panic!("a list, not {value}")).iter();
    values.map(|value| value.as_str().unwrap().to_owned()).collect()
}
