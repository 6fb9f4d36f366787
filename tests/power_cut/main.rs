//! Power cuts: whatever moment the power goes, what a command said it had done is there, and what it was doing
//! can be done again.
//!
//! Commands run on a store on ext4 on a disk that records ([`recorder`]); then the disk is put together as it would
//! be after a cut ([`cut`]), mounted, and asked. A boot ID of its own makes each image another boot.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

#[path = "../shell/mod.rs"]
mod shell;

mod cut;
mod recorder;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cut::{Cut, Durable};
use recorder::{Event, Recorder};
use serde_json::Value;
use shell::{Outcome, Rbuild, host, needs, write_files};

const DISK_BYTES: usize = 48 << 20;
const CRASH_IMAGES: usize = 320;
const SEED: u64 = 20_261_124;

/// The commands, in order; `@` is the folder of their inputs.
const COMMANDS: [&[&str]; 12] = [
    &["import", "@/base.tar", "base"],
    &["build", "--network", "none", "--timestamp", "1700000000", "-t", "one", "@/one"],
    &["tag", "one", "second"],
    &["load", "-i", "@/loaded.tar"],
    &["rmi", "--ignore", "one"],
    &["prune", "--force"],
    &["build", "--network", "none", "--timestamp", "1700000000", "-t", "two", "@/two"],
    &["import", "@/other.tar", "two"],
    &["rmi", "--ignore", "--force", "loaded", "second"],
    &["prune", "--force", "--build-cache"],
    &["build", "--network", "none", "--timestamp", "1700000000", "-t", "one", "@/one"],
    &["tag", "two", "one"],
];

/// What a name leads to.
#[derive(Clone, Debug, PartialEq)]
struct Named {
    id: String,
    layers: Value,
    /// What `save` writes of it.
    archive: Vec<u8>,
}

/// All names of a store.
type Names = BTreeMap<String, Named>;

/// A recorded command: the events before and after it, and the names that then were there.
struct Done {
    start: usize,
    end: usize,
    names: Names,
}

/// A mounted ext4, gone with the value.
struct Mounted {
    device: String,
    folder: PathBuf,
}

impl Mounted {
    /// Mounts the file system in `image` at `folder`.
    fn new(image: &Path, folder: PathBuf) -> Result<Self, String> {
        let device = host("losetup", &["--find", "--show", image.to_str().unwrap()]).expect_ok().last_line();
        let mounted = Self { device, folder };
        fs::create_dir_all(&mounted.folder).unwrap();
        let words = ["-t", "ext4", "-o", "data=ordered", &mounted.device, mounted.folder.to_str().unwrap()];
        let outcome = host("mount", &words);
        if outcome.code == 0 { Ok(mounted) } else { Err(outcome.to_string()) }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Not mounted when the mount failed.
        drop(Command::new("umount").arg("--recursive").arg(&self.folder).output());
        drop(Command::new("losetup").args(["-d", &self.device]).status());
    }
}

/// The store on the mounted file system.
struct Asked<'p> {
    /// Holds inputs, and the boot ID to be seen.
    inputs: &'p Path,
    store: PathBuf,
    boot: Option<u64>,
}

