//! What an image holds, read from the docker-archive that `save` writes: layers laid over each other, and the config.
//!
//! The reading is the tests' own, so a mistake in rbuild's writer can't be mended by the same mistake in its reader.
//!
//! May touch: the archive. Knows nothing of rbuild's libraries.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use serde_json::Value;

/// One saved image.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    /// The image's config document.
    pub(crate) config: Value,
    /// The names in the archive's manifest.
    pub(crate) names: Vec<String>,
    /// Each layer's entries, bottom first, whiteouts as they came.
    pub(crate) layers: Vec<Tree>,
    /// All layers laid over each other.
    pub(crate) tree: Tree,
}

/// Files by path, without a leading slash.
pub(crate) type Tree = BTreeMap<String, Node>;

/// One file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// As in `ls -l`: `-` file, `d` folder, `l` link, `c` and `b` devices, `p` pipe, `h` hard link.
    pub(crate) kind: char,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) modified: u64,
    pub(crate) content: Vec<u8>,
    /// Where a link leads; empty otherwise.
    pub(crate) target: String,
}

impl Saved {
    /// Reads the first image of a docker-archive.
    pub(crate) fn read(archive: &Path) -> Self {
        let members = read_members(File::open(archive).expect("the saved archive"));
        let member = |name: &str| members.get(name).unwrap_or_else(|| panic!("`{name}` in the archive"));
        let manifest: Value = serde_json::from_slice(member("manifest.json")).expect("manifest.json is JSON");
        let image = &manifest[0];
        let config = member(image["Config"].as_str().expect("Config is a name"));
        let layers = image["Layers"].as_array().expect("Layers is a list").iter();
        let layers: Vec<Tree> = layers.map(|name| layer(member(name.as_str().expect("a name")))).collect();
        let tree = layers.iter().fold(Tree::new(), lay_over);
        let names = image["RepoTags"].as_array().into_iter().flatten();
        let names = names.map(|name| name.as_str().expect("a name").to_owned()).collect();
        Self { config: serde_json::from_slice(config).expect("the config is JSON"), names, layers, tree }
    }

    /// The `config` part of the config: what a container starts with.
    pub(crate) fn start(&self) -> &Value {
        &self.config["config"]
    }

    /// The layers' diff IDs.
    pub(crate) fn diff_ids(&self) -> Vec<String> {
        let ids = self.config["rootfs"]["diff_ids"].as_array().expect("diff_ids is a list").iter();
        ids.map(|id| id.as_str().expect("a digest").to_owned()).collect()
    }

    /// A file that must be there.
    #[track_caller]
    pub(crate) fn node(&self, path: &str) -> &Node {
        let names = || self.tree.keys().filter(|name| !name.starts_with("bin/")).collect::<Vec<_>>();
        self.tree.get(path).unwrap_or_else(|| panic!("`{path}` in the image, which holds {:?}", names()))
    }

    /// The text of a file that must be there.
    #[track_caller]
    pub(crate) fn text(&self, path: &str) -> String {
        let mut node = self.node(path);
        if node.kind == 'h' {
            node = self.node(&node.target);
        }
        String::from_utf8(node.content.clone()).expect("a text file")
    }

    /// Whether the image has a file of this name.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.tree.contains_key(path)
    }
}

/// The bytes of every member; a docker-archive may name one layer by a link to another.
fn read_members(source: impl Read) -> BTreeMap<String, Vec<u8>> {
    let mut members: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut archive = tar::Archive::new(source);
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("a whole tar");
        let name = entry.path().expect("a name").to_str().expect("a name in UTF-8").to_owned();
        let mut bytes = Vec::new();
        match entry.link_name().expect("a link name") {
            Some(target) => {
                let target = target.to_str().expect("a name in UTF-8");
                let target = target.rsplit("../").next().unwrap_or(target);
                bytes.clone_from(members.get(target).expect("a link to an earlier member"));
            }
            None => drop(entry.read_to_end(&mut bytes).expect("a whole tar")),
        }
        members.insert(name, bytes);
    }
    members
}

fn layer(bytes: &[u8]) -> Tree {
    let mut tree = Tree::new();
    let mut archive = tar::Archive::new(Cursor::new(bytes));
    for entry in archive.entries().expect("a layer is a tar") {
        let mut entry = entry.expect("a whole layer");
        let name = plain(entry.path().expect("a name").to_str().expect("a name in UTF-8"));
        if !name.is_empty() {
            tree.insert(name, node(&mut entry));
        }
    }
    tree
}

fn plain(name: &str) -> String {
    name.trim_start_matches("./").trim_start_matches('/').trim_end_matches('/').to_owned()
}

fn node(entry: &mut tar::Entry<'_, impl Read>) -> Node {
    let header = entry.header().clone();
    let kind = match header.entry_type() {
        tar::EntryType::Directory => 'd',
        tar::EntryType::Symlink => 'l',
        tar::EntryType::Link => 'h',
        tar::EntryType::Char => 'c',
        tar::EntryType::Block => 'b',
        tar::EntryType::Fifo => 'p',
        _ => '-',
    };
    let target = entry.link_name().expect("a link name");
    let target =
        target.map(|target| target.to_str().expect("a link in UTF-8").to_owned()).unwrap_or_default();
    let target = if kind == 'h' { plain(&target) } else { target };
    let mut content = Vec::new();
    entry.read_to_end(&mut content).expect("a whole layer");
    Node {
        kind,
        mode: header.mode().expect("a mode") & 0o7777,
        uid: header.uid().expect("an owner"),
        gid: header.gid().expect("a group"),
        modified: header.mtime().expect("a time"),
        content,
        target,
    }
}

/// Lays a layer over what lies below: whiteouts remove, opaque folders empty, the rest replaces.
fn lay_over(mut below: Tree, layer: &Tree) -> Tree {
    for name in layer.keys() {
        let (folder, last) = name.rsplit_once('/').unwrap_or(("", name));
        if last == ".wh..wh..opq" {
            below.retain(|path, _| !is_below(path, folder));
        } else if let Some(removed) = last.strip_prefix(".wh.") {
            let removed = if folder.is_empty() { removed.to_owned() } else { format!("{folder}/{removed}") };
            below.retain(|path, _| *path != removed && !is_below(path, &removed));
        }
    }
    for (name, node) in layer {
        if name.rsplit('/').next().is_some_and(|last| last.starts_with(".wh.")) {
            continue;
        }
        if node.kind != 'd' {
            below.retain(|path, _| !is_below(path, name));
        }
        below.insert(name.clone(), node.clone());
    }
    below
}

fn is_below(path: &str, folder: &str) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}
