//! Steps that only change the config: no layer, nothing to cache. Pure.
//!
//! History says it as BuildKit's lines do, which tools like dive read: `ENV A=1`, `CMD ["sh" "-c"]`.
//!
//! May touch: the draft. Knows nothing of disk, sandboxes, clocks.

use std::collections::BTreeMap;

use store::oci::config::{Empty, Healthcheck as Check};

use super::StepError;
use crate::containerfile::{Arg, Command, Healthcheck, Kind, Word, expand};
use crate::draft::Draft;
use crate::scope::Globals;

/// Applies a config instruction and returns its line of history; `None` for the others.
pub fn configure(
    draft: &mut Draft,
    kind: &Kind,
    escape: char,
    globals: &Globals,
) -> Result<Option<String>, StepError> {
    let one = |draft: &Draft, word: &Word| value(draft, word, escape);
    let created_by = match kind {
        Kind::Env(pairs) => set_env(draft, pairs, escape)?,
        Kind::Label(pairs) => set_labels(draft, pairs, escape)?,
        Kind::Arg(args) => declare(draft, args, escape, globals)?,
        Kind::Expose(words) => expose(draft, words, escape)?,
        Kind::Volume(words) => add_volumes(draft, words, escape)?,
        Kind::User(word) => {
            draft.config.config.user = one(draft, word)?;
            format!("USER {}", draft.config.config.user)
        }
        Kind::StopSignal(word) => {
            let signal = one(draft, word)?;
            check_signal(&signal)?;
            draft.config.config.stop_signal.clone_from(&signal);
            format!("STOPSIGNAL {signal}")
        }
        Kind::Cmd(command) => set_cmd(draft, command),
        Kind::Entrypoint(command) => set_entrypoint(draft, command),
        Kind::Healthcheck(check) => set_healthcheck(draft, check),
        Kind::Shell(words) => {
            draft.config.config.shell = Some(words.clone());
            format!("SHELL [{}]", words.join(" "))
        }
        Kind::OnBuild(trigger) => {
            draft.config.config.on_build.push(trigger.clone());
            format!("ONBUILD {trigger}")
        }
        Kind::Maintainer(name) => {
            draft.config.author = Some(name.clone());
            format!("MAINTAINER {name}")
        }
        Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_) => return Ok(None),
    };
    Ok(Some(created_by))
}

/// Expands a word with the draft's variables.
pub fn value(draft: &Draft, word: &Word, escape: char) -> Result<String, StepError> {
    draft
        .scope
        .word(&word.text, escape)
        .map_err(|source| StepError::Expand { word: word.text.clone(), source })
}

/// All values are expanded before any is set: `ENV abc=bye def=$abc` uses the old `abc`.
fn set_env(draft: &mut Draft, pairs: &[(Word, Word)], escape: char) -> Result<String, StepError> {
    let pairs = expand_pairs(draft, pairs, escape)?;
    for (name, value) in &pairs {
        if name.is_empty() {
            return Err(StepError::Invalid("ENV names can not be blank".to_owned()));
        }
        draft.set_env(name, value);
    }
    Ok(format!("ENV {}", joined(&pairs)))
}

fn set_labels(draft: &mut Draft, pairs: &[(Word, Word)], escape: char) -> Result<String, StepError> {
    let pairs = expand_pairs(draft, pairs, escape)?;
    for (name, value) in &pairs {
        if name.is_empty() {
            return Err(StepError::Invalid("LABEL names can not be blank".to_owned()));
        }
        draft.config.config.labels.insert(name.clone(), value.clone());
    }
    Ok(format!("LABEL {}", joined(&pairs)))
}

fn expand_pairs(
    draft: &Draft,
    pairs: &[(Word, Word)],
    escape: char,
) -> Result<Vec<(String, String)>, StepError> {
    pairs.iter().map(|(name, text)| Ok((value(draft, name, escape)?, value(draft, text, escape)?))).collect()
}