impl Asked<'_> {
    /// Runs rbuild with each of these words in turn, up to the first that fails.
    fn run(&self, commands: &[&[&str]]) -> Outcome {
        let quoted = |word: &str| format!("'{}'", word.replace('@', self.inputs.to_str().unwrap()));
        let rbuild = [env!("CARGO_BIN_EXE_rbuild"), "--root", self.store.to_str().unwrap()];
        let mut script = "set -e\n".to_owned();
        let mut command = Command::new("sh");
        if let Some(boot) = self.boot {
            let id = self.inputs.join("boot-id");
            fs::write(&id, format!("00000000-0000-4000-8000-{boot:012x}\n")).unwrap();
            script += &format!("mount --bind '{}' /proc/sys/kernel/random/boot_id\n", id.display());
            command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh"]);
        }
        for words in commands {
            let line: Vec<String> = rbuild.iter().chain(*words).map(|word| quoted(word)).collect();
            script += &(line.join(" ") + "\n");
        }
        command.args(["-c", &script]).env("NO_COLOR", "1");
        shell::run(command, b"")
    }

    /// All names and what they lead to.
    fn names(&self) -> Result<Names, String> {
        let listed = ok(self.run(&[&["images", "--format", "json", "--no-trunc"]]))?;
        let rows = listed.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let names: Vec<String> = rows
            .map(|row| format!("{}:{}", row["Repository"].as_str().unwrap(), row["Tag"].as_str().unwrap()))
            .filter(|name| !name.starts_with("<none>"))
            .collect();
        if names.is_empty() {
            return Ok(Names::new());
        }
        let archives: Vec<String> = (0..names.len()).map(|n| format!("@/saved-{n}.tar")).collect();
        let saves = names.iter().zip(&archives).map(|(name, archive)| vec!["save", "-o", archive, name]);
        let inspect = ["inspect"].into_iter().chain(names.iter().map(String::as_str)).collect();
        let commands: Vec<Vec<&str>> = saves.chain([inspect]).collect();
        let told = ok(self.run(&commands.iter().map(Vec::as_slice).collect::<Vec<_>>()))?;
        let told: Value = serde_json::from_str(&told.stdout).unwrap();
        let named = |number: usize| Named {
            id: told[number]["Id"].as_str().unwrap().to_owned(),
            layers: told[number]["RootFS"]["Layers"].clone(),
            archive: fs::read(self.inputs.join(format!("saved-{number}.tar"))).unwrap(),
        };
        Ok(names.into_iter().enumerate().map(|(number, name)| (name, named(number))).collect())
    }
}

fn ok(outcome: Outcome) -> Result<Outcome, String> {
    if outcome.code == 0 { Ok(outcome) } else { Err(outcome.to_string()) }
}

#[test]
#[expect(clippy::print_stdout, reason = "the test's own report")]
fn what_was_acknowledged_survives_every_cut() {
    let tools = ["losetup", "mkfs.ext4", "unshare", "mount"];
    if !needs::busybox() || !tools.iter().all(|tool| needs::tool(tool)) {
        return;
    }
    if !needs::met(Path::new("/dev/fuse").exists(), "/dev/fuse") {
        return;
    }
    // In memory: images are made by the hundred.
    let home = tempfile::Builder::new().prefix("rbuild-power-cut-").tempdir_in("/dev/shm").unwrap();
    let inputs = home.path().join("inputs");
    fs::create_dir(&inputs).unwrap();
    make_inputs(&inputs);
    let empty = empty_disk(&home.path().join("empty"));
    let (events, done) = record(home.path(), &inputs, empty.clone());

    let marks: Vec<usize> = done.iter().map(|command| command.end).collect();
    let cuts = cut::choose(&events, &marks, CRASH_IMAGES, SEED);
    let mut durable = Durable::new(empty);
    let mut lost = Vec::new();
    let mut repeated = 0;
    for (number, cut) in cuts.iter().enumerate() {
        // A file of its own: the kernel may let go of the last one a moment after it was unmounted.
        let image = home.path().join(format!("image-{number}"));
        write_sparse(&image, &durable.image(&events, cut));
        let inputs = inputs.as_path();
        match survive(&image, &home.path().join("mounted"), inputs, number as u64, cut, &done) {
            Ok(again) => repeated += usize::from(again),
            Err(why) => lost.push(format!("cut {number}, {cut:?}: {why}")),
        }
        fs::remove_file(&image).unwrap();
    }
    let flushes = events.iter().filter(|event| matches!(event, Event::Flush)).count();
    println!(
        "power cut: {} crash images of {} writes and {flushes} flushes by {} commands; {repeated} interrupted commands repeated; {} lost something",
        cuts.len(),
        events.len() - flushes,
        done.len(),
        lost.len()
    );
    assert!(cuts.len() >= 300, "{} images", cuts.len());
    assert!(lost.is_empty(), "{} of {} cuts:\n{}", lost.len(), cuts.len(), lost.join("\n\n"));
}

