//! COPY and ADD: what is taken, where it lands, whose it is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::Expect::{Absent, Folder, Layers, Link, Mode, Owner, Text};
use crate::shell::{Rbuild, needs};
use crate::{Case, check};

#[test]
fn copy_puts_files_where_docker_puts_them() {
    check(&[
        Case {
            name: "a file gets the name of the destination",
            containerfile: "FROM scratch\nCOPY a /x\n",
            files: &[("a", "A")],
            expect: &[Text("x", "A"), Absent("a"), Layers(1)],
            ..Case::EMPTY
        },
        Case {
            name: "a destination with a slash at its end is a folder",
            containerfile: "FROM scratch\nCOPY a /x/y/\n",
            files: &[("a", "A")],
            expect: &[Text("x/y/a", "A"), Mode("x", 0o755), Owner("x", 0, 0)],
            ..Case::EMPTY
        },
        Case {
            name: "an existing folder takes the file in",
            containerfile: "FROM busybox\nCOPY a /etc\n",
            files: &[("a", "A")],
            expect: &[Text("etc/a", "A"), Folder("etc")],
            ..Case::EMPTY
        },
        Case {
            name: "of a folder, what is in it is copied, hidden and empty ones too",
            containerfile: "FROM scratch\nCOPY d /e/\n",
            files: &[("d/a", "A"), ("d/.hidden", "H"), ("d/sub/b", "B"), ("d/empty/", "")],
            expect: &[
                Text("e/a", "A"),
                Text("e/.hidden", "H"),
                Text("e/sub/b", "B"),
                Folder("e/empty"),
                Absent("e/d"),
            ],
            ..Case::EMPTY
        },
        Case {
            name: "two folders are merged",
            containerfile: "FROM scratch\nCOPY one two /m/\n",
            files: &[("one/a", "1"), ("one/s/x", "x"), ("two/a", "2"), ("two/s/y", "y")],
            expect: &[Text("m/a", "2"), Text("m/s/x", "x"), Text("m/s/y", "y")],
            ..Case::EMPTY
        },
        Case {
            name: "wildcards take what matches",
            containerfile: "FROM scratch\nCOPY *.txt data/?.c [xy]1 /t/\n",
            files: &[
                ("a.txt", "a"),
                ("b.txt", "b"),
                ("c.md", "c"),
                ("data/m.c", "m"),
                ("data/mm.c", "mm"),
                ("x1", "x"),
                ("z1", "z"),
            ],
            expect: &[
                Text("t/a.txt", "a"),
                Text("t/b.txt", "b"),
                Absent("t/c.md"),
                Text("t/m.c", "m"),
                Absent("t/mm.c"),
                Text("t/x1", "x"),
                Absent("t/z1"),
            ],
            ..Case::EMPTY
        },
        Case {
            name: "the JSON form takes names with spaces",
            containerfile: "FROM scratch\nCOPY [\"a b\", \"/c d/\"]\n",
            files: &[("a b", "spaces")],
            expect: &[Text("c d/a b", "spaces")],
            ..Case::EMPTY
        },
        Case {
            name: "a relative destination counts from WORKDIR",
            containerfile: "FROM scratch\nWORKDIR /w/x\nCOPY a .\nCOPY a ../y/\n",
            files: &[("a", "A")],
            expect: &[Text("w/x/a", "A"), Text("w/y/a", "A")],
            ..Case::EMPTY
        },
        Case {
            name: "links inside a folder stay links",
            containerfile: "FROM scratch\nCOPY d /d\n",
            files: &[("d/a", "A"), ("d/l -> a", ""), ("d/away -> /nowhere/else", "")],
            expect: &[Link("d/l", "a"), Link("d/away", "/nowhere/else")],
            ..Case::EMPTY
        },
        Case {
            name: "a here-document becomes a file, with variables unless its word is quoted",
            containerfile: "FROM scratch\nARG who=world\nCOPY <<EOF <<'RAW' /h/\nhello $who\nEOF\nraw $who\nRAW\n",
            expect: &[Text("h/EOF", "hello world\n"), Text("h/RAW", "raw $who\n")],
            ..Case::EMPTY
        },
        Case {
            name: "a later COPY replaces a file by a folder and keeps the rest",
            containerfile: "FROM scratch\nCOPY one /x\nCOPY two /x\n",
            files: &[("one/keep", "k"), ("one/a", "1"), ("two/a", "2")],
            expect: &[Text("x/keep", "k"), Text("x/a", "2"), Layers(2)],
            ..Case::EMPTY
        },
    ]);
}

