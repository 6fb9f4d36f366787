//! Durations as Go writes them: `1m30s`, `1.5h`, `300ms`.
//!
//! May touch: its arguments. Knows nothing of HEALTHCHECK.

/// Reads a duration as nanoseconds. `0` needs no unit.
pub(super) fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (whole, behind) = digits(rest);
        let (fraction, behind) = behind.strip_prefix('.').map_or(("", behind), digits);
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let unit = nanoseconds(&behind[..end])?;
        rest = &behind[end..];
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total += i128::from(whole) * i128::from(unit) + i128::from(part(fraction, unit));
        i64::try_from(total).ok()?;
    }
    let total = i64::try_from(total).ok()?;
    Some(if negative { -total } else { total })
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// `.fraction` of a unit, rounded down. Digits that are worth less than a nanosecond don't count.
fn part(fraction: &str, unit: i64) -> i64 {
    let mut value = 0;
    let mut worth = unit;
    for digit in fraction.bytes() {
        // Ten times too much, so that the digit that is worth a tenth of a nanosecond still counts.
        value += i128::from(digit - b'0') * i128::from(worth);
        worth /= 10;
    }
    i64::try_from(value / 10).unwrap_or(0)
}

fn nanoseconds(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations_are_read_as_in_go() {
        let table = [
            ("0", Some(0)),
            ("30s", Some(30_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("0.1ns", Some(0)),
            ("300ms", Some(300_000_000)),
            ("1us1µs1μs", Some(3_000)),
            ("-1s", Some(-1_000_000_000)),
            ("+1s", Some(1_000_000_000)),
            ("9223372036854775807ns", Some(i64::MAX)),
            ("9223372036854775808ns", None),
            ("9999999h", None),
            ("99999999999999999999s", None),
            ("", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("1d", None),
            ("1 s", None),
            ("-", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
