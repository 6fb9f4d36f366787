//! Stacks as the kernel shows them, against GNU tar that unpacks the same layers one over the other.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use store::layers::Expected;
use store::{DiffId, Store};

/// The layers of one image, each made by a script, as the tar that the script's last line writes.
fn tar_by(script: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("bash").args(["-ec", script]).current_dir(dir.path()).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn import(store: &Store, tar: &[u8]) -> DiffId {
    store.layers().import(&mut &tar[..], Expected::default(), false).unwrap().layer.diff_id
}

const LIST: &str = r"find . -mindepth 1 -printf '%P %y %m %U %G %T@ %l\n' | sort; find . -type f | sort | xargs -r sha256sum";

/// Lists what an overlay of the stack shows, in a mount namespace that goes with the process.
fn shown(store: &Store, layers: &[DiffId]) -> String {
    let stack = store.layers().open_stack(layers).unwrap();
    // A mount of another namespace's descriptor is refused, its path is not.
    let path = |tree: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", tree.as_raw_fd())).unwrap();
    let paths: Vec<String> = stack.trees.iter().rev().map(|tree| path(tree).display().to_string()).collect();
    let empty = tempfile::tempdir().unwrap();
    let lower = format!("{}:{}", paths.join(":"), empty.path().display());
    let script = format!("mkdir $1/m; mount -t overlay overlay -o lowerdir={lower} $1/m; cd $1/m; {LIST}");
    let mount_point = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["-m", "bash", "-ec", &script, "shown"])
        .arg(mount_point.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn extracted(tars: &[Vec<u8>]) -> String {
    let dir = tempfile::tempdir().unwrap();
    for tar in tars {
        let mut child = Command::new("tar")
            .args(["x", "-p", "--same-owner", "-C"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(tar).unwrap();
        assert!(child.wait().unwrap().success());
    }
    list(dir.path())
}

fn list(path: &Path) -> String {
    let output = Command::new("bash").args(["-ec", LIST]).current_dir(path).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn gaps_are_filled_as_if_each_layer_were_unpacked_over_the_others() {
    let base =
        "mkdir -p tmp etc/deep/er home/ann; chmod 1777 tmp; chmod 750 etc/deep; chown 1000:1000 home/ann
        echo shadow > etc/deep/secret; chmod 640 etc/deep/secret; echo ls > etc/ls; ln -s ls etc/link
        touch -d @1000 tmp home home/ann etc etc/deep etc/deep/er etc/ls; tar c .";
    let cases: &[&[&str]] = &[
        // Files without their parents.
        &[
            base,
            "mkdir -p tmp etc/deep/er; echo 1 > tmp/new; echo 2 > etc/deep/er/new; tar c tmp/new etc/deep/er/new",
        ],
        // A link to a file of a lower layer.
        &[
            base,
            "mkdir etc; echo x > etc/ls; ln etc/ls etc/also; tar c etc/ls etc/also | tar f - --delete etc/ls",
        ],
        // Through two layers, and attributes given anew in the second.
        &[
            base,
            "mkdir -p home/ann/.ssh; echo k > home/ann/.ssh/key; tar c home/ann/.ssh/key",
            "mkdir -p home/ann/.ssh; chmod 700 home/ann/.ssh; touch -d @77 home/ann/.ssh; tar c home/ann/.ssh; ",
            "mkdir -p home/ann/.ssh; echo 2 > home/ann/.ssh/two; tar c home/ann/.ssh/two",
        ],
    ];
    for scripts in cases {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let tars: Vec<Vec<u8>> = scripts.iter().map(|script| tar_by(script)).collect();
        let layers: Vec<DiffId> = tars.iter().map(|tar| import(&store, tar)).collect();
        // GNU tar changes the times of parents; entries do not.
        let without_times = |text: String| -> Vec<String> {
            text.lines()
                .map(|line| {
                    let mut words: Vec<&str> = line.split(' ').collect();
                    if words.get(1) == Some(&"d") {
                        words.remove(5);
                    }
                    words.join(" ")
                })
                .collect()
        };
        let (ours, theirs) = (without_times(shown(&store, &layers)), without_times(extracted(&tars)));
        assert_eq!(ours, theirs, "{scripts:?}");
        assert_eq!(without_times(shown(&store, &layers)), theirs, "the second time");
    }
}

#[test]
fn an_opaque_root_hides_all_below() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let lower = import(&store, &tar_by("touch old; tar c old"));
    let upper = import(&store, &tar_by("touch .wh..wh..opq new; tar c .wh..wh..opq new"));
    let text = shown(&store, &[lower, upper]);
    assert!(text.contains("new") && !text.contains("old"), "{text}");
}

#[test]
fn an_empty_stack_is_one_empty_tree() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.layers().open_stack(&[]).unwrap().trees.len(), 1);
    assert_eq!(shown(&store, &[]), "");
}

#[test]
fn whiteouts_and_opaque_directories_hide_lower_layers() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let base = tar_by("mkdir -p a/b c; touch a/1 a/b/2 c/3 c/4 d; tar c *");
    let layers = [
        import(&store, &base),
        import(
            &store,
            &tar_by("mkdir -p a c; touch a/.wh.b a/new c/.wh..wh..opq c/5 .wh.d; tar c .wh.d a c"),
        ),
    ];
    let names: Vec<String> =
        shown(&store, &layers).lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect();
    assert_eq!(names[..5], ["a", "a/1", "a/new", "c", "c/5"]);
}