/// A tool's import and save; `@` is the folder of inputs, `%` the mounted file system.
const TOOLS: [(&str, &[&str], &[&str]); 2] = [
    (
        env!("CARGO_BIN_EXE_rbuild"),
        &["--root", "%/store", "import", "@/base.tar", "base"],
        &["--root", "%/store", "save", "-o", "@/saved.tar", "base"],
    ),
    (
        "podman",
        &[
            "--root",
            "%/store",
            "--runroot",
            "@/run",
            "--storage-driver",
            "overlay",
            "import",
            "@/base.tar",
            "base",
        ],
        &[
            "--root",
            "%/store",
            "--runroot",
            "@/run",
            "--storage-driver",
            "overlay",
            "save",
            "-o",
            "@/saved.tar",
            "base",
        ],
    ),
];

#[test]
#[ignore = "compares tools, for docs/durability.md"]
#[expect(clippy::print_stdout, reason = "the comparison's report")]
fn an_import_and_a_cut_behind_it() {
    for (tool, import, save) in TOOLS {
        let home = tempfile::Builder::new().prefix("rbuild-power-cut-").tempdir_in("/dev/shm").unwrap();
        let inputs = home.path().join("inputs");
        let (served, folder) = (home.path().join("fuse"), home.path().join("mounted"));
        fs::create_dir(&inputs).unwrap();
        fs::create_dir(&served).unwrap();
        make_inputs(&inputs);
        let run = |words: &[&str]| {
            let place = |word: &&str| {
                word.replace('@', inputs.to_str().unwrap()).replace('%', folder.to_str().unwrap())
            };
            let mut command = Command::new(tool);
            command.args(words.iter().map(place));
            shell::run(command, b"")
        };
        // A reboot empties the folder for what runs; `save` writes over nothing.
        let saved = || {
            drop(fs::remove_dir_all(inputs.join("run")));
            drop(fs::remove_file(inputs.join("saved.tar")));
            ok(run(save)).map(|_| fs::read(inputs.join("saved.tar")).unwrap())
        };
        let empty = empty_disk(&home.path().join("empty"));
        let recorder = Recorder::serve(empty.clone(), &served);
        let mounted = Mounted::new(&served.join(recorder::FILE), folder.clone()).unwrap();
        run(import).expect_ok();
        let acknowledged = recorder.position();
        let whole = saved().unwrap();
        drop(mounted);
        let events = recorder.end();

        let mut durable = Durable::new(empty);
        // All cuts, and those at the moment of the answer.
        let (mut lost, mut tried) = ([0, 0], [0, 0]);
        for cut in
            cut::choose(&events, &[acknowledged], 200, SEED).iter().filter(|cut| cut.at >= acknowledged)
        {
            let image = home.path().join(format!("image-{}", tried[0]));
            write_sparse(&image, &durable.image(&events, cut));
            let is_there = Mounted::new(&image, folder.clone())
                .is_ok_and(|_mounted| saved().is_ok_and(|is| is == whole));
            fs::remove_file(&image).unwrap();
            for which in 0..=usize::from(cut.at == acknowledged) {
                tried[which] += 1;
                lost[which] += usize::from(!is_there);
            }
        }
        println!(
            "{tool}: an import lost by {} of {} cuts behind it; right behind it by {} of {}",
            lost[0], tried[0], lost[1], tried[1]
        );
    }
}

/// Inputs of the commands, which lie on a disk that nobody cuts off.
fn make_inputs(inputs: &Path) {
    let sized = |length: usize| "0123456789abcdef".repeat(length / 16 + 1);
    fs::copy(shell::base::busybox_base(), inputs.join("base.tar")).unwrap();
    let texts: Vec<(String, String)> =
        (0..24).map(|n: usize| (format!("files/{n}"), sized(n * n * 100))).collect();
    let files: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (&**name, &**text)).collect();
    write_files(&inputs.join("other"), &files);
    host(
        "tar",
        &[
            "-C",
            inputs.join("other").to_str().unwrap(),
            "-cf",
            inputs.join("other.tar").to_str().unwrap(),
            ".",
        ],
    )
    .expect_ok();
    write_files(&inputs.join("one"), &files);
    write_files(&inputs.join("two"), &files);
    let text = "FROM base\nCOPY files/ /files/\nRUN mkdir /made && seq 3000 >/made/list && rm /bin/vi\n";
    write_files(inputs, &[("one/Containerfile", text)]);
    let text =
        "FROM second AS first\nRUN seq 5000 >/list\nFROM base\nCOPY --from=first /list /list\nCOPY . /all/\n";
    write_files(inputs, &[("two/Containerfile", text)]);
    let other = Rbuild::new();
    other.run(&["import", inputs.join("other.tar").to_str().unwrap(), "loaded"]).expect_ok();
    other.run(&["save", "-o", inputs.join("loaded.tar").to_str().unwrap(), "loaded"]).expect_ok();
}

