//! `rbuild run`, `ps` and `rm`, end to end: what a process sees, how it ends, and what stays.
#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

#[path = "shell/mod.rs"]
mod shell;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use shell::{Outcome, Rbuild};

/// `run --rm --network none FLAGS busybox sh -c SCRIPT`.
fn script(rbuild: &Rbuild, flags: &[&str], script: &str) -> Outcome {
    let mut words = vec!["run", "--rm", "--network", "none"];
    words.extend(flags);
    words.extend(["busybox", "sh", "-c", script]);
    rbuild.run(&words)
}

/// A container in the foreground of another process; killed when its test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has mostly ended and been waited for.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts a container whose script says `ready` once it is, and waits for that.
fn started(rbuild: &Rbuild, flags: &[&str], script: &str) -> Running {
    let mut words = vec!["run", "--network", "none"];
    words.extend(flags);
    words.extend(["busybox", "sh", "-c", script]);
    let child = rbuild.command(&words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let mut said = [0; 6];
    child.0.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"ready\n");
    // The process may speak before its record says that it runs.
    let start = Instant::now();
    while rbuild.run(&["ps", "-q"]).expect_ok().stdout.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "the record never says that it runs");
    }
    child
}

fn send(signal: &str, child: &Running) {
    assert!(Command::new("kill").args(["-s", signal, &child.0.id().to_string()]).status().unwrap().success());
}

fn code_of(mut child: Running) -> i32 {
    let start = Instant::now();
    loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            return status.code().unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the container does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Nothing of a container is in the store.
fn expect_nothing_left(rbuild: &Rbuild) {
    for folder in ["containers", "scratch", "volumes", "staging", "trash"] {
        assert_eq!(names_in(&rbuild.root().join(folder)), [""; 0], "in {folder}/");
    }
}

/// How many cgroups of the host are named after a container.
fn cgroups_of(id: &str) -> usize {
    let is_its = |entry: &walkdir::DirEntry| entry.file_name().to_string_lossy().contains(id);
    walkdir::WalkDir::new("/sys/fs/cgroup").into_iter().filter_map(Result::ok).filter(is_its).count()
}

fn containers(rbuild: &Rbuild) -> Vec<Value> {
    let told = rbuild.run(&["ps", "-a", "--format", "json"]).expect_ok();
    told.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_exit_status_is_the_processs_own_or_says_what_failed() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    for (command, code) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -KILL $$; sleep 1"], 0),
        (&["sh", "-c", "sh -c 'kill -TERM $$'; exit $?"], 143),
        (&["no-such-program"], 127),
        (&["/no/such/program"], 127),
        (&["/etc/passwd"], 126),
        (&["/etc"], 126),
    ] {
        let mut words = vec!["run", "--rm", "--network", "none", "busybox"];
        words.extend(command);
        rbuild.run(&words).expect_code(code);
    }
    expect_nothing_left(&rbuild);
}

#[test]
fn what_can_not_be_run_has_status_125_and_says_why() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    for (words, said) in [
        (&["run"][..], "required"),
        (&["run", "--no-such-flag", "busybox"], "--no-such-flag"),
        (&["run", "nowhere"], "nowhere"),
        (&["run", "-d", "busybox"], "--detach"),
        (&["run", "-m", "lots", "busybox"], "lots"),
        (&["run", "--memory-swap", "1g", "busybox"], "--memory"),
        (&["run", "--cpus", "-1", "busybox"], "--cpus"),
        (&["run", "--cap-add", "CAP_FLY", "busybox"], "FLY"),
        (&["run", "--ulimit", "nofile", "busybox"], "nofile"),
        (&["run", "--security-opt", "apparmor=x", "busybox"], "apparmor=x"),
        (&["run", "-v", "/no/such/path:/x", "busybox"], "/no/such/path"),
        (&["run", "-v", "/tmp:x", "busybox"], "absolute"),
        (&["run", "-v", "/tmp:/", "busybox"], "root"),
        (&["run", "--tmpfs", "x", "busybox"], "--tmpfs"),
        (&["run", "-w", "x", "busybox"], "absolute"),
        (&["run", "-u", "nobody-here", "busybox"], "nobody-here"),
        (&["run", "-u", "4294967295", "busybox"], "4294967295"),
        (&["run", "--hostname", "a\n1.2.3.4 evil", "busybox"], "host name"),
        (&["run", "--add-host", "a b:1.2.3.4", "busybox"], "--add-host"),
        (&["run", "--dns", "not-an-address", "busybox"], "not-an-address"),
        (&["run", "--name", "../x", "busybox"], "name"),
        (&["run", "--stop-signal", "SIGNONE", "busybox"], "SIGNONE"),
        (&["run", "--network", "carrier-pigeon", "busybox"], "carrier-pigeon"),
        (&["run", "--entrypoint", "", "--network", "none", "busybox"], "command"),
        (&["run", "-it", "--network", "none", "busybox"], "terminal"),
    ] {
        rbuild.run(words).expect_code(125).expect_stderr(said).expect_stderr("error");
    }
    expect_nothing_left(&rbuild);
}

