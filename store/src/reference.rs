//! Image names: parsed, completed, printed.
//!
//! ```text
//! debian                    docker.io/library/debian           what is typed → what is kept
//! me/app:1                  docker.io/me/app:1
//! localhost:5000/app@sha256:…                                  a registry has a dot, a colon,
//! [registry/]path[:tag][@digest]                               a capital or is `localhost`
//! ```
//!
//! The grammar is that of distribution/reference. A [`Reference`] prints in the short form that
//! docker prints, [`Reference::full`] gives the form that is kept; both parse back to the same value.
//!
//! May touch: its arguments. Knows nothing of disk or network.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME_BYTES: usize = 255;
const MAX_TAG_BYTES: usize = 128;

/// A full image name: `registry/path:tag` or `registry/path@digest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// `docker.io`, `localhost`, `127.0.0.1:5000`.
    pub registry: String,
    /// `library/debian`.
    pub path: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

/// Says why a text is no image name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not an image name: {reason}", shown(text))]
pub struct InvalidReference {
    pub text: String,
    pub reason: &'static str,
}

impl Reference {
    /// `docker.io/library/debian`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }

    /// `debian`: as docker prints it.
    pub fn familiar_repository(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.repository();
        }
        match self.path.strip_prefix("library/") {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            // Without its registry such a path would be read as one that starts with a registry.
            _ if self.path.split_once('/').is_none_or(|(first, _)| is_registry(first)) => self.repository(),
            _ => self.path.clone(),
        }
    }

    /// The form that is kept: `docker.io/library/debian:latest`.
    pub fn full(&self) -> String {
        self.print(self.repository())
    }

    /// The same name with the tag `latest`, when it says neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    fn print(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.print(self.familiar_repository()))
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    /// Parses and completes a name; a missing tag stays missing.
    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|reason| InvalidReference { text: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse().map_err(|_| "behind `@` goes sha256: and 64 lower-case hex digits")?))
        }
        None => (text, None),
    };
    let (name, tag) = split_tag(rest);
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    if Digest::from_hex(name).is_ok() {
        return Err("64 hex digits are an ID, not a name");
    }
    let (registry, path) = split_registry(name);
    check_registry(registry)?;
    path.split('/').try_for_each(check_component)?;
    let path = match registry {
        DEFAULT_REGISTRY if !path.contains('/') => format!("library/{path}"),
        _ => path.to_owned(),
    };
    if path.len() > MAX_NAME_BYTES {
        return Err("the name is longer than 255 characters");
    }
    Ok(Reference { registry: registry.to_owned(), path, tag: tag.map(str::to_owned), digest })
}

/// Splits at a colon behind the last slash; one before it belongs to a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let last = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[last..].find(':') {
        Some(colon) => (&text[..last + colon], Some(&text[last + colon + 1..])),
        None => (text, None),
    }
}

fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", path)) => (DEFAULT_REGISTRY, path),
        Some((first, path)) if is_registry(first) => (first, path),
        _ => (DEFAULT_REGISTRY, name),
    }
}

/// Whether the first component of a name is a registry (docker's rule).
fn is_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '[']) || first.contains(char::is_uppercase)
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    const WRONG: &str = "its registry is not a host name with an optional port";
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(WRONG)?;
            let address_is_good =
                !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
            if !address_is_good || (!port.is_empty() && !port.starts_with(':')) {
                return Err(WRONG);
            }
            ("ipv6", port.strip_prefix(':'))
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    let label_is_good = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let port_is_good =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if host.len() > MAX_NAME_BYTES || !host.split('.').all(label_is_good) || !port.is_none_or(port_is_good) {
        return Err(WRONG);
    }
    Ok(())
}

