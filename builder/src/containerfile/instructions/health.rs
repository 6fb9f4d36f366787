//! HEALTHCHECK.
//!
//! May touch: its arguments. Knows nothing of probes.

use super::Reader;
use crate::containerfile::duration;
use crate::containerfile::flags::Flags;
use crate::containerfile::suggest::closest;
use crate::containerfile::syntax::{Command, Healthcheck, Kind, Word};

/// The shortest time that is worth waiting: a millisecond.
const SHORTEST: i64 = 1_000_000;

impl Reader<'_, '_> {
    pub(super) fn healthcheck(mut self) -> Option<Kind> {
        let given = std::mem::take(&mut self.head.flags);
        let (kind, rest) = self.head.rest.split_first();
        self.head.rest = rest.trimmed();
        let word = kind.text().to_uppercase();
        if word.is_empty() {
            self.nothing("at least one argument");
            return None;
        }
        if word == "NONE" {
            if !self.head.rest.is_empty() {
                let span = self.head.rest.span();
                self.error("HEALTHCHECK NONE takes no arguments", "expected nothing", span);
            }
            return Some(Kind::Healthcheck(Healthcheck::default()));
        }
        let mut flags = Flags::new("HEALTHCHECK", given, &mut self.notes.errors);
        let times =
            ["interval", "timeout", "start-period", "start-interval"].map(|name| (name, flags.value(name)));
        let retries = flags.value("retries");
        flags.finish();
        let [interval, timeout, start_period, start_interval] =
            times.map(|(name, value)| self.time(name, value));
        let retries = self.retries(retries);
        if word != "CMD" {
            let label = match closest(&word, ["CMD", "NONE"]) {
                Some(close) => format!("did you mean {close}?"),
                None => "expected CMD or NONE".to_owned(),
            };
            self.error(format!("unknown type `{word}` in HEALTHCHECK"), label, kind.span());
            return None;
        }
        let command = self.command()?;
        if matches!(&command, Command::Shell(text) if text.is_empty())
            || matches!(&command, Command::Exec(words) if words.is_empty())
        {
            self.error("missing command after HEALTHCHECK CMD", "expected a command", kind.span());
            return None;
        }
        let command = Some(command);
        Some(Kind::Healthcheck(Healthcheck {
            command,
            interval,
            timeout,
            start_period,
            start_interval,
            retries,
        }))
    }

    fn time(&mut self, name: &str, value: Option<Word>) -> i64 {
        let Some(value) = value.filter(|value| !value.text.is_empty()) else { return 0 };
        match duration::parse(&value.text) {
            None => {
                let message = format!("invalid duration `{}` for --{name}", value.text);
                self.error(message, "expected a number and a unit, as in 30s or 1m30s", value.span);
            }
            Some(time) if time != 0 && time < SHORTEST => {
                self.error(
                    format!("--{name} cannot be less than 1ms"),
                    "expected 0, or 1ms or more",
                    value.span,
                );
            }
            Some(time) => return time,
        }
        0
    }

    fn retries(&mut self, value: Option<Word>) -> i64 {
        let Some(value) = value.filter(|value| !value.text.is_empty()) else { return 0 };
        match value.text.parse::<i32>() {
            Ok(retries) if retries >= 0 => return retries.into(),
            Ok(_) => self.error("--retries cannot be negative", "expected 0 or more", value.span),
            Err(_) => self.error(format!("invalid number `{}`", value.text), "expected a number", value.span),
        }
        0
    }
}
