//! COPY and ADD.
//!
//! May touch: its arguments. Knows nothing of files.

use super::{Body, Form, Reader, heredoc_of};
use crate::containerfile::flags::Flags;
use crate::containerfile::heredoc;
use crate::containerfile::syntax::{Copy, CopySource, Heredoc, Kind, Word};
use crate::containerfile::words::Stretch;

impl Reader<'_, '_> {
    pub(super) fn copy(mut self) -> Option<Kind> {
        let given = std::mem::take(&mut self.head.flags);
        let mut flags = Flags::new("COPY", given, &mut self.notes.errors);
        let copy = Copy {
            from: flags.value("from"),
            chown: flags.value("chown"),
            chmod: flags.value("chmod"),
            link: flags.switch("link").unwrap_or(false),
            parents: flags.switch("parents").unwrap_or(false),
            exclude: flags.values("exclude"),
            ..Copy::default()
        };
        flags.finish();
        self.sources(copy).map(Kind::Copy)
    }

    pub(super) fn add(mut self) -> Option<Kind> {
        let given = std::mem::take(&mut self.head.flags);
        let mut flags = Flags::new("ADD", given, &mut self.notes.errors);
        let add = Copy {
            chown: flags.value("chown"),
            chmod: flags.value("chmod"),
            link: flags.switch("link").unwrap_or(false),
            exclude: flags.values("exclude"),
            checksum: flags.value("checksum"),
            keep_git_dir: flags.switch("keep-git-dir").unwrap_or(false),
            unpack: flags.switch("unpack"),
            ..Copy::default()
        };
        flags.finish();
        self.sources(add).map(Kind::Add)
    }

    /// Fills in what is copied, and where to.
    fn sources(mut self, copy: Copy) -> Option<Copy> {
        let form = self.form()?;
        let is_json = matches!(form, Form::Json(_));
        let mut words = match form {
            Form::Json(list) => list,
            Form::Plain => self.head.rest.fields().iter().map(Stretch::word).collect(),
        };
        let (Some(destination), false) = (words.pop(), words.is_empty()) else {
            let message = format!("{} requires at least two arguments", self.keyword);
            let span = if self.head.rest.is_empty() { &self.head.written } else { &self.head.rest }.span();
            self.error(message, "expected a source and a destination", span);
            return None;
        };
        if !is_json && heredoc::announcement(&destination.text).is_some() {
            let message = format!("{} cannot accept a heredoc as a destination", self.keyword);
            self.error(message, "expected a path", destination.span);
            return None;
        }
        let heredocs: Vec<Heredoc> = self.bodies.iter().map(|body: &Body| heredoc_of(body)).collect();
        let source = |word: Word| match heredoc::announcement(&word.text) {
            Some(announced) if !is_json => heredocs
                .iter()
                .rfind(|heredoc| heredoc.name == announced.name)
                .map_or(CopySource::Path(word), |heredoc| CopySource::Heredoc(heredoc.clone())),
            _ => CopySource::Path(word),
        };
        Some(Copy { sources: words.into_iter().map(source).collect(), destination, ..copy })
    }
}
