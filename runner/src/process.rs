//! Image config and the user's flags → what to execute. Pure.
//!
//! The image's `passwd` and `group` are hostile text: a word of digits is only ever a number, what is too
//! large or too long is an error or passed over, and no line can name root by accident.
//!
//! May touch: its arguments. Knows nothing of syscalls, disk or network.

use crate::sandbox::plan::User;

/// The most bytes that are looked at of `passwd` and of `group`; readers need read no more.
pub const ACCOUNTS_BYTES_MAX: usize = 8 << 20;
const LINE_BYTES_MAX: usize = 64 << 10;
const GROUPS_MAX: usize = 65_536;

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
    if spec.len() > 256 || spec.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(bad(spec, "it is too long or holds control characters"));
    }
    let (user, wanted_group) = match spec.split_once(':') {
        Some(("", _) | (_, "")) => return Err(bad(spec, "one side of the colon is empty")),
        Some((user, group)) => (user, Some(group)),
        None if spec.is_empty() => ("0", None),
        None => (spec, None),
    };
    let account = find_account(user, passwd)?;
    let (gid, groups) = match wanted_group {
        Some(wanted) => (find_group(wanted, group)?, Vec::new()),
        None => (account.gid, account.name.map(|name| groups_of(name, group)).unwrap_or_default()),
    };
    let home = if account.home.starts_with('/') { account.home } else { "/".to_owned() };
    Ok(User { uid: account.uid, gid, groups, home })
}

/// A line of passwd, or a bare number.
struct Account<'t> {
    name: Option<&'t [u8]>,
    uid: u32,
    gid: u32,
    home: String,
}

/// A word of digits is a number, whatever names the image has; a line for it only tells group and home.
fn find_account<'t>(user: &str, passwd: &'t [u8]) -> Result<Account<'t>, ProcessError> {
    let wanted = number(user)?;
    for fields in lines(passwd) {
        let &[name, _, uid, gid, _, home, ..] = fields.as_slice() else { continue };
        let (Some(uid), Some(gid)) = (plain_number(uid), plain_number(gid)) else { continue };
        let is_it = match wanted {
            Some(wanted) => uid == wanted,
            None => name == user.as_bytes(),
        };
        if is_it {
            let home = String::from_utf8_lossy(home).into_owned();
            return Ok(Account { name: Some(name), uid, gid, home });
        }
    }
    let home = if wanted == Some(0) { "/root" } else { "/" };
    match wanted {
        Some(uid) => Ok(Account { name: None, uid, gid: 0, home: home.to_owned() }),
        None => Err(ProcessError::UnknownUser(user.to_owned())),
    }
}

fn find_group(wanted: &str, group: &[u8]) -> Result<u32, ProcessError> {
    if let Some(gid) = number(wanted)? {
        return Ok(gid);
    }
    let named = lines(group).find_map(|fields| match fields.as_slice() {
        [name, _, gid, ..] if *name == wanted.as_bytes() => plain_number(gid),
        _ => None,
    });
    named.ok_or_else(|| ProcessError::UnknownGroup(wanted.to_owned()))
}

/// The groups that list `user` as a member, in the file's order, each once.
fn groups_of(user: &[u8], group: &[u8]) -> Vec<u32> {
    let mut groups = std::collections::BTreeSet::new();
    let mut ordered = Vec::new();
    for fields in lines(group) {
        let &[_, _, gid, members, ..] = fields.as_slice() else { continue };
        let Some(gid) = plain_number(gid) else { continue };
        let is_member = members.split(|byte| *byte == b',').any(|member| member == user);
        if is_member && groups.insert(gid) && ordered.len() < GROUPS_MAX {
            ordered.push(gid);
        }
    }
    ordered
}

/// `None` when the word is a name; an error when it looks like a number and is none that can be an id.
fn number(word: &str) -> Result<Option<u32>, ProcessError> {
    if word.is_empty() {
        return Err(bad(word, "it is empty"));
    }
    let digits = word.strip_prefix(['-', '+']).unwrap_or(word);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match plain_number(word.as_bytes()) {
        // The kernel reads the largest 32-bit number as "no change".
        Some(id) => Ok(Some(id)),
        None => Err(bad(word, "an id lies between 0 and 4294967294")),
    }
}

fn plain_number(word: &[u8]) -> Option<u32> {
    let is_plain = !word.is_empty() && word.len() <= 10 && word.iter().all(u8::is_ascii_digit);
    let id = is_plain.then(|| std::str::from_utf8(word).ok()?.parse::<u32>().ok())??;
    (id < u32::MAX).then_some(id)
}

/// The fields of each line; comments and lines of absurd length are passed over.
fn lines(text: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let text = &text[..text.len().min(ACCOUNTS_BYTES_MAX)];
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty() && line.len() <= LINE_BYTES_MAX && line[0] != b'#')
        .map(|line| line.split(|byte| *byte == b':').collect())
}

fn bad(spec: &str, why: &'static str) -> ProcessError {
    ProcessError::BadUser(spec.escape_default().to_string(), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh
ann:x:1000:1001::/home/ann:/bin/sh
4294967296:x:0:0::/:/bin/sh
12:x:0:0::/:/bin/sh
broken:x:zero:0::/:/bin/sh
relative:x:7:7::home:/bin/sh
";
    const GROUP: &[u8] =
        b"root:x:0:\nann:x:1001:\nwheel:x:10:root,ann\nvideo:x:44:ann\nvideo2:x:44:ann\n0:x:77:ann\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User { uid, gid, groups: groups.to_vec(), home: home.to_owned() }
    }

    #[test]
    fn users_and_groups_resolve_against_the_image() {
        for (spec, expected) in [
            ("", user(0, 0, &[10], "/root")),
            ("root", user(0, 0, &[10], "/root")),
            ("ann", user(1000, 1001, &[10, 44, 77], "/home/ann")),
            ("1000", user(1000, 1001, &[10, 44, 77], "/home/ann")),
            ("ann:wheel", user(1000, 10, &[], "/home/ann")),
            ("ann:5", user(1000, 5, &[], "/home/ann")),
            ("4242", user(4242, 0, &[], "/")),
            ("4242:4243", user(4242, 4243, &[], "/")),
            // Digits are a number even where the image names a user so.
            ("12", user(12, 0, &[], "/")),
            ("0:0", user(0, 0, &[], "/root")),
            ("relative", user(7, 7, &[], "/")),
        ] {
            assert_eq!(resolve_user(spec, PASSWD, GROUP).unwrap(), expected, "{spec}");
        }
        assert_eq!(resolve_user("", b"", b"").unwrap(), user(0, 0, &[], "/root"));
    }

    #[test]
    fn nothing_odd_becomes_root() {
        for spec in [
            "4294967295",
            "4294967296",
            "-1",
            "+0",
            "999999999999",
            "1000:",
            ":0",
            ":",
            "ann:99999999999",
            "0\n",
            "ann\u{0}",
            "broken",
            "eve",
            "0x0",
            "ann:nobody",
            "a:b:c",
            " 0",
        ] {
            assert!(resolve_user(spec, PASSWD, GROUP).is_err(), "{spec:?}");
        }
    }

    #[test]
    fn a_file_full_of_members_stays_bounded() {
        let line = format!("g:x:5:{}\n", "a,".repeat(100_000));
        assert!(groups_of(b"a", line.as_bytes()).is_empty());
        let many = (0..100_000).fold(String::new(), |text, gid| text + &format!("g:x:{gid}:a\n"));
        assert_eq!(groups_of(b"a", many.as_bytes()).len(), GROUPS_MAX);
    }
}
