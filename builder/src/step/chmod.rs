//! `--chmod`: octal (`755`, `04711`) or symbolic (`u=rwX,go=rX`) as `chmod(1)` reads it. Pure.
//!
//! May touch: its arguments. Knows nothing of disk.

/// A parsed mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chmod {
    Octal(u32),
    Symbolic(Vec<Clause>),
}

/// `ugo+rwx`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Which of the `rwxrwxrwx` bits it speaks of, as a mask.
    who: u32,
    operator: char,
    permissions: Vec<char>,
}

/// Says that a text is no mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a mode: expected octal digits up to 07777, or a form like u=rwX,go=rX")]
pub struct BadMode(pub String);

impl Chmod {
    pub fn parse(text: &str) -> Result<Self, BadMode> {
        let bad = || BadMode(text.to_owned());
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).map_err(|_| bad())?;
            return if mode <= 0o7777 { Ok(Self::Octal(mode)) } else { Err(bad()) };
        }
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut clauses).ok_or_else(bad)?;
        }
        Ok(Self::Symbolic(clauses))
    }

    /// The mode of a file that had `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(clauses) => clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_dir)),
        }
    }
}

fn parse_clause(text: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let start = text.find(['+', '-', '='])?;
    let mut who = 0;
    for letter in text[..start].chars() {
        who |= match letter {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    if who == 0 {
        who = 0o7777;
    }
    let mut rest = text[start..].chars().peekable();
    while let Some(operator) = rest.next() {
        let mut permissions = Vec::new();
        while let Some(letter) = rest.next_if(|letter| !"+-=".contains(*letter)) {
            if !"rwxXstugo".contains(letter) {
                return None;
            }
            permissions.push(letter);
        }
        clauses.push(Clause { who, operator, permissions });
    }
    Some(())
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let bits = self.permissions.iter().fold(0, |bits, letter| bits | permission(*letter, mode, is_dir))
            & self.who;
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => (mode & !self.who) | bits,
        }
    }
}

fn permission(letter: char, mode: u32, is_dir: bool) -> u32 {
    let spread = |bits: u32| bits << 6 | bits << 3 | bits;
    match letter {
        'r' => 0o444,
        'w' => 0o222,
        'x' => 0o111,
        'X' if is_dir || mode & 0o111 != 0 => 0o111,
        's' => 0o6000,
        't' => 0o1000,
        'u' => spread(mode >> 6 & 7),
        'g' => spread(mode >> 3 & 7),
        'o' => spread(mode & 7),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_come_out_as_chmod_makes_them() {
        for (text, mode, is_dir, expected) in [
            ("755", 0o644, false, 0o755),
            ("0", 0o644, false, 0),
            ("04711", 0o644, false, 0o4711),
            ("u+x", 0o644, false, 0o744),
            ("a+X", 0o644, false, 0o644),
            ("a+X", 0o644, true, 0o755),
            ("u=rwX,go=rX", 0o777, false, 0o755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("go-rwx", 0o755, false, 0o700),
            ("g=u", 0o640, false, 0o660),
            ("+t", 0o755, true, 0o1755),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("=r", 0o755, false, 0o444),
        ] {
            assert_eq!(Chmod::parse(text).unwrap().apply(mode, is_dir), expected, "{text} {mode:o}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "8", "10000", "rwx", "u", "u+q", "z+x", "u+x,", "-1x"] {
            assert_eq!(Chmod::parse(text), Err(BadMode(text.to_owned())));
        }
    }
}