/// `[a-z0-9]+` runs joined by one `.`, one or two `_`, or any number of `-`.
fn check_component(component: &str) -> Result<(), &'static str> {
    if component.is_empty() {
        return Err("a part of it is empty");
    }
    if component.contains(|letter: char| letter.is_ascii_uppercase()) {
        return Err("a name must be lower case");
    }
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.iter().all(|&byte| is_alphanumeric(byte) || b"._-".contains(&byte)) {
        return Err("a name holds only a-z, 0-9, `.`, `_`, `-` and `/`");
    }
    let separators = component.split(|letter: char| letter.is_ascii_alphanumeric());
    let separator_is_good = |separator: &str| {
        matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
    };
    if !is_alphanumeric(bytes[0]) || !is_alphanumeric(bytes[bytes.len() - 1]) {
        return Err("each part of a name starts and ends with a letter or digit");
    }
    if !separators.into_iter().all(separator_is_good) {
        return Err("letters and digits are joined by one `.`, one or two `_`, or `-`");
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    if bytes.first().is_none_or(|&first| !is_word(first)) {
        return Err("a tag starts with a letter, a digit or `_`");
    }
    if tag.len() > MAX_TAG_BYTES {
        return Err("the tag is longer than 128 characters");
    }
    if !bytes.iter().all(|&byte| is_word(byte) || b".-".contains(&byte)) {
        return Err("a tag holds only letters, digits, `_`, `.` and `-`");
    }
    Ok(())
}

