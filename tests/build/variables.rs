//! ARG and ENV: scopes, precedence, expansion.

use crate::Expect::{Config, Env, Folder, Link, NoEnv, Text};
use crate::shell::{Rbuild, needs};
use crate::{Case, check};

#[test]
fn arguments_and_environment_follow_dockers_order() {
    check(&[
        Case {
            name: "a default, and a value from the command line",
            flags: &["--build-arg", "b=given", "--build-arg=c=also=given"],
            containerfile: "FROM busybox\nARG a=default\nARG b=default\nARG c\nRUN echo $a $b $c > /f\n",
            expect: &[Text("f", "default given also=given\n"), NoEnv("a"), NoEnv("b"), NoEnv("c")],
            ..Case::EMPTY
        },
        Case {
            name: "an ENV beats the ARG above it",
            flags: &["--build-arg", "a=from-arg"],
            containerfile: "FROM busybox\nARG a\nENV a=from-env\nRUN echo $a > /f\n",
            expect: &[Text("f", "from-env\n"), Env("a=from-env")],
            ..Case::EMPTY
        },
        Case {
            name: "an ARG before FROM is for FROM, and inside a stage when it is named again",
            containerfile: "ARG base=busybox\nARG v=global\nFROM $base\nRUN echo \"[$v]\" > /before\nARG v\nRUN echo \"[$v]\" > /after\n",
            expect: &[Text("before", "[]\n"), Text("after", "[global]\n")],
            ..Case::EMPTY
        },
        Case {
            name: "an ARG ends with its stage and reaches the stages that stand on it",
            containerfile: "FROM busybox AS one\nARG a=1\nFROM one AS two\nRUN echo \"[$a]\" > /child\n\
                            FROM busybox\nCOPY --from=two /child /child\nRUN echo \"[$a]\" > /other\n",
            expect: &[Text("child", "[1]\n"), Text("other", "[]\n")],
            ..Case::EMPTY
        },
        Case {
            name: "several ENV on one line see the values from before the line",
            containerfile: "FROM busybox\nENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc\nENV old style value\n",
            expect: &[Env("abc=bye"), Env("def=hello"), Env("ghi=bye"), Env("old=style value")],
            ..Case::EMPTY
        },
        Case {
            name: "defaults, alternatives, patterns and escapes",
            containerfile: "FROM busybox\nENV v=a.b.c e=\nENV r=\"${v:-x} ${e:-dflt} ${e-kept} ${v:+set} ${n:+unset} ${v#*.} ${v##*.} ${v%.*} ${v%%.*} ${v/b/B} \\$v\" q='$v'\n",
            expect: &[Env("r=a.b.c dflt  set  b.c c a.b a a.B.c $v"), Env("q=$v")],
            ..Case::EMPTY
        },
        Case {
            name: "variables reach the other instructions",
            containerfile: "FROM scratch\nARG d=/data u=7:8 p=80 s=KILL\nENV name=n\nWORKDIR $d/${name}\nCOPY a$p $d/\nEXPOSE $p\nUSER $u\nLABEL l=$name-$d\nSTOPSIGNAL SIG$s\nVOLUME $d/v\n",
            flags: &["--build-arg", "d=/given"],
            files: &[("a80", "A")],
            expect: &[
                Folder("given/n"),
                Text("given/a80", "A"),
                Config("ExposedPorts", r#"{"80/tcp": {}}"#),
                Config("User", r#""7:8""#),
                Config("StopSignal", r#""SIGKILL""#),
                Config("Labels", r#"{"l": "n-/given"}"#),
                Config("Volumes", r#"{"/given/v": {}}"#),
            ],
            ..Case::EMPTY
        },
        Case {
            name: "CMD, ENTRYPOINT and RUN leave variables to the shell",
            containerfile: "FROM busybox\nENV x=1\nRUN x=2; echo $x > /f\nCMD echo $x\n",
            expect: &[Text("f", "2\n"), Config("Cmd", r#"["/bin/sh", "-c", "echo $x"]"#)],
            ..Case::EMPTY
        },
        Case {
            name: "an escape character of one's own",
            containerfile: "# escape=`\nFROM busybox\nENV a=one`\n b=two\nRUN ln -s C:\\\\x /l && `\n true\n",
            expect: &[Link("l", "C:\\x")],
            ..Case::EMPTY
        },
    ]);
}

#[test]
fn an_argument_that_nothing_asks_for_is_told() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let built = rbuild.build_with(&["--build-arg", "nobody=1"], "FROM busybox\nRUN true\n", &[]);
    built.expect_ok().expect_stderr("nobody");
}