fn empty_disk(place: &Path) -> Vec<u8> {
    fs::write(place, vec![0; DISK_BYTES]).unwrap();
    let now = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
    host("mkfs.ext4", &["-q", "-E", now, place.to_str().unwrap()]).expect_ok();
    let content = fs::read(place).unwrap();
    fs::remove_file(place).unwrap();
    content
}

/// Writes a file without room for what is empty.
fn write_sparse(path: &Path, content: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (number, chunk) in content.chunks(4096).enumerate() {
        if chunk.iter().any(|byte| *byte != 0) {
            file.write_all_at(chunk, number as u64 * 4096).unwrap();
        }
    }
}

/// Runs all commands on the disk that records.
fn record(home: &Path, inputs: &Path, empty: Vec<u8>) -> (Vec<Event>, Vec<Done>) {
    let served = home.join("fuse");
    fs::create_dir(&served).unwrap();
    let recorder = Recorder::serve(empty, &served);
    let mounted = Mounted::new(&served.join(recorder::FILE), home.join("mounted")).unwrap();
    let asked = Asked { inputs, store: mounted.folder.join("store"), boot: None };
    let mut done = Vec::new();
    for words in COMMANDS {
        let start = recorder.position();
        asked.run(&[words]).expect_ok();
        let end = recorder.position();
        done.push(Done { start, end, names: asked.names().unwrap() });
    }
    drop(mounted);
    (recorder.end(), done)
}

/// Mounts the image of a cut, compares the names and repeats what was interrupted; → whether something was.
fn survive(
    image: &Path,
    folder: &Path,
    inputs: &Path,
    number: u64,
    cut: &Cut,
    done: &[Done],
) -> Result<bool, String> {
    let mounted = Mounted::new(image, folder.to_owned())?;
    let asked = Asked { inputs, store: mounted.folder.join("store"), boot: Some(number) };
    let acknowledged = done.iter().rposition(|command| command.end <= cut.at);
    let next = acknowledged.map_or(0, |last| last + 1);
    let interrupted = done.get(next).filter(|command| command.start < cut.at);
    let nothing = Names::new();
    let before = acknowledged.map_or(&nothing, |last| &done[last].names);
    let after = interrupted.map_or(before, |command| &command.names);
    let found = asked.names().map_err(|why| format!("after {acknowledged:?}: {why}"))?;
    for name in before.keys().chain(after.keys()).chain(found.keys()) {
        let is = found.get(name);
        if is != before.get(name) && is != after.get(name) {
            return Err(format!("after {acknowledged:?}: `{name}` leads to {:?}", is.map(|named| &named.id)));
        }
    }
    let Some(interrupted) = interrupted else { return Ok(false) };
    let words = COMMANDS[next];
    ok(asked.run(&[words])).map_err(|why| format!("repeated: {why}"))?;
    let found = asked.names().map_err(|why| format!("after repeating {words:?}: {why}"))?;
    // An import notes its time, so its image is another one of the same layers.
    let is_same = |one: &Named, other: &Named| {
        if words[0] == "import" { one.layers == other.layers } else { one == other }
    };
    let same = found.len() == interrupted.names.len()
        && found.iter().all(|(name, is)| interrupted.names.get(name).is_some_and(|was| is_same(is, was)));
    if same { Ok(true) } else { Err(format!("{words:?}, repeated, came to other names: {:?}", found.keys())) }
}
