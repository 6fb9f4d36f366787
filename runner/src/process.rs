//! Image config and the user's flags → what to execute. Pure.
//!
//! May touch: its arguments. Knows nothing of syscalls, disk or network.

use crate::sandbox::plan::User;

/// Why a user, a group or a command line can't be made out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    #[error("cannot find user `{0}` in the image's /etc/passwd")]
    UnknownUser(String),
    #[error("cannot find group `{0}` in the image's /etc/group")]
    UnknownGroup(String),
    #[error("`{0}` is not a user or group: {1}")]
    BadUser(String, &'static str),
}

/// Resolves `spec` (`user`, `uid`, `user:group`, `uid:gid`, empty for root) against the image's own
/// `passwd` and `group` files. An explicit group means no supplementary groups but itself.
pub fn resolve_user(spec: &str, passwd: &[u8], group: &[u8]) -> Result<User, ProcessError> {
    let _ = (spec, passwd, group);
    todo!()
}
