//! COPY and the local part of ADD: files of a context, stage or image become a layer.
//!
//! The key holds what is taken, as it will be (names, modes after `--chmod`, owners after `--chown`,
//! links, content), and where it goes; never times. For a stage or an image the hash of the taken
//! files is remembered by the stack's chain, so an unchanged stage is not read again.
//!
//! May touch: scratch, stack, the source tree. Knows nothing of sandboxes, printing.

use std::cell::OnceCell;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use runner::rootfs::{self, MountOptions};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use store::digest::Hasher;
use store::{ImagePath, RootDir, Scratch};

use super::chmod::Chmod;
use super::configure::value;
use super::place::{Placer, Placing};
use super::{StepError, add, owner};
use crate::build::{Build, digest_of_parts, hash_part};
use crate::cache_key::CacheKey;
use crate::containerfile::{Copy, CopySource, expand};
use crate::context::ignore::IgnoreRules;
use crate::context::select::{Item, Selected};
use crate::draft::Draft;
use crate::stage::{Stages, Tree};

/// A COPY or ADD made concrete.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the instruction")]
pub struct CopyStep {
    tree: Tree,
    words: Vec<String>,
    /// Name, content.
    heredocs: Vec<(String, String)>,
    exclude: String,
    exclude_rules: IgnoreRules,
    destination: ImagePath,
    into_folder: bool,
    chown: Option<String>,
    chmod: Option<(String, Chmod)>,
    keep_parents: bool,
    link: bool,
    /// ADD unpacks archives.
    unpack: bool,
    selected: OnceCell<Vec<Selected>>,
    /// The instruction as history shows it.
    pub shown: String,
}

impl CopyStep {
    /// Gives every word its value and opens the source tree.
    pub fn resolve(
        build: &Build<'_>,
        stages: &Stages<'_>,
        draft: &Draft,
        copy: &Copy,
        is_add: bool,
    ) -> Result<Self, StepError> {
        let one = |word: &Option<_>| word.as_ref().map(|word| value(draft, word, build.escape)).transpose();
        let (mut words, mut heredocs) = (Vec::new(), Vec::new());
        for source in &copy.sources {
            match source {
                CopySource::Path(word) => words.push(value(draft, word, build.escape)?),
                CopySource::Heredoc(heredoc) => {
                    let content = if heredoc.expand {
                        expand_body(draft, &heredoc.content)?
                    } else {
                        heredoc.content.clone()
                    };
                    heredocs.push((heredoc.name.clone(), content));
                }
            }
        }
        if is_add {
            add::refuse_remote(&words)?;
        }
        let destination = value(draft, &copy.destination, build.escape)?;
        let chmod = one(&copy.chmod)?.map(|text| Chmod::parse(&text).map(|chmod| (text, chmod))).transpose();
        let chmod = chmod.map_err(|error| StepError::Invalid(error.to_string()))?;
        let chown = one(&copy.chown)?;
        let exclude = copy
            .exclude
            .iter()
            .map(|word| value(draft, word, build.escape))
            .collect::<Result<Vec<_>, _>>()?
            .join("\n");
        let exclude_rules =
            IgnoreRules::parse(exclude.as_bytes()).map_err(|error| StepError::Invalid(error.to_string()))?;
        let from = one(&copy.from)?;
        let step = Self {
            tree: stages.tree(from.as_deref().filter(|from| !from.is_empty()))?,
            shown: shown(is_add, copy, &words, &heredocs, &destination, chown.as_deref(), chmod.as_ref()),
            into_folder: is_folder(&destination) || words.len() + heredocs.len() > 1,
            destination: draft.working_dir().join(&destination),
            words,
            heredocs,
            exclude,
            exclude_rules,
            chown,
            chmod,
            keep_parents: copy.parents,
            link: copy.link,
            unpack: is_add && copy.unpack != Some(false),
            selected: OnceCell::new(),
        };
        Ok(step)
    }

