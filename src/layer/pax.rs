//! Extended headers: records of `LENGTH KEY=VALUE`, and times as decimals.
//!
//! # Specification
//! POSIX.1-2017 `pax`, "pax Interchange Format". Values are bytes: names that
//! are not UTF-8 are kept as they are.

use super::Mtime;

/// Prefix of the keys that hold extended attributes.
pub(crate) const XATTR: &[u8] = b"SCHILY.xattr.";

/// Appends one record to `out`.
pub(crate) fn push(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    // The length counts its own digits.
    let mut len = rest + 1;
    while len != rest + digits(len) {
        len = rest + digits(len);
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(n: usize) -> usize {
    n.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Splits a header's body into its records.
///
/// # Errors
/// A reason, for anything but an exact sequence of records.
pub(crate) fn parse(mut bytes: &[u8]) -> Result<Vec<(&[u8], &[u8])>, &'static str> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes
            .iter()
            .take(8)
            .position(|b| *b == b' ')
            .ok_or("a record of the extended header has no length")?;
        let len = decimal(&bytes[..space]).ok_or("a record's length is no number")?;
        let record = usize::try_from(len)
            .ok()
            .and_then(|len| bytes.get(space + 1..len))
            .ok_or("a record's length does not fit the extended header")?;
        let record = record
            .strip_suffix(b"\n")
            .ok_or("a record of the extended header does not end with its line")?;
        let eq = record
            .iter()
            .position(|b| *b == b'=')
            .ok_or("a record of the extended header has no `=`")?;
        let (key, value) = (&record[..eq], &record[eq + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err("a record of the extended header has a malformed key");
        }
        records.push((key, value));
        bytes = &bytes[len as usize..];
    }
    Ok(records)
}

/// Reads an unsigned decimal number: digits only, at least one.
pub(crate) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |n, b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

/// Writes a time; whole seconds without a point.
pub(crate) fn format_time(time: Mtime) -> String {
    if time.nanos == 0 {
        return time.secs.to_string();
    }
    let (sign, secs, nanos) = if time.secs < 0 {
        let secs = (time.secs + 1).unsigned_abs();
        ("-", secs, 1_000_000_000 - time.nanos)
    } else {
        ("", time.secs.unsigned_abs(), time.nanos)
    };
    let text = format!("{sign}{secs}.{nanos:09}");
    text.trim_end_matches('0').to_owned()
}

/// Reads a time; digits past nanoseconds are dropped, and what is beyond the
/// range of 64-bit seconds becomes the end of that range.
pub(crate) fn parse_time(bytes: &[u8]) -> Option<Mtime> {
    let (negative, digits) = match bytes.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, bytes),
    };
    let (whole, fraction) = match digits.iter().position(|b| *b == b'.') {
        Some(at) => (&digits[..at], &digits[at + 1..]),
        None => (digits, &b""[..]),
    };
    let all_digits = |d: &[u8]| d.iter().all(u8::is_ascii_digit);
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let secs = decimal(whole)
        .and_then(|n| i64::try_from(n).ok())
        .unwrap_or(i64::MAX);
    let mut nanos: u32 = 0;
    for i in 0..9 {
        let digit = fraction.get(i).map_or(0, |b| u32::from(b - b'0'));
        nanos = nanos * 10 + digit;
    }
    Some(match (negative, nanos) {
        (false, _) => Mtime { secs, nanos },
        (true, 0) => Mtime { secs: -secs, nanos },
        (true, _) => Mtime {
            secs: (-secs).saturating_sub(1),
            nanos: 1_000_000_000 - nanos,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip() {
        for len in [0, 1, 5, 80, 90, 92, 93, 94, 95, 980, 985, 990, 100_000] {
            let value = vec![b'\n'; len];
            let mut bytes = Vec::new();
            push(&mut bytes, b"k", &value);
            push(&mut bytes, b"SCHILY.xattr.user.x", b"a=b");
            let records = parse(&bytes).unwrap();
            assert_eq!(records.len(), 2, "{len}");
            assert_eq!(records[0], (&b"k"[..], &value[..]));
            assert_eq!(records[1].1, b"a=b");
        }
    }

    #[test]
    fn lies_are_refused() {
        for bad in [
            "5 a=b\n",
            "7 a=b\n",
            "6 a=b",
            "6 a=bx",
            "a=b\n",
            " a=b\n",
            "6  a=b\n",
            "-6 a=b\n",
            "6\ta=b\n",
            "5 ab\n",
            "5 =b\n",
            "2 ",
            "0 ",
            "1 ",
            "99999999999999999999 a=b\n",
            "6 a=b\n\0",
            "6 \0=b\n",
            "6 a=b\n6",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(parse(b"").unwrap(), []);
        assert_eq!(parse(b"6 a=b\n").unwrap(), [(&b"a"[..], &b"b"[..])]);
    }

    #[test]
    fn times_round_trip() {
        for (text, secs, nanos) in [
            ("0", 0, 0),
            ("12.5", 12, 500_000_000),
            ("12.000000001", 12, 1),
            ("-1", -1, 0),
            ("-0.5", -1, 500_000_000),
            ("-1.999999999", -2, 1),
            ("9223372036854775807", i64::MAX, 0),
        ] {
            let time = Mtime { secs, nanos };
            assert_eq!(format_time(time), text);
            assert_eq!(parse_time(text.as_bytes()), Some(time), "{text}");
        }
        let huge = format!("1.{}", "9".repeat(10_000));
        assert_eq!(parse_time(huge.as_bytes()).unwrap().nanos, 999_999_999);
        let big = "9".repeat(400);
        assert_eq!(parse_time(big.as_bytes()).unwrap().secs, i64::MAX);
        parse_time(format!("-{big}.5").as_bytes()).unwrap();
        for bad in [
            "", "-", ".", ".5", "+1", "NaN", "1e400", "1.5.5", " 1", "0x1",
        ] {
            assert_eq!(parse_time(bad.as_bytes()), None, "{bad}");
        }
    }
}
