//! `RUN --mount=…`: options read into a typed value; an unknown key or value is an error. Pure.
//!
//! The options are comma-separated `key=value` fields, quoted as CSV; keys know no case
//! (Dockerfile reference, "RUN --mount").
//!
//! May touch: its arguments. Knows nothing of disk, sandboxes, stores.

use store::ImagePath;

use super::StepError;

/// One mount of a RUN step, values expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMount {
    pub kind: MountKind,
    pub target: Option<ImagePath>,
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A part of the context, a stage or an image; writes are discarded.
    Bind {
        from: Option<String>,
        source: String,
    },
    /// A folder that outlives the build.
    Cache {
        id: String,
        sharing: Sharing,
        from: Option<String>,
        source: String,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Tmpfs {
        size_bytes: Option<u64>,
        mode: u32,
    },
    /// A secret, as a file, as an environment variable, or both.
    Secret {
        id: String,
        env: Option<String>,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// How builds share a cache mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

/// The fields as written.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    id: Option<String>,
    sharing: Option<String>,
    env: Option<String>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size_bytes: Option<u64>,
    required: bool,
    read_only: Option<bool>,
}

impl RunMount {
    /// Reads the options `text` of one `--mount`; relative targets start at `working_dir`.
    pub fn parse(text: &str, working_dir: &ImagePath) -> Result<Self, StepError> {
        let mut fields = Fields::default();
        for field in csv_fields(text)? {
            fields.take(&field, text)?;
        }
        fields.finish(text, working_dir)
    }
}

fn invalid(text: &str, why: impl std::fmt::Display) -> StepError {
    StepError::Invalid(format!("`--mount={text}`: {why}"))
}

/// Splits one CSV record; a field may be quoted, `""` is a quote inside.
fn csv_fields(text: &str) -> Result<Vec<String>, StepError> {
    let mut fields = vec![String::new()];
    let mut letters = text.chars().peekable();
    let mut quoted = false;
    while let Some(letter) = letters.next() {
        let field = fields.last_mut().expect("there is always one");
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    if quoted { Err(invalid(text, "a quote is not closed")) } else { Ok(fields) }
}

impl Fields {
    fn take(&mut self, field: &str, text: &str) -> Result<(), StepError> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value.to_owned())),
            None => (field.to_ascii_lowercase(), None),
        };
        let flag = |value: Option<String>| match value.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(invalid(text, format_args!("`{key}={other}` is neither true nor false"))),
        };
        match key.as_str() {
            "ro" | "readonly" => self.read_only = Some(flag(value)?),
            "rw" | "readwrite" => self.read_only = Some(!flag(value)?),
            "required" => self.required = flag(value)?,
            _ => self.take_value(
                &key,
                value.ok_or_else(|| invalid(text, format_args!("`{key}` needs a value")))?,
                text,
            )?,
        }
        Ok(())
    }

    fn take_value(&mut self, key: &str, value: String, text: &str) -> Result<(), StepError> {
        let number = |value: &str, radix| {
            u32::from_str_radix(value, radix)
                .map_err(|_| invalid(text, format_args!("`{key}={value}` is not a number")))
        };
        match key {
            "type" => self.kind = Some(value.to_ascii_lowercase()),
            "from" => self.from = Some(value),
            "source" | "src" => self.source = Some(value),
            "target" | "dst" | "destination" => self.target = Some(value),
            "id" => self.id = Some(value),
            "sharing" => self.sharing = Some(value.to_ascii_lowercase()),
            "env" => self.env = Some(value),
            "uid" => self.uid = Some(number(&value, 10)?),
            "gid" => self.gid = Some(number(&value, 10)?),
            "size" | "tmpfs-size" => {
                self.size_bytes =
                    Some(parse_size(&value).ok_or_else(|| invalid(text, "the size is no number of bytes"))?);
            }
            "mode" | "tmpfs-mode" => self.mode = Some(number(&value, 8)?),
            // SELinux relabelling; nothing to do where there is no SELinux.
            "z" | "relabel" => {}
            other => return Err(invalid(text, format_args!("unknown key `{other}`"))),
        }
        Ok(())
    }

    fn finish(self, text: &str, working_dir: &ImagePath) -> Result<RunMount, StepError> {
        let target = self.target.as_deref().map(|target| working_dir.join(target));
        let sharing = match self.sharing.as_deref() {
            None | Some("shared") => Sharing::Shared,
            Some("private") => Sharing::Private,
            Some("locked") => Sharing::Locked,
            Some(other) => {
                return Err(invalid(
                    text,
                    format_args!("unknown sharing `{other}`: expected shared, private or locked"),
                ));
            }
        };
        let (uid, gid) = (self.uid.unwrap_or(0), self.gid.unwrap_or(0));
        let source = self.source.clone().unwrap_or_else(|| "/".to_owned());
        let (kind, read_only) = match self.kind.as_deref().unwrap_or("bind") {
            "bind" => (MountKind::Bind { from: self.from, source }, self.read_only.unwrap_or(true)),
            "cache" => {
                let id = self.id.or_else(|| target.as_ref().map(ToString::to_string)).unwrap_or_default();
                let mode = self.mode.unwrap_or(0o755);
                let kind = MountKind::Cache { id, sharing, from: self.from, source, mode, uid, gid };
                (kind, self.read_only.unwrap_or(false))
            }
            "tmpfs" => {
                let kind =
                    MountKind::Tmpfs { size_bytes: self.size_bytes, mode: self.mode.unwrap_or(0o1777) };
                (kind, self.read_only.unwrap_or(false))
            }
            "secret" => {
                let named = target
                    .as_ref()
                    .and_then(ImagePath::file_name)
                    .map(|name| name.to_string_lossy().into_owned());
                let id = self
                    .id
                    .or(self.source)
                    .or(named)
                    .ok_or_else(|| invalid(text, "a secret needs an id or a target"))?;
                let mode = self.mode.unwrap_or(0o400);
                (MountKind::Secret { id, env: self.env, required: self.required, mode, uid, gid }, true)
            }
            "ssh" => return Err(invalid(text, "ssh mounts are not supported yet")),
            other => {
                return Err(invalid(
                    text,
                    format_args!("unknown type `{other}`: expected bind, cache, tmpfs or secret"),
                ));
            }
        };
        let needs_target = !matches!(kind, MountKind::Secret { .. });
        if target.as_ref().is_none_or(ImagePath::is_root) && needs_target {
            return Err(invalid(text, "it needs a target other than `/`"));
        }
        Ok(RunMount { kind, target, read_only })
    }
}

