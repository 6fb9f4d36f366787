//! Leave to forward, where another firewall drops what it does not know.
//!
//! `nf_tables` asks every table, and one that drops is final: our own accept would not help. Docker
//! sets the policy of iptables' FORWARD to drop and calls its chain DOCKER-USER first, which is
//! there for the rules of others. Rules of ours carry the link's name as a comment and go with the
//! network; after a kill, `clear` finds them by that.
//!
//! May touch: its own rules in iptables' filter table. Knows nothing of links' making, containers.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::NetworkError;
use super::firewall::{self, Closed, Others};
use super::netlink::Routes;

const TAG: &str = "rbuild:";

/// Rules that let a link's packets pass; dropping it takes them away.
#[derive(Debug)]
pub(super) struct Forward {
    program: PathBuf,
    chain: &'static str,
    link: String,
}

impl Forward {
    /// Adds rules if forwarded packets would be dropped otherwise. What can't be opened is noted.
    pub(super) fn open(
        link: &str,
        others: &Others,
        notes: &mut Vec<String>,
    ) -> Result<Option<Self>, NetworkError> {
        let (known, foreign): (Vec<_>, Vec<_>) = others.closed.iter().partition(|closed| is_iptables(closed));
        notes.extend(foreign.iter().map(|closed| {
            format!(
                "chain `{}` of nftables' table `{}` may drop what the network forwards",
                closed.chain, closed.table
            )
        }));
        let is_closed = !known.is_empty() || legacy_is_closed();
        if !is_closed {
            return Ok(None);
        }
        let program = find("iptables").ok_or_else(|| NetworkError::Private {
            reason:
                "iptables' FORWARD chain drops everything, and `iptables` (package iptables) is not installed"
                    .to_owned(),
        })?;
        let chain = if others.docker_user || run(&program, &["-S", "DOCKER-USER"]).is_ok() {
            "DOCKER-USER"
        } else {
            "FORWARD"
        };
        let forward = Self { program, chain, link: link.to_owned() };
        forward.apply("-I").map_err(NetworkError::kernel("let packets pass iptables' FORWARD chain"))?;
        Ok(Some(forward))
    }

    fn apply(&self, action: &str) -> io::Result<()> {
        let comment = format!("{TAG}{}", self.link);
        for side in ["-i", "-o"] {
            let rule = [
                action,
                self.chain,
                side,
                &self.link,
                "-m",
                "comment",
                "--comment",
                &comment,
                "-j",
                "ACCEPT",
            ];
            run(&self.program, &rule)?;
        }
        Ok(())
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // Only fails when someone flushed the chain meanwhile.
        drop(self.apply("-D"));
    }
}

const IPTABLES: (&str, &str) = ("filter", "FORWARD");

fn is_iptables(closed: &Closed) -> bool {
    (&*closed.table, &*closed.chain) == IPTABLES
}

/// The older iptables has tables of its own in the kernel, which `nf_tables` does not list.
fn has_legacy_table() -> bool {
    let names = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    names.lines().any(|name| name == IPTABLES.0)
}

fn legacy_is_closed() -> bool {
    let Some(program) = find("iptables-legacy").filter(|_| has_legacy_table()) else { return false };
    run(&program, &["-S", IPTABLES.1]).is_ok_and(|rules| rules.contains("-P FORWARD DROP"))
}

/// Removes tagged rules of links that are no more.
pub(super) fn clear(prefix: &str) -> io::Result<()> {
    let others = match firewall::others() {
        // Who may not look has made none.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        other => other?,
    };
    let is_ours = others.docker_user || others.closed.iter().any(is_iptables) || has_legacy_table();
    let Some(program) = find("iptables").filter(|_| is_ours) else { return Ok(()) };
    let links = Routes::open()?;
    for chain in ["DOCKER-USER", IPTABLES.1] {
        // A chain that is not there holds no rules.
        let Ok(rules) = run(&program, &["-S", chain]) else { continue };
        for rule in rules.lines() {
            let link = tagged_link(rule).filter(|link| link.starts_with(prefix));
            if link.is_some_and(|link| links.link(link).is_err()) {
                remove_rule(&program, rule)?;
            }
        }
    }
    Ok(())
}

/// `rule` as `iptables -S` prints it: `-A FORWARD -i rb0 -m comment --comment "rbuild:rb0" -j ACCEPT`.
fn remove_rule(program: &Path, rule: &str) -> io::Result<()> {
    let words: Vec<String> = rule.split_whitespace().skip(1).map(|word| word.replace('"', "")).collect();
    let words: Vec<&str> = std::iter::once("-D").chain(words.iter().map(String::as_str)).collect();
    run(program, &words).map(drop)
}

fn tagged_link(rule: &str) -> Option<&str> {
    let comment = rule.split_whitespace().skip_while(|word| *word != "--comment").nth(1)?;
    let link = comment.trim_matches('"').strip_prefix(TAG)?;
    link.bytes().all(|byte| byte.is_ascii_alphanumeric()).then_some(link)
}

/// Runs a rule program and returns what it printed. `-w`: waits for others that change rules.
fn run(program: &Path, words: &[&str]) -> io::Result<String> {
    let output = Command::new(program).arg("-w").args(words).env_clear().stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Finds a program where system programs are; `PATH` is the user's and not asked.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    FOLDERS.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rules_with_a_tag_of_ours_name_a_link() {
        for (rule, expected) in [
            ("-A DOCKER-USER -i rb0 -m comment --comment \"rbuild:rb0\" -j ACCEPT", Some("rb0")),
            ("-A DOCKER-USER -i rb0 -m comment --comment rbuild:rb0 -j ACCEPT", Some("rb0")),
            ("-A DOCKER-USER -i rb0 -m comment --comment \"other:rb0\" -j ACCEPT", None),
            ("-A DOCKER-USER -i lo -m comment --comment rbuild:rblo/../lo -j ACCEPT", None),
            ("-A DOCKER-USER -j RETURN", None),
            ("-P FORWARD DROP", None),
            ("", None),
        ] {
            assert_eq!(tagged_link(rule), expected, "{rule}");
        }
    }
}