#[test]
fn a_process_sees_what_was_asked_for() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    fs::write(rbuild.path("vars"), "# comment\nFROM_FILE=1\nOVER=file\n").unwrap();
    let vars = rbuild.path("vars");
    for (flags, text, expected) in [
        (&[][..], "id -u; id -g; pwd; echo $HOME $container", "0\n0\n/\n/root rbuild\n"),
        (&["-e", "A=b c", "-e", "B="], "echo $A-$B-", "b c--\n"),
        (&["--env-file", &vars, "-e", "OVER=flag"], "echo $FROM_FILE $OVER", "1 flag\n"),
        (&["-e", "NOT_SET_HERE"], "echo ${NOT_SET_HERE-unset}", "unset\n"),
        (&["-w", "/made/here"], "pwd", "/made/here\n"),
        (&["-u", "1000:1001"], "id -u; id -g; id -G", "1000\n1001\n1001\n"),
        (
            &["-u", "1000", "--cap-add", "NET_ADMIN"],
            "grep CapEff /proc/self/status",
            "CapEff:\t0000000000001000\n",
        ),
        (&["-u", "1000"], "grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n"),
        (&["--cap-drop", "ALL"], "grep CapBnd /proc/self/status", "CapBnd:\t0000000000000000\n"),
        (
            &["--cap-drop=all", "--cap-add=chown"],
            "grep CapEff /proc/self/status",
            "CapEff:\t0000000000000001\n",
        ),
        (&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"),
        (&["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status", "Seccomp:\t0\n"),
        (&[], "grep Seccomp: /proc/self/status", "Seccomp:\t2\n"),
        (&["--hostname", "box"], "hostname; cat /etc/hostname; grep -c box /etc/hosts", "box\nbox\n1\n"),
        (&["--add-host", "db:192.0.2.7"], "grep db /etc/hosts", "192.0.2.7\tdb\n"),
        (&["--dns", "192.0.2.53"], "grep nameserver /etc/resolv.conf", "nameserver 192.0.2.53\n"),
        (&["--read-only"], "echo x > /x || echo no; echo y > /dev/shm/y && echo yes", "no\nyes\n"),
        (
            &["--tmpfs", "/t:size=1m,mode=700"],
            "stat -c %a /t; grep ' /t ' /proc/mounts | cut -d' ' -f3",
            "700\ntmpfs\n",
        ),
        (&["--shm-size", "1m"], "df -k /dev/shm | tail -1 | awk '{print $2}'", "1024\n"),
        (&["--ulimit", "nofile=100:200"], "ulimit -n; ulimit -Hn", "100\n200\n"),
        (&["--entrypoint", ""], "echo plain", "plain\n"),
        (&[], "ls /sys/class/net", "lo\n"),
        (&[], "cat; echo end", "end\n"),
        (&[], "ls /proc/self/fd | wc -l", "4\n"),
    ] {
        let outcome = script(&rbuild, flags, text).expect_ok();
        assert_eq!(outcome.stdout, expected, "{flags:?} {text}");
    }
    expect_nothing_left(&rbuild);
}

#[test]
fn entrypoints_and_commands_combine() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::new();
    rbuild.import_busybox("plain");
    let tar = shell::base::busybox_base();
    let changes = ["--change", r#"ENTRYPOINT ["echo", "entry"]"#, "--change", r#"CMD ["cmd"]"#];
    let mut words = vec!["import"];
    words.extend(changes);
    words.extend([tar.to_str().unwrap(), "busybox"]);
    rbuild.run(&words).expect_ok();
    for (words, expected) in [
        (&["busybox"][..], "entry cmd\n"),
        (&["busybox", "own", "-x", "--rm"], "entry own -x --rm\n"),
        (&["--entrypoint", "printf", "busybox", "alone"], "alone"),
        (&["--entrypoint", r#"["echo", "list"]"#, "busybox", "more"], "list more\n"),
    ] {
        let mut all = vec!["run", "--rm", "--network", "none"];
        all.extend(words);
        rbuild.run(&all).expect_ok().expect_stdout(expected);
    }
}

#[test]
fn stdin_is_passed_on_only_when_asked() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let input = b"line\n".repeat(100_000);
    let words = ["run", "--rm", "--network", "none", "-i", "busybox", "wc", "-l"];
    rbuild.run_with_input(&words, &input).expect_ok().expect_stdout("100000\n");
    let words = ["run", "--rm", "--network", "none", "busybox", "wc", "-c"];
    rbuild.run_with_input(&words, b"text").expect_ok().expect_stdout("0\n");
}

#[test]
fn the_last_byte_is_never_lost() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let outcome = script(&rbuild, &[], "head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2").expect_ok();
    assert_eq!((outcome.stdout.len(), outcome.stderr.as_str()), (3_000_000, "end\n"));
}

#[test]
fn signals_reach_the_process_and_end_one_that_does_not_care() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    for (signal, text, code) in [
        ("TERM", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done", 7),
        ("USR1", "trap 'exit 8' USR1; echo ready; while :; do sleep 0.05; done", 8),
        ("HUP", "trap 'exit 9' HUP; echo ready; while :; do sleep 0.05; done", 9),
        // The first process of a namespace is spared the default action; a user expects it.
        ("INT", "echo ready; exec sleep 100", 130),
        ("TERM", "echo ready; exec sleep 100", 143),
    ] {
        let child = started(&rbuild, &["--rm"], text);
        send(signal, &child);
        assert_eq!(code_of(child), code, "{signal}: {text}");
    }
    // What is ignored stays ignored.
    let child = started(&rbuild, &["--rm"], "trap '' TERM; echo ready; sleep 0.3; exit 5");
    send("TERM", &child);
    assert_eq!(code_of(child), 5);
    expect_nothing_left(&rbuild);
}

#[test]
fn a_killed_rbuild_takes_its_container_along() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let mut child =
        started(&rbuild, &["--rm", "--name", "victim", "-v", "/data"], "echo ready; exec sleep 1000");
    let told = containers(&rbuild);
    assert_eq!(told[0]["State"], "running");
    let id = told[0]["ID"].as_str().unwrap();
    assert_ne!(cgroups_of(id), 0);
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    // The next command finds what is left and clears it.
    assert_eq!(containers(&rbuild), [] as [Value; 0]);
    assert_eq!(cgroups_of(id), 0);
    rbuild.run(&["run", "--rm", "--network", "none", "--name", "victim", "busybox", "true"]).expect_ok();
    expect_nothing_left(&rbuild);
}