/// Bytes with an optional unit as docker writes them: `64m`, `1g`, `512k`, `100`.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    match number.parse::<u64>() {
        Ok(number) => number.checked_mul(1 << shift),
        Err(_) if number.contains('.') => fraction(number, shift),
        Err(_) => None,
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size in bytes that was written with a fraction is rounded down"
)]
fn fraction(number: &str, shift: u32) -> Option<u64> {
    let number: f64 = number.parse().ok()?;
    Some((number * (1_u64 << shift) as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RunMount, String> {
        RunMount::parse(text, &ImagePath::new("/work")).map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_has_its_defaults() {
        let bind = parse("target=a,SRC=b").unwrap();
        assert_eq!(bind.target, Some(ImagePath::new("/work/a")));
        assert_eq!(bind.kind, MountKind::Bind { from: None, source: "b".into() });
        assert!(bind.read_only);
        let cache = parse("type=cache,target=/c,sharing=locked,uid=7").unwrap();
        let MountKind::Cache { id, sharing, uid, mode, .. } = cache.kind else { panic!("not a cache") };
        assert_eq!((id.as_str(), sharing, uid, mode), ("/c", Sharing::Locked, 7, 0o755));
        let secret = parse("type=secret,id=key,env=KEY,required").unwrap();
        assert!(matches!(secret.kind, MountKind::Secret { required: true, .. }));
        assert_eq!(parse(r#"type=bind,"target=/a,b",rw"#).unwrap().target, Some(ImagePath::new("/a,b")));
    }

    #[test]
    fn unknown_keys_and_values_are_errors() {
        for (text, part) in [
            ("type=device,target=/a", "unknown type `device`"),
            ("target=/a,bind-propagation=rshared", "unknown key `bind-propagation`"),
            ("type=cache,target=/a,sharing=all", "unknown sharing"),
            ("type=cache", "needs a target"),
            ("type=bind,target=/", "needs a target"),
            ("target=/a,ro=maybe", "neither true nor false"),
            ("type=tmpfs,target=/a,size=x", "size"),
            ("type=secret", "needs an id"),
            ("\"target=/a", "quote"),
            ("target", "needs a value"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, expected) in [
            ("100", Some(100)),
            ("64m", Some(64 << 20)),
            ("1G", Some(1 << 30)),
            ("2KiB", Some(2048)),
            ("1.5k", Some(1536)),
            ("", None),
            ("m", None),
            ("1x", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }
}
