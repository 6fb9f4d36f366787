//! Words of the command line → values: sizes, hosts, limits, networks; the same for every command.

use std::net::IpAddr;

use anyhow::{Context, bail};
use builder::Cancel;
use clap::ValueEnum;
use jiff::Timestamp;
use runner::network::Mode;
use runner::sandbox::plan::Seccomp;

/// `--network`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkArg {
    /// Only a loopback interface
    None,
    /// The host's own network
    Host,
    /// A network of its own with a way out
    #[value(aliases = ["default", "bridge", "pasta"])]
    Private,
}

impl From<NetworkArg> for Mode {
    fn from(arg: NetworkArg) -> Self {
        match arg {
            NetworkArg::None => Self::None,
            NetworkArg::Host => Self::Host,
            NetworkArg::Private => Self::Private,
        }
    }
}

/// The network when none is named: private as root, the host's otherwise.
pub(crate) fn default_network() -> Mode {
    if runner::sandbox::user_ns::Mapping::current().is_initial() { Mode::Private } else { Mode::Host }
}

/// `512m`, `1g`, `100`.
pub(crate) fn size(text: &str) -> anyhow::Result<u64> {
    let bytes = builder::step::mounts::parse_size(text);
    bytes
        .with_context(|| format!("`{text}` is no size: expected a number with an optional unit b, k, m or g"))
}

/// A moment: `2026-01-31` (UTC), an RFC 3339 time, seconds since 1970, or how long ago (`24h`, `1h30m`).
pub(crate) fn moment(text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).with_context(|| format!("`{text}` is no time"));
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    if let Ok(local) = text.parse::<jiff::civil::DateTime>() {
        let moment = jiff::tz::TimeZone::UTC.to_timestamp(local);
        return moment.with_context(|| format!("`{text}` is no time"));
    }
    let ago = text.parse::<jiff::SignedDuration>().ok().filter(|ago| !ago.is_negative());
    let ago = ago.with_context(|| {
        format!("`{text}` is no time: expected `2026-01-31`, an RFC 3339 time, seconds since 1970 or `24h`")
    })?;
    now.checked_sub(ago).with_context(|| format!("`{text}` ago is no time"))
}

/// `NAME=VALUE`; without `=` the value is empty.
pub(crate) fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`; checked, since both go into `/etc/hosts` (SEC-R32).
pub(crate) fn host(text: &str) -> anyhow::Result<(String, String)> {
    let parts = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, address) = parts.with_context(|| format!("`--add-host {text}`: expected NAME:ADDRESS"))?;
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if !is_name {
        bail!("`--add-host {text}`: `{name}` is no host name");
    }
    let plain = address.trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr =
        plain.parse().with_context(|| format!("`--add-host {text}`: `{address}` is no IP address"))?;
    Ok((name.to_owned(), address.to_string()))
}

/// `NAME=SOFT[:HARD]`; `-1` is unlimited.
pub(crate) fn ulimit(text: &str) -> anyhow::Result<(String, u64, u64)> {
    let expected = || format!("`--ulimit {text}`: expected NAME=SOFT[:HARD]");
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => text.parse().with_context(expected),
    };
    let (name, limits) = text.split_once('=').with_context(expected)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Ok((name.to_owned(), number(soft)?, number(hard)?))
}

/// `--security-opt`: `seccomp=unconfined`, `no-new-privileges` is read by the caller.
pub(crate) fn seccomp(options: &[String]) -> anyhow::Result<Seccomp> {
    let mut seccomp = Seccomp::Default;
    for option in options {
        match option.replacen(':', "=", 1).as_str() {
            "seccomp=unconfined" => seccomp = Seccomp::Unconfined,
            "seccomp=builtin" => seccomp = Seccomp::Default,
            "no-new-privileges" | "no-new-privileges=true" | "no-new-privileges=false" => {}
            _ => bail!(
                "`--security-opt {option}` is not known: expected seccomp=unconfined or no-new-privileges"
            ),
        }
    }
    Ok(seccomp)
}

/// Runs `work`; an interrupt or a request to end cancels it, a second one ends the process at once.
pub(crate) fn with_signals<T>(cancel: &Cancel, work: impl FnOnce() -> T) -> anyhow::Result<T> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot wait for signals")?;
    let handle = signals.handle();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for (count, signal) in signals.forever().enumerate() {
                cancel.cancel();
                if count > 0 {
                    // The user insists; what is left is cleared by the next command.
                    drop(signal_hook::low_level::emulate_default_handler(signal));
                }
            }
        });
        let result = work();
        handle.close();
        Ok(result)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_can_not_smuggle_lines() {
        assert_eq!(host("a.b:1.2.3.4").unwrap(), ("a.b".to_owned(), "1.2.3.4".to_owned()));
        assert_eq!(host("six=[::1]").unwrap().1, "::1");
        for bad in ["a\n1.2.3.4 evil:1.2.3.4", "a:b", "a", ":1.2.3.4", "a b:1.2.3.4"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_are_read_in_every_form() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        for (text, expected) in [
            ("5", 5),
            ("1970-01-01T00:01:00Z", 60),
            ("1970-01-01T02:01:00+02:00", 60),
            ("24h", 1_000_000_000 - 86_400),
            ("1h30m", 1_000_000_000 - 5400),
        ] {
            assert_eq!(moment(text, now).unwrap().as_second(), expected, "{text}");
        }
        assert!(moment("2001-01-01", now).is_ok());
        for bad in ["", "yesterday", "-5h", "2001-13-01"] {
            assert!(moment(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_are_read_in_every_form() {
        assert_eq!(ulimit("nofile=10").unwrap(), ("nofile".to_owned(), 10, 10));
        assert_eq!(ulimit("core=0:-1").unwrap(), ("core".to_owned(), 0, u64::MAX));
        for bad in ["nofile", "nofile=x", "nofile=1:y"] {
            assert!(ulimit(bad).is_err(), "{bad}");
        }
    }
}
