//! Durations as `1h30m`, `1.5s` and `500ms`.

/// The nanoseconds of `text`; `None` where it is no duration or too long for
/// 64 bits.
pub(super) fn nanoseconds(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (value, after) = digits(rest);
        let (fraction, after_fraction) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if value.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after_fraction
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after_fraction.len());
        let (unit, after_unit) = after_fraction.split_at(end);
        let scale: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: u64 = if value.is_empty() {
            0
        } else {
            value.parse().ok()?
        };
        total = total
            .checked_add(whole.checked_mul(scale)?)?
            .checked_add(part(fraction, scale))?;
        rest = after_unit;
    }
    let total = i64::try_from(total).ok()?;
    Some(if negative { -total } else { total })
}

/// `0.digits` of `scale`, cut off to whole nanoseconds.
fn part(digits: &str, scale: u64) -> u64 {
    // More digits than these are below a nanosecond even for hours.
    const DIGITS: usize = 14;
    let mut numerator: u128 = 0;
    let mut denominator: u128 = 1;
    for digit in digits.bytes().take(DIGITS) {
        numerator = numerator * 10 + u128::from(digit - b'0');
        denominator *= 10;
    }
    u64::try_from(numerator * u128::from(scale) / denominator).unwrap_or(u64::MAX)
}

fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0", Some(0)),
            ("5s", Some(5_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5h", Some(1_800_000_000_000)),
            ("1.25m", Some(75_000_000_000)),
            ("500ms", Some(500_000_000)),
            ("10us", Some(10_000)),
            ("10µs", Some(10_000)),
            ("-1s", Some(-1_000_000_000)),
            ("+1s", Some(1_000_000_000)),
            ("", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("5 s", None),
            ("5x", None),
            ("9999999999h", None),
            ("99999999999999999999999s", None),
        ] {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }
}