/// A text as errors print it: short, and with nothing that a terminal would act on.
fn shown(text: &str) -> String {
    let mut out: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[rustfmt::skip]
    const HOSTILE: &[&str] = &[
        "", ":", "@", "/", "a/", "/a", "a//b", "a/./b", "a/../b", "..", "../a", "../../etc/passwd", ".",
        "-a", "a-", "_a", "a_", "a..b", "a___b", "a._b", "a.", "a/.b", "A", "aB", "me/App", ":tag",
        "a:", "a::b", "a:b:c", "a:-x", "a:.x", "a:x/y", "a:é", "a:x y", "a b", " a", "a ", "a\n",
        "a\0b", "a\u{1b}[31m", "é", "名前", "%2e%2e/a", "a%2fb", "user@host/a", "user:pw@host/a",
        "https://docker.io/a", "host:port/a", "host:/a", "host:99999/a", "host:-1/a", "-host.io/a",
        "host-.io/a", "a..io/b", ".io/a", "[::1/a", "[]/a", "[::g]/a", "[::1]x/a", "[::1]:x/a",
        "ho_st.io/a", "a@", "a@b", "a@sha256:", "a@sha256:../../..", "@sha256:x", "a\\b", "a?b", "a#b",
        "a*b", "$(id)", "--flag", "quay.io/", "quay.io//a", "localhost:5000/",
    ];

    /// `full` and `short` are what a name is kept and printed as; `~` stands for the digest.
    fn check(text: &str, full: &str, short: &str) {
        let digest = |text: &str| text.replace('~', &format!("sha256:{HEX}"));
        let parsed: Reference = digest(text).parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(parsed.full(), digest(full), "{text}");
        assert_eq!(parsed.to_string(), digest(short), "{text}");
        assert_eq!(parsed.full().parse::<Reference>().unwrap(), parsed, "{text}");
        assert_eq!(parsed.to_string().parse::<Reference>().unwrap(), parsed, "{text}");
    }

    #[test]
    fn names_are_completed_and_printed_short() {
        for (text, full, short) in [
            ("debian", "docker.io/library/debian", "debian"),
            ("debian:12", "docker.io/library/debian:12", "debian:12"),
            ("library/debian", "docker.io/library/debian", "debian"),
            ("docker.io/debian", "docker.io/library/debian", "debian"),
            ("docker.io/library/debian:12", "docker.io/library/debian:12", "debian:12"),
            ("index.docker.io/debian", "docker.io/library/debian", "debian"),
            ("me/app", "docker.io/me/app", "me/app"),
            ("me/app:v1.2-rc_3", "docker.io/me/app:v1.2-rc_3", "me/app:v1.2-rc_3"),
            ("library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("a/b/c/d", "docker.io/a/b/c/d", "a/b/c/d"),
            ("debian@~", "docker.io/library/debian@~", "debian@~"),
            ("debian:12@~", "docker.io/library/debian:12@~", "debian:12@~"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b"),
            ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
            ("[fd00:1:2::3]/app:x", "[fd00:1:2::3]/app:x", "[fd00:1:2::3]/app:x"),
            ("quay.io/libpod/alpine", "quay.io/libpod/alpine", "quay.io/libpod/alpine"),
            ("Registry/app", "Registry/app", "Registry/app"),
            ("reg-1.Example.com:443/app", "reg-1.Example.com:443/app", "reg-1.Example.com:443/app"),
            ("docker.io/quay.io/app", "docker.io/quay.io/app", "docker.io/quay.io/app"),
            ("docker.io/localhost/app", "docker.io/localhost/app", "docker.io/localhost/app"),
            ("a--b__c.d_e", "docker.io/library/a--b__c.d_e", "a--b__c.d_e"),
            ("a---b", "docker.io/library/a---b", "a---b"),
            ("0", "docker.io/library/0", "0"),
            ("a:_", "docker.io/library/a:_", "a:_"),
            ("a:5000", "docker.io/library/a:5000", "a:5000"),
            ("library", "docker.io/library/library", "library"),
            ("scratch", "docker.io/library/scratch", "scratch"),
            ("docker.io/library/localhost", "docker.io/library/localhost", "localhost"),
        ] {
            check(text, full, short);
        }
        check(&"a".repeat(247), &format!("docker.io/library/{}", "a".repeat(247)), &"a".repeat(247));
        let tagged = format!("a:{}", "t".repeat(128));
        check(&tagged, &format!("docker.io/library/{tagged}"), &tagged);
    }

    #[test]
    fn what_is_no_name_is_refused_with_a_reason() {
        let long_name = "a".repeat(256);
        let long_tag = format!("a:{}", "t".repeat(129));
        let huge = "a/".repeat(10_000);
        let id_and_tag = format!("{HEX}:latest");
        let short_digest = format!("a@sha256:{}", &HEX[1..]);
        let upper_digest = format!("a@sha256:{}", HEX.to_uppercase());
        let unknown = format!("a@sha512:{HEX}");
        let two_digests = format!("a@sha256:{HEX}@sha256:{HEX}");
        let computed = [
            &long_name,
            &long_tag,
            &huge,
            HEX,
            &id_and_tag,
            &short_digest,
            &upper_digest,
            &unknown,
            &two_digests,
        ];
        for bad in HOSTILE.iter().copied().chain(computed) {
            let error = bad.parse::<Reference>().expect_err(bad);
            assert_eq!(error.text, bad);
            let printed = error.to_string();
            assert!(printed.len() < 500 && !printed.contains(['\u{1b}', '\0', '\n']), "{printed:?}");
        }
    }

    #[test]
    fn only_a_bare_name_becomes_latest() {
        let full = |text: &str| text.parse::<Reference>().unwrap().or_latest().full();
        assert_eq!(full("a"), "docker.io/library/a:latest");
        assert_eq!(full("a:1"), "docker.io/library/a:1");
        let by_digest = format!("a@sha256:{HEX}");
        assert_eq!(full(&by_digest), format!("docker.io/library/{by_digest}"));
    }

    proptest::proptest! {
        #[test]
        fn whatever_parses_prints_and_parses_back(text in "[a-zA-Z0-9./:@_\\[-]{1,24}") {
            if let Ok(parsed) = text.parse::<Reference>() {
                proptest::prop_assert_eq!(&parsed.to_string().parse::<Reference>().unwrap(), &parsed);
                proptest::prop_assert_eq!(&parsed.full().parse::<Reference>().unwrap(), &parsed);
            }
        }
    }
}
