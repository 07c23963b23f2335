//! When to try again, and how long to wait before it.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime};

/// The longest time that a registry may ask us to wait.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);

/// Waiting times that double, with jitter so that many clients do not come
/// back at the same moment.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    base: Duration,
    attempt: u32,
    limit: u32,
}

impl Backoff {
    /// Up to `limit` further attempts, the first after about `base`.
    pub(super) fn new(base: Duration, limit: u32) -> Self {
        Self {
            base,
            attempt: 0,
            limit,
        }
    }

    /// How long to wait before the next attempt; `None` when there is none
    /// left. What the registry `asked` for wins when it is longer; a wish
    /// past two minutes ends the attempts.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        if self.attempt >= self.limit {
            return None;
        }
        if asked.is_some_and(|a| a > MAX_RETRY_AFTER) {
            self.attempt = self.limit;
            return None;
        }
        let full = self.base.saturating_mul(1 << self.attempt.min(10));
        let full = full.min(Duration::from_secs(30));
        self.attempt += 1;
        // Between a half and the whole of it.
        let random = std::hash::RandomState::new().build_hasher().finish();
        #[allow(clippy::cast_precision_loss, reason = "any fraction will do")]
        let fraction = 0.5 + (random % 1024) as f64 / 2048.0;
        Some(full.mul_f64(fraction).max(asked.unwrap_or_default()))
    }

    /// Starts over, because something was achieved.
    pub(super) fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// Whether a request that got `status` may succeed when it is sent again.
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504 | 520..=524)
}

/// Reads `Retry-After`: seconds, or an HTTP date seen from `now`.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // Too many digits for a number is a very long time as well.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let then = jiff::fmt::rfc2822::parse(value).ok()?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let seconds = u64::try_from(then.timestamp().as_second()).ok()?;
    Some(Duration::from_secs(seconds.saturating_sub(now.as_secs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_each_time_and_gives_up() {
        let base = Duration::from_millis(100);
        let mut backoff = Backoff::new(base, 3);
        for factor in [1, 2, 4] {
            let wait = backoff.next(None).unwrap();
            assert!(
                wait >= base * factor / 2 && wait <= base * factor,
                "{wait:?}"
            );
        }
        assert_eq!(backoff.next(None), None);
        backoff.reset();
        let asked = Duration::from_secs(7);
        assert_eq!(backoff.next(Some(asked)), Some(asked));
        assert_eq!(backoff.next(Some(Duration::from_secs(1_000_000_000))), None);
        assert_eq!(backoff.next(None), None);
    }

    #[test]
    fn reads_retry_after() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("3", Some(3)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(
                retry_after(text, now),
                seconds.map(Duration::from_secs),
                "{text}"
            );
        }
    }
}