fn joined(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// Each ARG of a line sees the ones before it: `ARG a=1 b=$a`.
fn declare(draft: &mut Draft, args: &[Arg], escape: char, globals: &Globals) -> Result<String, StepError> {
    let mut shown = Vec::new();
    for arg in args {
        let default = arg.default.as_ref().map(|word| value(draft, word, escape)).transpose()?;
        let value = draft.scope.declare(globals, &arg.name, default);
        shown.push(value.map_or_else(|| arg.name.clone(), |value| format!("{}={value}", arg.name)));
    }
    Ok(format!("ARG {}", shown.join(" ")))
}

/// One word may hold several ports: `EXPOSE $PORTS`.
fn expose(draft: &mut Draft, words: &[Word], escape: char) -> Result<String, StepError> {
    let mut shown = Vec::new();
    for word in words {
        let expanded = expand::words(&word.text, escape, &|name| draft.scope.value(name))
            .map_err(|source| StepError::Expand { word: word.text.clone(), source })?;
        for text in expanded {
            for port in parse_ports(&text)? {
                draft.config.config.exposed_ports.insert(port.clone(), Empty {});
                shown.push(port);
            }
        }
    }
    shown.sort();
    shown.dedup();
    Ok(format!("EXPOSE [{}]", shown.join(" ")))
}

/// `[[ip:][host]:]port[-range][/proto]` → `port/proto` each.
fn parse_ports(text: &str) -> Result<Vec<String>, StepError> {
    let invalid = || {
        StepError::Invalid(format!(
            "`{text}` is no port: expected PORT[-PORT][/PROTOCOL], ports from 0 to 65535"
        ))
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(StepError::Invalid(format!(
            "`{text}`: unknown protocol `{protocol}`: expected tcp, udp or sctp"
        )));
    }
    let ports = ports.rsplit(':').next().unwrap_or(ports);
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| text.parse::<u16>().map_err(|_| invalid());
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(invalid());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn add_volumes(draft: &mut Draft, words: &[Word], escape: char) -> Result<String, StepError> {
    let mut shown = Vec::new();
    for word in words {
        let path = value(draft, word, escape)?;
        if path.is_empty() {
            return Err(StepError::Invalid("VOLUME specified can not be an empty string".to_owned()));
        }
        draft.config.config.volumes.insert(path.clone(), Empty {});
        shown.push(path);
    }
    Ok(format!("VOLUME [{}]", shown.join(" ")))
}

/// A number from 1 to 64, or a name with or without SIG (signal(7)).
fn check_signal(text: &str) -> Result<(), StepError> {
    const NAMES: [&str; 34] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "IOT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "POLL", "PWR", "SYS",
    ];
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = name.starts_with("RTMIN") || name.starts_with("RTMAX");
    let number = text.parse::<u32>().is_ok_and(|number| (1..=64).contains(&number));
    if number || real_time || NAMES.contains(&name) {
        return Ok(());
    }
    Err(StepError::Invalid(format!(
        "`{text}` is no signal: expected a name like SIGTERM or a number from 1 to 64"
    )))
}

/// The shell form runs in SHELL.
fn argv(draft: &Draft, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(words) => words.clone(),
        Command::Shell(text) => shell(draft).into_iter().chain([text.clone()]).collect(),
    }
}

/// The shell that shell forms run in.
pub fn shell(draft: &Draft) -> Vec<String> {
    draft.config.config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()])
}

fn set_cmd(draft: &mut Draft, command: &Command) -> String {
    let argv = argv(draft, command);
    draft.has_own_cmd = true;
    draft.config.config.args_escaped = true;
    let shown = format!("CMD {}", quoted(&argv));
    draft.config.config.cmd = Some(argv);
    shown
}

/// A new ENTRYPOINT takes an inherited CMD away (Dockerfile reference, "ENTRYPOINT").
fn set_entrypoint(draft: &mut Draft, command: &Command) -> String {
    let argv = argv(draft, command);
    if !draft.has_own_cmd {
        draft.config.config.cmd = None;
    }
    let shown = format!("ENTRYPOINT {}", quoted(&argv));
    draft.config.config.entrypoint = (!argv.is_empty()).then_some(argv);
    shown
}

fn set_healthcheck(draft: &mut Draft, check: &Healthcheck) -> String {
    let test = match &check.command {
        None => vec!["NONE".to_owned()],
        Some(Command::Exec(words)) => ["CMD".to_owned()].into_iter().chain(words.iter().cloned()).collect(),
        Some(Command::Shell(text)) => vec!["CMD-SHELL".to_owned(), text.clone()],
    };
    let shown = format!(
        "HEALTHCHECK &{{{} {} {} {} {} {}}}",
        quoted(&test),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries,
    );
    draft.config.config.healthcheck = Some(Check {
        test,
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
    });
    shown
}

/// A list as Go's `%q` prints it: `["sh" "-c"]`.
pub fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

