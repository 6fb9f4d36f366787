//! Resource limits by name, as `--ulimit` spells them.
//!
//! May touch: its arguments. Knows nothing of the kernel's values.

use rustix::process::Resource;

/// The resource that `name` means.
pub(crate) fn resource(name: &str) -> Option<Resource> {
    Some(match name.strip_prefix("RLIMIT_").unwrap_or(name).to_ascii_lowercase().as_str() {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_a_resource_and_others_none() {
        assert_eq!(resource("nofile"), Some(Resource::Nofile));
        assert_eq!(resource("RLIMIT_NPROC"), Some(Resource::Nproc));
        assert_eq!(resource("files"), None);
    }
}