#[test]
fn copy_sets_owner_and_mode() {
    check(&[
        Case {
            name: "files belong to root and keep their mode",
            containerfile: "FROM scratch\nCOPY . /\n",
            files: &[("a", "A"), ("run.sh", "#!/bin/sh\n")],
            prepare: |context| own(&context.join("a"), 1234),
            expect: &[Owner("a", 0, 0), Mode("a", 0o644), Mode("run.sh", 0o755)],
            ..Case::EMPTY
        },
        Case {
            name: "--chown takes numbers",
            containerfile: "FROM scratch\nCOPY --chown=12:34 d /d\n",
            files: &[("d/s/a", "A")],
            expect: &[Owner("d", 12, 34), Owner("d/s", 12, 34), Owner("d/s/a", 12, 34)],
            ..Case::EMPTY
        },
        Case {
            name: "--chown takes names of the image's own users",
            containerfile: "FROM busybox\nCOPY --chown=worker:staff a /a\nCOPY --chown=worker a /b\n",
            files: &[("a", "A")],
            expect: &[Owner("a", 1000, 50), Owner("b", 1000, 1000)],
            ..Case::EMPTY
        },
        Case {
            name: "--chmod sets the mode of files",
            containerfile: "FROM scratch\nCOPY --chmod=0751 a /a\nADD --chmod=600 a /b\n",
            files: &[("a", "A")],
            expect: &[Mode("a", 0o751), Mode("b", 0o600)],
            ..Case::EMPTY
        },
        Case {
            name: "set-uid and sticky bits come through",
            containerfile: "FROM scratch\nCOPY d /d\n",
            files: &[("d/s", "S"), ("d/t/", "")],
            prepare: |context| {
                mode(&context.join("d/s"), 0o4755);
                mode(&context.join("d/t"), 0o1777);
            },
            expect: &[Mode("d/s", 0o4755), Mode("d/t", 0o1777)],
            ..Case::EMPTY
        },
    ]);
}

#[test]
fn copy_takes_from_stages_and_images() {
    check(&[
        Case {
            name: "--from names a stage",
            containerfile: "FROM scratch AS One\nCOPY a /deep/a\nFROM scratch\nCOPY --from=one /deep/a /b\n",
            files: &[("a", "A")],
            expect: &[Text("b", "A"), Absent("deep"), Layers(1)],
            ..Case::EMPTY
        },
        Case {
            name: "--from counts stages from 0",
            containerfile: "FROM scratch\nCOPY a /0\nFROM scratch\nCOPY a /1\nFROM scratch\nCOPY --from=0 /0 /\nCOPY --from=1 / /all/\n",
            files: &[("a", "A")],
            expect: &[Text("0", "A"), Text("all/1", "A")],
            ..Case::EMPTY
        },
        Case {
            name: "--from names an image",
            containerfile: "FROM scratch\nCOPY --from=busybox /etc/passwd /users\n",
            expect: &[Mode("users", 0o644), Owner("users", 0, 0)],
            ..Case::EMPTY
        },
        Case {
            name: "--from keeps what a RUN gave a file",
            containerfile: "FROM busybox AS made\nRUN echo x > /f && chown 7:8 /f && chmod 2711 /f && mkdir -m 1770 /dir && ln -s f /l\n\
                            FROM scratch\nCOPY --from=made /f /dir /l /out/\nCOPY --from=made --chown=1:2 /f /owned\n",
            expect: &[
                Mode("out/f", 0o2711),
                Owner("out/f", 7, 8),
                Text("out/f", "x\n"),
                Owner("owned", 1, 2),
            ],
            ..Case::EMPTY
        },
        Case {
            name: "a stage can stand on a stage",
            containerfile: "FROM scratch AS base\nCOPY a /a\nFROM base AS next\nCOPY a /b\nFROM next\nCOPY a /c\n",
            files: &[("a", "A")],
            expect: &[Text("a", "A"), Text("b", "A"), Text("c", "A"), Layers(3)],
            ..Case::EMPTY
        },
    ]);
}

#[test]
fn add_unpacks_local_archives() {
    check(&[
        Case {
            name: "a tar is unpacked",
            containerfile: "FROM scratch\nADD files.tar /out/\n",
            prepare: |context| pack(context, "files.tar", &["tar", "-cf"]),
            expect: &[Text("out/in/a", "A"), Link("out/in/l", "a"), Absent("out/files.tar")],
            ..Case::EMPTY
        },
        Case {
            name: "a gzip, an xz, a bzip2 and a zstd too",
            containerfile: "FROM scratch\nADD f.gz /gz/\nADD f.xz /xz/\nADD f.bz2 /bz2/\nADD f.zst /zst/\n",
            prepare: |context| {
                pack(context, "f.gz", &["tar", "--gzip", "-cf"]);
                pack(context, "f.xz", &["tar", "--xz", "-cf"]);
                pack(context, "f.bz2", &["tar", "--bzip2", "-cf"]);
                pack(context, "f.zst", &["tar", "--zstd", "-cf"]);
            },
            expect: &[
                Text("gz/in/a", "A"),
                Text("xz/in/a", "A"),
                Text("bz2/in/a", "A"),
                Text("zst/in/a", "A"),
            ],
            ..Case::EMPTY
        },
        Case {
            name: "COPY leaves an archive as it is, and ADD a file that only has the name of one",
            containerfile: "FROM scratch\nCOPY files.tar /copied.tar\nADD notes.tar.gz /\n",
            files: &[("notes.tar.gz", "no archive")],
            prepare: |context| pack(context, "files.tar", &["tar", "-cf"]),
            expect: &[Mode("copied.tar", 0o644), Text("notes.tar.gz", "no archive"), Absent("in")],
            ..Case::EMPTY
        },
        Case {
            name: "an archive inside a folder is not unpacked",
            containerfile: "FROM scratch\nADD d /d\n",
            files: &[("d/", "")],
            prepare: |context| pack(context, "d/files.tar", &["tar", "-cf"]),
            expect: &[Mode("d/files.tar", 0o644), Absent("d/in")],
            ..Case::EMPTY
        },
    ]);
}

