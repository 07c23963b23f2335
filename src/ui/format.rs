//! Numbers for people: sizes, durations, ages.

/// A size in decimal units with three significant digits: `512B`, `1.23kB`,
/// `45.6MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes}B");
    }
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 of a unit would be shown as 1000 of it.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let mut number = format!("{value:.digits$}");
    if digits > 0 {
        number.truncate(number.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{number}{}", UNITS.get(unit).unwrap_or(&""))
}

/// Seconds with one decimal; minutes and hours when there are any.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1}s");
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "durations are positive and the conversion saturates"
    )]
    let whole = seconds.round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours}h{minutes:02}m{seconds:02}s")
    } else {
        format!("{minutes}m{seconds:02}s")
    }
}

/// How long ago something was, in one unit. `seconds` below 0 is a time to
/// come.
pub(crate) fn age(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    if seconds < 0 {
        return "in the future".into();
    }
    let (number, unit) = match seconds {
        s if s < MINUTE => (s, "second"),
        s if s < HOUR => (s / MINUTE, "minute"),
        s if s < 2 * DAY => (s / HOUR, "hour"),
        s if s < 14 * DAY => (s / DAY, "day"),
        s if s < 60 * DAY => (s / (7 * DAY), "week"),
        s if s < 2 * YEAR => (s / (30 * DAY), "month"),
        s => (s / YEAR, "year"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, shown) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (9_994, "9.99kB"),
            (9_996, "10kB"),
            (99_960, "100kB"),
            (999_499, "999kB"),
            (999_500, "1MB"),
            (45_600_000, "45.6MB"),
            (1_500_000_000, "1.5GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn durations_and_ages() {
        for (s, shown) in [
            (0.0, "0.0s"),
            (1.25, "1.2s"),
            (59.96, "1m00s"),
            (61.0, "1m01s"),
            (3725.0, "1h02m05s"),
        ] {
            assert_eq!(seconds(s), shown);
        }
        for (s, shown) in [
            (-5, "in the future"),
            (1, "1 second ago"),
            (0, "0 seconds ago"),
            (125, "2 minutes ago"),
            (3600, "1 hour ago"),
            (13 * 86400, "13 days ago"),
            (15 * 86400, "2 weeks ago"),
            (90 * 86400, "3 months ago"),
            (800 * 86400, "2 years ago"),
        ] {
            assert_eq!(age(s), shown);
        }
    }
}