    /// What the step depends on.
    pub fn key(&self, build: &Build<'_>, draft: &Draft) -> Result<CacheKey, StepError> {
        let parent = if self.link && self.chown.is_none() { None } else { draft.chain() };
        let mut key = CacheKey::new(if self.unpack { "add" } else { "copy" }, parent);
        key.add("to", self.destination.to_string());
        key.add(
            "form",
            format!("folder {} parents {} link {}", self.into_folder, self.keep_parents, self.link),
        );
        key.add(
            "owner",
            self.chown.as_deref().unwrap_or(if self.tree.keeps_owners() { "kept" } else { "0:0" }),
        );
        key.add("mode", self.chmod.as_ref().map_or("", |(text, _)| text));
        key.add("exclude", &self.exclude);
        for (name, content) in &self.heredocs {
            key.add("heredoc", format!("{name}\n{content}"));
        }
        if !self.words.is_empty() {
            key.add("files", self.content(build)?);
        }
        Ok(key)
    }

    /// One hash over everything that is taken.
    fn content(&self, build: &Build<'_>) -> Result<String, StepError> {
        let memo = self.tree.chain().map(|chain| {
            let parts = [chain.to_string(), self.words.join("\n"), self.exclude.clone(), self.mode_text()];
            format!("stack {}", digest_of_parts(parts.iter().map(String::as_bytes)))
        });
        if let Some(memo) = &memo {
            if let Some(known) = build.store.cache().context_memory(memo)? {
                return Ok(String::from_utf8_lossy(&known).into_owned());
            }
        }
        let hash = hash_selected(
            self.selected(build)?,
            self.chmod.as_ref().map(|(_, chmod)| chmod),
            self.tree.keeps_owners(),
        );
        if let Some(memo) = &memo {
            build.store.cache().set_context_memory(memo, hash.as_bytes())?;
        }
        Ok(hash)
    }

    fn mode_text(&self) -> String {
        self.chmod.as_ref().map(|(text, _)| text.clone()).unwrap_or_default()
    }

    fn selected(&self, build: &Build<'_>) -> Result<&[Selected], StepError> {
        if let Some(selected) = self.selected.get() {
            return Ok(selected);
        }
        let selected = self.tree.select(build, &self.words, &self.exclude_rules)?;
        Ok(self.selected.get_or_init(|| selected))
    }

    /// Copies onto `scratch`.
    pub fn apply(&self, build: &Build<'_>, draft: &Draft, scratch: &Scratch) -> Result<(), StepError> {
        let layers = if self.link { &[][..] } else { &draft.layers[..] };
        let stack = build.store.layers().open_stack(layers)?;
        scratch.take_root_of(&stack)?;
        let root = rootfs::mount(build.store, &stack, Some(scratch), MountOptions::default())?;
        let root = RootDir::new(root.mount);
        let placing = Placing {
            owner: self.owner(build, draft, &root)?,
            owner_is_given: self.chown.is_some(),
            chmod: self.chmod.as_ref().map(|(_, chmod)| chmod.clone()),
            into_folder: self.into_folder,
            keep_parents: self.keep_parents,
        };
        for (name, content) in &self.heredocs {
            self.put_heredoc(&root, &placing, name, content)?;
        }
        if self.words.is_empty() {
            return Ok(());
        }
        let mut placer = Placer::new(&self.tree.source().root, &root, &placing);
        for selected in self.selected(build)? {
            let unpacked = self.unpack
                && add::unpack(&self.tree.source().root, selected, &root, &self.destination, &placing)?;
            if !unpacked {
                placer.place(selected, &self.destination)?;
            }
        }
        Ok(())
    }

    /// Names of `--chown` are those of the image that is built.
    fn owner(
        &self,
        build: &Build<'_>,
        draft: &Draft,
        root: &RootDir,
    ) -> Result<Option<(u32, u32)>, StepError> {
        let Some(spec) = &self.chown else {
            return Ok((!self.tree.keeps_owners()).then_some((0, 0)));
        };
        if self.link {
            let stack = build.store.layers().open_stack(&draft.layers)?;
            let whole = rootfs::mount(build.store, &stack, None, MountOptions::default())?;
            return owner::owner(&RootDir::new(whole.mount), spec).map(Some);
        }
        owner::owner(root, spec).map(Some)
    }

