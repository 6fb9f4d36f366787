//! `rbuild diff`: what changed, in docker's letters.

mod shell;

use std::io::Read;

use serde_json::{Value, json};
use shell::{Rbuild, needs};

#[test]
fn a_container_is_held_against_its_image() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let script = "echo x > /etc/new; echo y >> /etc/passwd; rm /etc/group; chmod 700 /home/worker; \
                  mkdir -p /d/e; rm -r /usr; mkdir /usr; touch /usr/f";
    let run = ["run", "--name", "wrote", "--network", "none", "busybox", "sh", "-c", script];
    rbuild.run(&run).expect_ok();
    let told = rbuild.run(&["diff", "wrote"]).expect_ok().stdout;
    let expected = "A /d\nA /d/e\nC /etc\nD /etc/group\nA /etc/new\nC /etc/passwd\nC /home\nC /home/worker\n\
                    C /usr\nD /usr/bin\nA /usr/f\n";
    assert_eq!(told, expected);
    let told = rbuild.run(&["diff", "--format", "json", "wrote"]).expect_ok().stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["added"], json!(["/d", "/d/e", "/etc/new", "/usr/f"]));
    assert_eq!(told["deleted"], json!(["/etc/group", "/usr/bin"]));
    assert_eq!(told["changed"], json!(["/etc", "/etc/passwd", "/home", "/home/worker", "/usr"]));

    let id = rbuild.run(&["ps", "-a", "-q"]).expect_ok().last_line();
    assert_eq!(rbuild.run(&["diff", &id]).expect_ok().stdout, expected, "by the beginning of its ID");
    let turned = rbuild.run(&["diff", "wrote", "busybox"]).expect_ok().stdout;
    assert!(turned.starts_with("D /d\nC /etc\nA /etc/group\nD /etc/new\n"), "{turned}");
    rbuild.run(&["rm", "wrote"]).expect_ok();
}

#[test]
fn an_image_is_held_against_what_lies_below_its_last_layer() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let text = "FROM busybox\nCOPY a /a\nRUN --network=none rm /a /etc/group && echo b > /b\n";
    rbuild.build_with(&["-t", "app"], text, &[("a", "text")]).expect_ok();
    rbuild.run(&["diff", "app"]).expect_ok().expect_stdout("D /a\nA /b\nC /etc\nD /etc/group\n");
    let both = rbuild.run(&["diff", "busybox", "app"]).expect_ok();
    both.expect_stdout("A /b\nC /etc\nD /etc/group\n");
    rbuild.run(&["diff", "app", "app"]).expect_ok().expect_stdout("");
    let first = rbuild.run(&["diff", "busybox"]).expect_ok().stdout;
    assert!(first.starts_with("A /bin\n") && first.lines().all(|line| line.starts_with("A ")), "{first}");
}

#[test]
fn a_container_that_runs_or_was_killed_is_refused() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let words = ["run", "--name", "up", "--network", "none", "busybox", "sh", "-c", "echo up; sleep 600"];
    let mut running = rbuild.command(&words).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = [0; 3];
    running.stdout.take().unwrap().read_exact(&mut said).unwrap();
    rbuild.run(&["diff", "up"]).expect_error(&["up is running"]).expect_code(1);
    running.kill().unwrap();
    running.wait().unwrap();
    rbuild.run(&["diff", "up"]).expect_error(&["up left no files", "killed"]).expect_code(1);
    rbuild.run(&["rm", "up"]).expect_ok();
}

#[test]
fn what_can_t_be_compared_is_told() {
    let rbuild = Rbuild::new();
    rbuild.run(&["diff", "nobody"]).expect_error(&["nobody", "no container"]).expect_code(1);
    rbuild.run(&["diff"]).expect_error(&["NAME"]);
    rbuild.run(&["diff", "a", "b", "c"]).expect_error(&["c"]);
    rbuild.run(&["diff", "--format", "xml", "a"]).expect_error(&["xml", "json"]);
}