#[test]
fn a_container_stays_until_it_is_removed() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    rbuild
        .run(&[
            "run",
            "--network",
            "none",
            "--name",
            "kept",
            "-l",
            "a=b",
            "busybox",
            "sh",
            "-c",
            "echo x > /x; exit 3",
        ])
        .expect_code(3);
    let told = containers(&rbuild);
    assert_eq!((told.len(), &told[0]["Names"], &told[0]["State"]), (1, &"kept".into(), &"exited".into()));
    assert!(told[0]["Status"].as_str().unwrap().starts_with("Exited (3) "), "{told:?}");
    assert_eq!(rbuild.run(&["ps", "-q"]).expect_ok().stdout, "");
    for (filter, count) in [
        ("name=kep", 1),
        ("name=other", 0),
        ("status=exited", 1),
        ("status=running", 0),
        ("label=a", 1),
        ("label=a=c", 0),
        ("exited=3", 1),
        ("exited=0", 0),
        ("ancestor=busybox", 1),
    ] {
        let told = rbuild.run(&["ps", "-a", "-q", "--filter", filter]).expect_ok();
        assert_eq!(told.stdout.lines().count(), count, "{filter}");
    }
    rbuild
        .run(&["run", "--network", "none", "--name", "kept", "busybox", "true"])
        .expect_code(125)
        .expect_error(&["kept", "taken"]);
    rbuild.run(&["rm", "nobody"]).expect_code(1).expect_error(&["nobody"]);
    rbuild.run(&["rm", told[0]["ID"].as_str().unwrap()]).expect_ok();
    assert_eq!(containers(&rbuild), [] as [Value; 0]);
    expect_nothing_left(&rbuild);
}