#[test]
fn ignore_files_hide_parts_of_the_context() {
    const FILES: &[(&str, &str)] = &[
        ("a.log", "1"),
        ("keep.log", "2"),
        ("d/x.tmp", "3"),
        ("d/y", "4"),
        ("node/z", "5"),
        ("src/node/z", "6"),
    ];
    let with = |ignore: &'static [(&'static str, &'static str)]| [FILES, ignore].concat().leak() as &_;
    check(&[
        Case {
            name: ".dockerignore: patterns, ** and exceptions, the last match wins",
            containerfile: "FROM scratch\nCOPY . /\n",
            files: with(&[(".dockerignore", "# a comment\n*.log\n!keep.log\n**/*.tmp\n/node\n")]),
            expect: &[
                Absent("a.log"),
                Text("keep.log", "2"),
                Absent("d/x.tmp"),
                Text("d/y", "4"),
                Absent("node/z"),
                Text("src/node/z", "6"),
            ],
            ..Case::EMPTY
        },
        Case {
            name: ".containerignore is read as well",
            containerfile: "FROM scratch\nCOPY . /\n",
            files: with(&[(".containerignore", "d\nsrc\n")]),
            expect: &[Absent("d"), Absent("src"), Text("a.log", "1")],
            ..Case::EMPTY
        },
        Case {
            name: "the file beside the Containerfile comes first",
            containerfile: "FROM scratch\nCOPY . /\n",
            files: with(&[(".dockerignore", "d\n"), ("Containerfile.dockerignore", "src\n")]),
            expect: &[Text("d/y", "4"), Absent("src")],
            ..Case::EMPTY
        },
        Case {
            name: "all but one",
            containerfile: "FROM scratch\nCOPY . /\n",
            files: with(&[(".dockerignore", "*\n!d/y\n")]),
            expect: &[Text("d/y", "4"), Absent("d/x.tmp"), Absent("a.log"), Absent("Containerfile")],
            ..Case::EMPTY
        },
    ]);
}

#[test]
fn links_in_the_image_never_lead_out_of_it() {
    if !needs::busybox() {
        return;
    }
    let rbuild = Rbuild::with_busybox();
    let victim = rbuild.path("victim");
    fs::create_dir(&victim).unwrap();
    let up = format!("../../../../../../../../..{victim}");
    for link in [&victim, &up] {
        let containerfile = format!(
            "FROM busybox\nRUN ln -s {link} /out\nCOPY a /out/a\nADD a /out/b\nRUN cat /out/a /out/b\n"
        );
        let saved = rbuild.built(&containerfile, &[("a", "inside")]);
        assert_eq!(saved.text(&format!("{victim}/a")[1..]), "inside", "the file lands inside the image");
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "nothing lands on the host");
}

#[test]
fn a_source_that_is_not_there_is_named() {
    if !needs::root() {
        return;
    }
    let rbuild = Rbuild::new();
    for (containerfile, said) in [
        ("FROM scratch\nCOPY missing /\n", "missing"),
        ("FROM scratch\nCOPY a ../../../etc/passwd /x/\n", "etc/passwd"),
        ("FROM scratch AS one\nCOPY a /a\nFROM scratch\nCOPY --from=one /nope /\n", "nope"),
        ("FROM scratch\nCOPY hidden /\n", "hidden"),
    ] {
        let files = [("a", "A"), ("b", "B"), ("hidden", "H"), (".dockerignore", "hidden\n")];
        rbuild.build(containerfile, &files).expect_error(&[said]);
    }
}

fn own(path: &Path, uid: u32) {
    std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Packs a folder `in` with a file and a link.
fn pack(context: &Path, archive: &str, tar: &[&str]) {
    let outside = tempfile::tempdir().unwrap();
    crate::shell::write_files(outside.path(), &[("in/a", "A"), ("in/l -> a", "")]);
    let place = context.join(archive);
    let mut words = tar[1..].to_vec();
    words.extend([place.to_str().unwrap(), "-C", outside.path().to_str().unwrap(), "in"]);
    crate::shell::host(tar[0], &words).expect_ok();
}