/// Nanoseconds as Go prints whole durations: `30s`, `1m30s`, `500ms`.
fn duration(nanoseconds: i64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    if nanoseconds % 1_000_000_000 != 0 {
        return format!("\"{}ms\"", nanoseconds / 1_000_000);
    }
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = parts.iter().position(|(count, _)| *count != 0).unwrap_or(2);
    let text: String = parts[first..].iter().map(|(count, unit)| format!("{count}{unit}")).collect();
    format!("\"{text}\"")
}

/// Adds the labels of the command line; they win over the file's.
pub fn add_labels(draft: &mut Draft, labels: &BTreeMap<String, String>) {
    draft.config.config.labels.extend(labels.iter().map(|(name, value)| (name.clone(), value.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Word {
        Word { text: text.to_owned(), ..Word::default() }
    }

    fn apply(draft: &mut Draft, kind: &Kind) -> Result<Option<String>, StepError> {
        configure(draft, kind, '\\', &Globals::default())
    }

    #[test]
    fn env_is_a_snapshot_and_arg_is_sequential() {
        let mut draft = Draft::default();
        apply(&mut draft, &Kind::Env(vec![(word("abc"), word("hello"))])).unwrap();
        let pairs = vec![(word("abc"), word("bye")), (word("def"), word("$abc"))];
        let line = apply(&mut draft, &Kind::Env(pairs)).unwrap();
        assert_eq!(line.as_deref(), Some("ENV abc=bye def=hello"));
        let arg = |name: &str, text: &str| Arg {
            name: name.into(),
            default: Some(word(text)),
            span: crate::containerfile::Span::default(),
        };
        let line = apply(&mut draft, &Kind::Arg(vec![arg("a", "1"), arg("b", "${a}2")])).unwrap();
        assert_eq!(line.as_deref(), Some("ARG a=1 b=12"));
        assert_eq!(draft.config.config.env, ["abc=bye", "def=hello"]);
    }

    #[test]
    fn an_entrypoint_takes_an_inherited_cmd_away_but_not_its_own() {
        let exec = |text: &str| Command::Exec(vec![text.to_owned()]);
        let mut draft = Draft::default();
        draft.config.config.cmd = Some(vec!["inherited".into()]);
        apply(&mut draft, &Kind::Entrypoint(exec("e"))).unwrap();
        assert_eq!(draft.config.config.cmd, None);
        apply(&mut draft, &Kind::Cmd(exec("own"))).unwrap();
        apply(&mut draft, &Kind::Entrypoint(exec("f"))).unwrap();
        assert_eq!(draft.config.config.cmd.as_deref(), Some(&["own".to_owned()][..]));
        apply(&mut draft, &Kind::Entrypoint(Command::Exec(Vec::new()))).unwrap();
        assert_eq!(draft.config.config.entrypoint, None);
    }

    #[test]
    fn shell_forms_run_in_the_shell_of_the_image() {
        let mut draft = Draft::default();
        apply(&mut draft, &Kind::Shell(vec!["/bin/bash".into(), "-c".into()])).unwrap();
        let line = apply(&mut draft, &Kind::Cmd(Command::Shell("echo \"a\"".into()))).unwrap();
        assert_eq!(line.as_deref(), Some(r#"CMD ["/bin/bash" "-c" "echo \"a\""]"#));
    }

    #[test]
    fn ports_are_read_in_every_form() {
        for (text, expected) in [
            ("80", Some(&["80/tcp"][..])),
            ("53/UDP", Some(&["53/udp"])),
            ("8000-8002", Some(&["8000/tcp", "8001/tcp", "8002/tcp"])),
            ("127.0.0.1:80:8080", Some(&["8080/tcp"])),
            ("0", Some(&["0/tcp"])),
            ("65536", None),
            ("9-8", None),
            ("x", None),
            ("80/http", None),
        ] {
            let ports = parse_ports(text).ok();
            assert_eq!(
                ports.as_deref().map(|ports| ports.iter().map(String::as_str).collect::<Vec<_>>()),
                expected.map(<[_]>::to_vec),
                "{text}"
            );
        }
    }

    #[test]
    fn only_signals_stop_a_container() {
        for good in ["SIGTERM", "term", "9", "64", "SIGRTMIN+3"] {
            assert!(check_signal(good).is_ok(), "{good}");
        }
        for bad in ["", "0", "65", "SIGFOO", "-9"] {
            assert!(check_signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_shown_as_go_shows_them() {
        for (nanoseconds, expected) in [
            (0, "\"0s\""),
            (90_000_000_000, "\"1m30s\""),
            (3_600_000_000_000, "\"1h0m0s\""),
            (500_000_000, "\"500ms\""),
        ] {
            assert_eq!(duration(nanoseconds), expected);
        }
    }
}