#[test]
fn a_running_container_is_removed_only_by_force() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    for flags in [&["--name", "busy"][..], &["--rm", "--name", "busy"]] {
        let child = started(&rbuild, flags, "echo ready; exec sleep 1000");
        assert_eq!(rbuild.run(&["ps", "-q", "--no-trunc"]).expect_ok().stdout.trim().len(), 64);
        rbuild.run(&["rm", "busy"]).expect_code(1).expect_error(&["running"]);
        rbuild.run(&["rm", "-f", "busy"]).expect_ok();
        assert_eq!(code_of(child), 137);
        expect_nothing_left(&rbuild);
    }
}

#[test]
fn volumes_carry_files_in_and_out() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    fs::create_dir(rbuild.path("shared")).unwrap();
    fs::write(rbuild.path("shared/in"), "in\n").unwrap();
    let bind = format!("{}:/s", rbuild.path("shared"));
    script(&rbuild, &["-v", &bind], "cat /s/in; echo out > /s/out").expect_ok().expect_stdout("in\n");
    assert_eq!(fs::read_to_string(rbuild.path("shared/out")).unwrap(), "out\n");
    script(&rbuild, &["-v", &format!("{bind}:ro")], "echo x > /s/x").expect_code(1);
    let file = format!("{}:/etc/one:ro", rbuild.path("shared/in"));
    script(&rbuild, &["-v", &file], "cat /etc/one").expect_ok().expect_stdout("in\n");

    // A new named volume starts with the image's files and is kept.
    script(&rbuild, &["-v", "conf:/etc"], "test -f /etc/passwd && echo kept > /etc/mine").expect_ok();
    script(&rbuild, &["-v", "conf:/c"], "cat /c/mine; test -f /c/passwd").expect_ok().expect_stdout("kept\n");
    script(&rbuild, &["-v", "bare:/etc:nocopy"], "ls /etc | grep -c passwd")
        .expect_code(1)
        .expect_stdout("0\n");
    // One without a name goes with its container.
    script(&rbuild, &["-v", "/data"], "echo x > /data/x").expect_ok();
    let mut volumes = names_in(&rbuild.root().join("volumes"));
    volumes.sort();
    assert_eq!(volumes, ["bare", "conf"]);
}

#[test]
fn a_volume_of_the_image_is_made_filled_and_removed() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::new();
    let tar = shell::base::busybox_base();
    let changes =
        ["import", "--change", "VOLUME /etc /../../../tmp/canary", tar.to_str().unwrap(), "busybox"];
    rbuild.run(&changes).expect_ok();
    script(&rbuild, &[], "grep -c ' /etc ' /proc/mounts; test -f /etc/passwd; echo x > /tmp/canary/x")
        .expect_ok();
    assert!(!Path::new("/tmp/canary").exists());
    expect_nothing_left(&rbuild);
}

#[test]
fn limits_hold() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let hog = "exec tail /dev/zero";
    script(&rbuild, &["-m", "24m", "--memory-swap", "24m"], hog).expect_code(137).expect_stderr("memory");
    let forks = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1 & done; wait; echo all";
    let outcome = script(&rbuild, &["--pids-limit", "5"], forks);
    assert!(outcome.stderr.contains("fork"), "{outcome}");
    script(&rbuild, &["--pids-limit", "-1"], forks).expect_ok().expect_stdout("all\n");
}

