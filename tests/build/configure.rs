//! The instructions that change the config only, ONBUILD, and the history they leave.

use serde_json::{Value, json};

use crate::Expect::{Absent, Config, Folder, Layers, Owner, Text};
use crate::shell::{Rbuild, needs};
use crate::{Case, check};

#[test]
fn every_instruction_reaches_the_config() {
    check(&[
        Case {
            name: "CMD and ENTRYPOINT, exec form",
            containerfile: "FROM scratch\nENTRYPOINT [\"/bin/a\", \"b c\"]\nCMD [\"d\"]\n",
            expect: &[Config("Entrypoint", r#"["/bin/a", "b c"]"#), Config("Cmd", r#"["d"]"#)],
            ..Case::EMPTY
        },
        Case {
            name: "ENTRYPOINT, shell form; SHELL is used and kept",
            containerfile: "FROM busybox\nSHELL [\"/bin/ash\", \"-c\"]\nENTRYPOINT exec top -b\n",
            expect: &[
                Config("Entrypoint", r#"["/bin/ash", "-c", "exec top -b"]"#),
                Config("Shell", r#"["/bin/ash", "-c"]"#),
            ],
            ..Case::EMPTY
        },
        Case {
            name: "ENTRYPOINT forgets the CMD of the base",
            containerfile: "FROM busybox\nENTRYPOINT [\"/bin/echo\"]\n",
            expect: &[Config("Cmd", "null")],
            ..Case::EMPTY
        },
        Case {
            name: "the base's CMD stays otherwise",
            containerfile: "FROM busybox\nLABEL a=1\n",
            expect: &[Config("Cmd", r#"["/bin/sh"]"#), Layers(1)],
            ..Case::EMPTY
        },
        Case {
            name: "LABEL: quotes, spaces, several, the last one wins",
            containerfile: "FROM scratch\nLABEL a=1 \"b c\"=\"d e\" f='g\"h' \\\n      a=2\nLABEL multi=\"x \\\ny\"\n",
            expect: &[Config("Labels", r#"{"a": "2", "b c": "d e", "f": "g\"h", "multi": "x y"}"#)],
            ..Case::EMPTY
        },
        Case {
            name: "EXPOSE: protocols and ranges",
            containerfile: "FROM scratch\nEXPOSE 80 53/udp 8000-8002/tcp\n",
            expect: &[Config(
                "ExposedPorts",
                r#"{"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}}"#,
            )],
            ..Case::EMPTY
        },
        Case {
            name: "VOLUME, USER, STOPSIGNAL",
            containerfile: "FROM scratch\nVOLUME /a /b\nVOLUME [\"/c d\"]\nUSER 5:6\nSTOPSIGNAL SIGUSR1\n",
            expect: &[
                Config("Volumes", r#"{"/a": {}, "/b": {}, "/c d": {}}"#),
                Config("User", r#""5:6""#),
                Config("StopSignal", r#""SIGUSR1""#),
            ],
            ..Case::EMPTY
        },
        Case {
            name: "HEALTHCHECK with times",
            containerfile: "FROM scratch\nHEALTHCHECK --interval=5s --timeout=1m30s --start-period=500ms --retries=3 CMD true\n",
            expect: &[Config(
                "Healthcheck",
                r#"{"Test": ["CMD-SHELL", "true"], "Interval": 5000000000, "Timeout": 90000000000, "StartPeriod": 500000000, "Retries": 3}"#,
            )],
            ..Case::EMPTY
        },
        Case {
            name: "HEALTHCHECK in exec form, then NONE in a child",
            containerfile: "FROM scratch AS a\nHEALTHCHECK CMD [\"/x\", \"y\"]\nFROM a\nHEALTHCHECK NONE\n",
            expect: &[Config("Healthcheck", r#"{"Test": ["NONE"]}"#)],
            ..Case::EMPTY
        },
        Case {
            name: "WORKDIR makes the folder, relative ones add up",
            containerfile: "FROM busybox\nWORKDIR /a\nWORKDIR b/c\nWORKDIR ../d\nRUN pwd > /f\n",
            expect: &[
                Config("WorkingDir", r#""/a/b/d""#),
                Folder("a/b/c"),
                Folder("a/b/d"),
                Text("f", "/a/b/d\n"),
                Owner("a", 0, 0),
            ],
            ..Case::EMPTY
        },
    ]);
}

#[test]
fn the_maintainer_is_the_author() {
    if !needs::root() {
        return;
    }
    let saved = Rbuild::new().built("FROM scratch\nMAINTAINER Ann <ann@example.org>\n", &[]);
    assert_eq!(saved.config["author"], "Ann <ann@example.org>");
}

#[test]
fn onbuild_waits_for_the_child_and_no_longer() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let parent = "FROM busybox\nONBUILD COPY a /from-child\nONBUILD RUN echo triggered > /t\nRUN true\n";
    let saved = rbuild.built_with(&["-t", "parent"], parent, &[]);
    assert_eq!(saved.start()["OnBuild"], json!(["COPY a /from-child", "RUN echo triggered > /t"]));
    assert!(!saved.has("t"), "nothing happens in the parent");

    let child = rbuild.built_with(&["-t", "child"], "FROM parent\nRUN cat /t > /after\n", &[("a", "A")]);
    assert_eq!((child.text("from-child"), child.text("after")), ("A".to_owned(), "triggered\n".to_owned()));
    assert!(child.start()["OnBuild"].as_array().is_none_or(Vec::is_empty), "triggers are used up");

    rbuild.build("FROM child\nRUN true\n", &[]).expect_ok();
}

#[test]
fn the_history_reads_as_dockers() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let containerfile = "FROM busybox\nARG who=me\nENV A=1 B=\"two words\"\nLABEL l=x\nWORKDIR /w\nCOPY a b /w/\n\
                         RUN echo $who\nUSER worker\nVOLUME /v\nSHELL [\"/bin/sh\", \"-c\"]\n\
                         STOPSIGNAL 9\nENTRYPOINT [\"a\", \"b\"]\nCMD c d\nMAINTAINER x y\n";
    let saved = rbuild.built(containerfile, &[("a", ""), ("b", "")]);
    let history = saved.config["history"].as_array().unwrap();
    let said =
        |entry: &Value| (entry["created_by"].as_str().unwrap().to_owned(), entry["empty_layer"] == true);
    let base = history.len() - 13;
    let expected = [
        ("ARG who=me", true),
        ("ENV A=1 B=two words", true),
        ("LABEL l=x", true),
        ("WORKDIR /w", false),
        ("COPY a b /w/ # buildkit", false),
        ("RUN |1 who=me /bin/sh -c echo $who # buildkit", false),
        ("USER worker", true),
        ("VOLUME [/v]", true),
        ("SHELL [/bin/sh -c]", true),
        ("STOPSIGNAL 9", true),
        ("ENTRYPOINT [\"a\" \"b\"]", true),
        ("CMD [\"/bin/sh\" \"-c\" \"c d\"]", true),
        ("MAINTAINER x y", true),
    ];
    let found: Vec<(String, bool)> = history[base..].iter().map(said).collect();
    assert_eq!(found, expected.map(|(text, empty)| (text.to_owned(), empty)));
    let filled = history.iter().filter(|entry| entry["empty_layer"] != true).count();
    assert_eq!(filled, saved.layers.len(), "one entry for each layer");
}

#[test]
fn a_stage_that_the_target_does_not_need_is_not_built() {
    check(&[
        Case {
            name: "unused stages stay untouched",
            containerfile: "FROM busybox AS unused\nRUN exit 1\nFROM scratch\nCOPY a /\n",
            files: &[("a", "A")],
            expect: &[Text("a", "A")],
            ..Case::EMPTY
        },
        Case {
            name: "--target stops at a stage, by name or number",
            flags: &["--target", "first"],
            containerfile: "FROM scratch AS first\nCOPY a /1\nFROM first AS second\nCOPY a /2\n",
            files: &[("a", "A")],
            expect: &[Text("1", "A"), Absent("2")],
            ..Case::EMPTY
        },
        Case {
            name: "--target by number",
            flags: &["--target=0"],
            containerfile: "FROM scratch\nCOPY a /1\nFROM scratch\nCOPY a /2\n",
            files: &[("a", "A")],
            expect: &[Text("1", "A"), Absent("2")],
            ..Case::EMPTY
        },
    ]);
}
