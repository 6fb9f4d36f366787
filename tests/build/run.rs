//! RUN: forms, surroundings, what it leaves in the layer, how it fails.

use crate::Expect::{Absent, Env, Folder, Layers, Mode, Owner, Text};
use crate::shell::{Rbuild, needs};
use crate::{Case, check};

#[test]
fn run_takes_every_form() {
    check(&[
        Case {
            name: "the shell form goes through /bin/sh -c",
            containerfile: "FROM busybox\nRUN echo one > /a && \\\n    # a comment between\n    echo two >> /a\n",
            expect: &[Text("a", "one\ntwo\n"), Layers(2)],
            ..Case::EMPTY
        },
        Case {
            name: "the exec form goes through no shell",
            containerfile: "FROM busybox\nRUN [\"/bin/sh\", \"-c\", \"echo \\\"$0\\\" > /a\", \"$HOME\"]\n",
            expect: &[Text("a", "$HOME\n")],
            ..Case::EMPTY
        },
        Case {
            name: "a here-document is a script",
            containerfile: "FROM busybox\nRUN <<EOF\nset -e\nx=1\necho \"$x\" > /a\nmkdir -p /d/e\nEOF\n",
            expect: &[Text("a", "1\n"), Folder("d/e")],
            ..Case::EMPTY
        },
        Case {
            name: "a here-document may name its interpreter",
            containerfile: "FROM busybox\nRUN <<EOF\n#!/bin/awk -f\nBEGIN { print 6 * 7 > \"/a\" }\nEOF\n",
            expect: &[Text("a", "42\n")],
            ..Case::EMPTY
        },
        Case {
            name: "a here-document can be the input of a command",
            containerfile: "FROM busybox\nRUN cat > /a <<EOF\ntext\nEOF\n",
            expect: &[Text("a", "text\n")],
            ..Case::EMPTY
        },
        Case {
            name: "SHELL changes the shell form",
            containerfile: "FROM busybox\nSHELL [\"/bin/sh\", \"-e\", \"-c\"]\nRUN case $- in *e*) echo stops at errors > /a ;; esac\n",
            expect: &[Text("a", "stops at errors\n")],
            ..Case::EMPTY
        },
    ]);
}

#[test]
fn run_sees_what_the_instructions_before_it_said() {
    check(&[
        Case {
            name: "user, folder and environment",
            containerfile: "FROM busybox\nENV A=1\nARG B=2\nWORKDIR /home/worker\nUSER worker\nRUN echo $(id -u):$(id -g) $PWD $A $B $HOME > f\n",
            expect: &[
                Text("home/worker/f", "1000:1000 /home/worker 1 2 /home/worker\n"),
                Owner("home/worker/f", 1000, 1000),
            ],
            ..Case::EMPTY
        },
        Case {
            name: "supplementary groups come from the image's own files",
            containerfile: "FROM busybox\nUSER worker\nRUN id -G > /tmp/groups\n",
            expect: &[Text("tmp/groups", "1000 50\n")],
            ..Case::EMPTY
        },
        Case {
            name: "a user and a group by number",
            containerfile: "FROM busybox\nUSER 77:88\nRUN echo $(id -u):$(id -g) > /tmp/a\n",
            expect: &[Text("tmp/a", "77:88\n")],
            ..Case::EMPTY
        },
        Case {
            name: "PATH has a default",
            containerfile: "FROM busybox\nRUN echo $PATH > /a\nENV PATH=/x:$PATH\n",
            expect: &[
                Text("a", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"),
                Env("PATH=/x:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ],
            ..Case::EMPTY
        },
        Case {
            name: "/proc, /sys and /dev are there, and nothing of them stays",
            containerfile: "FROM busybox\nRUN test -r /proc/self/status && test -d /sys/class && echo > /dev/null && test -c /dev/urandom && echo x > /dev/shm/x\n",
            expect: &[Absent("proc/self"), Absent("dev/null"), Absent("dev/shm/x"), Folder("proc")],
            ..Case::EMPTY
        },
    ]);
}

#[test]
fn a_layer_holds_what_run_changed_and_nothing_else() {
    check(&[
        Case {
            name: "modes, owners, links and devices",
            containerfile: "FROM busybox\nRUN touch /f && chown 5:6 /f && chmod 4711 /f && mkfifo /p && ln /f /hard && ln -s f /soft\n",
            expect: &[Mode("f", 0o4711), Owner("f", 5, 6), Mode("p", 0o644)],
            ..Case::EMPTY
        },
        Case {
            name: "removed files are gone, also whole folders, also made again",
            containerfile: "FROM busybox\nRUN mkdir -p /d/e && echo 1 > /d/e/f && echo 2 > /d/g\nRUN rm -r /d/e /etc/group\nRUN rm -r /d && mkdir /d && echo 3 > /d/new\n",
            expect: &[Absent("d/e"), Absent("d/g"), Absent("etc/group"), Text("d/new", "3\n")],
            ..Case::EMPTY
        },
        Case {
            name: "a folder that is renamed",
            containerfile: "FROM busybox\nRUN mkdir /old && echo 1 > /old/f\nRUN mv /old /new\n",
            expect: &[Absent("old"), Text("new/f", "1\n")],
            ..Case::EMPTY
        },
        Case {
            name: "a file that becomes a folder and the other way round",
            containerfile: "FROM busybox\nRUN echo 1 > /a && mkdir /b && echo 2 > /b/c\nRUN rm -r /a /b && mkdir /a && echo 3 > /a/d && echo 4 > /b\n",
            expect: &[Text("a/d", "3\n"), Text("b", "4\n"), Absent("b/c")],
            ..Case::EMPTY
        },
    ]);
    if !needs::busybox() {
        return;
    }
    let saved = Rbuild::with_busybox().built("FROM busybox\nRUN echo 1 > /only\n", &[]);
    let top: Vec<&String> = saved.layers.last().unwrap().keys().collect();
    assert_eq!(top, ["only"], "no mount point, no resolv.conf, nothing else");
}

#[test]
fn a_run_that_fails_ends_the_build_and_says_how() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    for (run, said) in [
        ("RUN echo about to fail && exit 7", "7"),
        ("RUN /no/such/program", "127"),
        ("RUN [\"/no/such/program\"]", "/no/such/program"),
        ("RUN sh -c 'kill -9 $$'; exit $?", "137"),
        ("USER nobody-knows\nRUN true", "nobody-knows"),
    ] {
        let built = rbuild.build(&format!("FROM busybox\n{run}\nRUN echo never-reached\n"), &[]);
        built.expect_error(&[said]).expect_stderr_without("never-reached\nnever-reached").expect_stdout("");
    }
    let shown = rbuild.build("FROM busybox\nRUN echo about to fail && exit 7\n", &[]);
    shown.expect_stderr("about to fail").expect_stderr("RUN echo about to fail && exit 7");
}

#[test]
fn no_process_of_a_step_outlives_it() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let saved = rbuild
        .built("FROM busybox\nRUN (sleep 98765; echo late > /late) & echo done > /done\nRUN sleep 0\n", &[]);
    assert_eq!(saved.text("done"), "done\n");
    assert!(!saved.has("late"));
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let left = lines.filter(|line| line == b"sleep\x0098765\x00").count();
    assert_eq!(left, 0, "`sleep 98765` is still there");
}