    fn put_heredoc(
        &self,
        root: &RootDir,
        placing: &Placing,
        name: &str,
        content: &str,
    ) -> Result<(), StepError> {
        let is_folder = root.open(&self.destination, OFlags::PATH | OFlags::DIRECTORY).is_ok();
        let path = if self.into_folder || is_folder {
            self.destination.join(name)
        } else {
            self.destination.clone()
        };
        let failed = |source: std::io::Error| StepError::Io { doing: format!("write {path}"), source };
        let (uid, gid) = placing.owner.unwrap_or((0, 0));
        let own = |file: std::os::fd::BorrowedFd<'_>| {
            Ok(rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
        };
        let parent = root.make_dirs(&path.parent(), 0o755, &mut { own }).map_err(failed)?;
        let file_name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
        match rustix::fs::unlinkat(&parent, file_name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, file_name, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| failed(error.into()))?;
        let mut file = std::fs::File::from(made);
        file.write_all(content.as_bytes()).map_err(failed)?;
        own(file.as_fd()).map_err(failed)?;
        let mode = placing.chmod.as_ref().map_or(0o644, |chmod| chmod.apply(0o644, false));
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(|error| failed(error.into()))
    }
}

fn is_folder(destination: &str) -> bool {
    destination.ends_with('/') || matches!(destination.rsplit('/').next(), Some("." | ".."))
}

fn expand_body(draft: &Draft, content: &str) -> Result<String, StepError> {
    expand::heredoc(content, &|name| draft.scope.value(name))
        .map_err(|source| StepError::Expand { word: "the heredoc".to_owned(), source })
}

/// Hashes what will be there, not when it was made nor how large its folders are.
pub fn hash_selected(selected: &[Selected], chmod: Option<&Chmod>, keeps_owners: bool) -> String {
    let mut hasher = Hasher::new();
    let mut line = Vec::new();
    for one in selected {
        line.clear();
        line.extend(b"source ");
        line.extend(&one.path);
        hash_part(&mut hasher, &line);
        for item in &one.items {
            line.clear();
            describe(&mut line, item, chmod, keeps_owners);
            hash_part(&mut hasher, &line);
        }
    }
    hasher.finish().to_string()
}

/// Adds all of `item` that is copied: numbers and the digest first, then what has no fixed length.
fn describe(line: &mut Vec<u8>, item: &Item, chmod: Option<&Chmod>, keeps_owners: bool) {
    let stat = &item.stat;
    let mode = chmod.map_or(stat.mode, |chmod| chmod.apply(stat.mode, stat.is_dir()));
    let (uid, gid) = if keeps_owners { (stat.uid, stat.gid) } else { (0, 0) };
    let link = item.link.as_deref().unwrap_or_default();
    let xattrs = item.content.as_ref().map(|content| &content.xattrs[..]).unwrap_or_default();
    for number in [stat.kind.as_raw_mode() | mode, uid, gid] {
        line.extend(number.to_le_bytes());
    }
    for number in [stat.rdev, item.relative.len() as u64, link.len() as u64, xattrs.len() as u64] {
        line.extend(number.to_le_bytes());
    }
    if let Some(content) = &item.content {
        line.extend(content.digest.as_bytes());
    }
    line.extend(&item.relative);
    line.extend(link);
    line.extend(xattrs);
}

fn shown(
    is_add: bool,
    copy: &Copy,
    words: &[String],
    heredocs: &[(String, String)],
    destination: &str,
    chown: Option<&str>,
    chmod: Option<&(String, Chmod)>,
) -> String {
    let mut out = vec![if is_add { "ADD" } else { "COPY" }.to_owned()];
    out.extend(chown.map(|chown| format!("--chown={chown}")));
    out.extend(chmod.map(|(text, _)| format!("--chmod={text}")));
    if copy.link {
        out.push("--link".to_owned());
    }
    out.extend(words.iter().cloned());
    out.extend(heredocs.iter().map(|(name, _)| format!("<<{name}")));
    out.push(destination.to_owned());
    format!("{} # buildkit", out.join(" "))
}
