//! What the user asked of a build, beyond the Containerfile. Data only.

use std::collections::BTreeMap;

use runner::network::Mode;
use runner::sandbox::plan::{Limits, Seccomp};
use store::Reference;

/// What the user asked of a build.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names that the image gets.
    pub names: Vec<Reference>,
    pub build_args: BTreeMap<String, String>,
    /// A stage's name or number; the last stage without one.
    pub target: Option<String>,
    /// Do every step again.
    pub no_cache: bool,
    pub labels: BTreeMap<String, String>,
    pub network: Mode,
    /// `/etc/hosts` lines: name, address.
    pub add_hosts: Vec<(String, String)>,
    /// Secrets for `RUN --mount=type=secret`, by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    pub limits: Limits,
    pub seccomp: Seccomp,
    /// Full names, as `CAP_CHOWN`.
    pub capabilities: Vec<String>,
    pub shm_size_bytes: u64,
    /// `(nofile, soft, hard)`.
    pub rlimits: Vec<(String, u64, u64)>,
    /// `RUN --security=insecure` may have all privileges.
    pub allow_insecure: bool,
    /// Steps that may run at once.
    pub jobs: usize,
    /// Seconds since 1970: the time of everything that the build makes.
    pub source_date_epoch: Option<i64>,
    pub platform: Platform,
}

/// Operating system, architecture and variant, as Go names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    /// The machine this runs on.
    pub fn host() -> Self {
        let machine = rustix::system::uname();
        let (architecture, variant) = match &*machine.machine().to_string_lossy() {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "i386" | "i486" | "i586" | "i686" => ("386", None),
            "armv6l" => ("arm", Some("v6")),
            "armv7l" | "armv8l" => ("arm", Some("v7")),
            other => return Self { os: "linux".into(), architecture: other.to_owned(), variant: None },
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(str::to_owned) }
    }

    /// Reads `linux/amd64`, `linux/arm/v7` or a bare architecture.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return None,
        };
        let normal = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        (plain(os) && plain(normal)).then(|| Self {
            os: os.to_ascii_lowercase(),
            architecture: normal.to_ascii_lowercase(),
            variant: variant.map(str::to_owned),
        })
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Platform;

    #[test]
    fn platforms_are_read_in_every_spelling() {
        for (text, expected) in [
            ("linux/amd64", Some("linux/amd64")),
            ("x86_64", Some("linux/amd64")),
            ("linux/arm/v7", Some("linux/arm/v7")),
            ("Linux/AMD64", Some("linux/amd64")),
            ("", None),
            ("a/b/c/d", None),
            ("linux/", None),
            ("li nux/amd64", None),
        ] {
            assert_eq!(
                Platform::parse(text).map(|platform| platform.to_string()).as_deref(),
                expected,
                "{text}"
            );
        }
    }
}