#[test]
fn networks_are_none_the_hosts_or_private() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let links = |mode: &str| {
        let words = ["run", "--rm", "--network", mode, "busybox", "ls", "/sys/class/net"];
        rbuild.run(&words).expect_ok().stdout
    };
    let host: String = {
        let mut names = names_in(Path::new("/sys/class/net"));
        names.retain(|name| !name.starts_with("rb"));
        names.sort();
        names.concat()
    };
    assert_eq!(links("none"), "lo\n");
    let mut seen: Vec<String> = links("host").lines().map(str::to_owned).collect();
    seen.retain(|name| !name.starts_with("rb"));
    seen.sort();
    assert_eq!(seen.concat(), host);
    assert_eq!(links("private"), "eth0\nlo\n");

    // Out of a private network this host answers, by the name that was given for it.
    let server = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = server.local_addr().unwrap().port().to_string();
    let answer = std::thread::spawn(move || server.accept().unwrap().0.write_all(b"hello\n").unwrap());
    let words = ["run", "--rm", "--add-host", "me:host-gateway", "busybox", "nc", "-w", "5", "me", &port];
    rbuild.run(&words).expect_ok().expect_stdout("hello\n");
    answer.join().unwrap();
}

/// Runs a command line under a terminal of its own, made by script(1), and types `input` when the
/// container has said `go`.
fn under_terminal(rbuild: &Rbuild, words: &[&str], input: &[u8]) -> Outcome {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    let root = rbuild.root();
    let line = format!("'{}' --root '{}' {}", env!("CARGO_BIN_EXE_rbuild"), root.display(), quoted.join(" "));
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm");
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = script.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("go") {
        let mut bytes = [0; 256];
        let count = child.stdout.as_mut().unwrap().read(&mut bytes).unwrap();
        assert_ne!(count, 0, "{line} ended early: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&bytes[..count]);
    }
    stdin.write_all(input).unwrap();
    let mut output = child.wait_with_output().unwrap();
    drop(stdin);
    said.append(&mut output.stdout);
    output.stdout = said;
    Outcome::new(line, &output)
}

#[test]
fn a_terminal_is_the_containers_own() {
    if !shell::needs::root() || !shell::needs::tool("script") {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let base = ["run", "--rm", "--network", "none"];
    let run = |flags: &[&str], text: &str, input: &[u8]| {
        let words = [&base[..], flags, &["busybox", "sh", "-c", text]].concat();
        under_terminal(&rbuild, &words, input)
    };
    let outcome = run(
        &["-it"],
        "tty; test -t 0 && test -t 1 && echo both; echo go; read x; echo got-$x; exit 9",
        b"word\n",
    );
    let outcome = outcome.expect_code(9);
    for part in ["/dev/pts/0", "both", "got-word"] {
        assert!(outcome.stdout.contains(part), "{part} in {outcome}");
    }
    // Ctrl-C goes through the container's terminal to the process in front.
    let interrupted =
        run(&["-it"], "trap 'echo stopped; exit 4' INT; echo go; while :; do sleep 0.05; done", b"\x03");
    assert!(interrupted.expect_code(4).stdout.contains("stopped"));
    // Without -t the container gets no descriptor of the user's terminal.
    let plain = run(&["-i"], "echo go; test -t 0 || test -t 1 || test -t 2 || echo none", b"");
    assert!(plain.expect_ok().stdout.contains("none"));
    expect_nothing_left(&rbuild);
}

#[test]
fn a_container_writes_only_into_itself() {
    if !shell::needs::root() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    script(&rbuild, &[], "echo changed > /etc/passwd; rm -rf /bin/../tmp/*; echo new > /new").expect_ok();
    script(&rbuild, &[], "grep -q root /etc/passwd && ! test -e /new").expect_ok();
    // Many at once, on one store.
    std::thread::scope(|scope| {
        for number in 0..6 {
            let rbuild = &rbuild;
            scope.spawn(move || {
                let text = format!("echo {number} > /own; sleep 0.1; cat /own");
                script(rbuild, &[], &text).expect_ok().expect_stdout(&format!("{number}\n"));
            });
        }
    });
    expect_nothing_left(&rbuild);
}
