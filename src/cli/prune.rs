//! `shiplap prune`: gives the disk back what nothing needs.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use shiplap::store::PruneOptions;

use super::{Format, Session};
use crate::ui::{format, output};

const EXAMPLES: &str = "\
Examples:
  What no image and no cache record leads to
    shiplap prune

  The cache of builds too
    shiplap prune --all

  Only what builds have not used for three days
    shiplap prune --filter until=72h

  Of the cache, only what was used last stays
    shiplap prune --keep-storage 10g";

/// Remove from the store what nothing needs
///
/// Images that have a name stay, and so does what they are made of. Waits for
/// nobody: while another shiplap uses the store, nothing is removed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PruneArgs {
    /// Forget all cached steps and cache mounts too
    #[arg(short, long, conflicts_with = "unused_for")]
    all: bool,
    /// Forget cached steps that were not used for this long, as in 72h
    #[arg(long, value_name = "TIME", value_parser = age, conflicts_with = "filter")]
    unused_for: Option<Duration>,
    /// until=TIME: forget cached steps that were not used since then: 72h,
    /// 1h30m, 2026-01-31, or with a time of day
    #[arg(long, value_name = "until=TIME", value_parser = until, conflicts_with = "all")]
    filter: Option<Duration>,
    /// Forget cached steps, those not used for the longest time first, until
    /// what only the cache needs is no more than this, as in 10g
    #[arg(long, value_name = "SIZE", value_parser = super::values::bytes, conflicts_with = "all")]
    #[arg(alias = "reserved-space")]
    keep_storage: Option<u64>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// `until=TIME`.
fn until(text: &str) -> Result<Duration, String> {
    match text.split_once('=') {
        Some(("until", time)) => age(time),
        _ => Err("it must be until=TIME, as in until=72h".into()),
    }
}

/// How long ago: `72h`, `1h30m`, a number of hours, or an RFC 3339 time or
/// date.
fn age(text: &str) -> Result<Duration, String> {
    if let Ok(hours) = text.parse::<u32>() {
        return Ok(Duration::from_secs(u64::from(hours) * 3600));
    }
    let full = if text.len() == 10 {
        format!("{text}T00:00:00Z")
    } else {
        text.to_owned()
    };
    if let Ok(then) = full.parse::<jiff::Timestamp>() {
        let ago = jiff::Timestamp::now().duration_since(then);
        return Duration::try_from(ago).map_err(|_| "it is in the future".into());
    }
    span(text)
        .ok_or_else(|| "it must be a time that has passed, as in 72h, 1h30m or 2026-01-31".into())
}

/// Numbers with units: d, h, m, s.
fn span(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds: u64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..end].parse().ok()?;
        let unit = match rest.as_bytes().get(end)? {
            b'd' => 86400,
            b'h' => 3600,
            b'm' => 60,
            b's' => 1,
            _ => return None,
        };
        seconds = seconds.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[end + 1..];
    }
    (!text.is_empty()).then(|| Duration::from_secs(seconds))
}

impl PruneArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let pruned = session.store()?.prune(&PruneOptions {
            unused_for: if self.all {
                Some(Duration::ZERO)
            } else {
                self.filter.or(self.unused_for)
            },
            keep_bytes: self.keep_storage,
            mounts: self.all,
            wait: false,
            dry_run: self.dry_run,
        })?;
        for (path, reason) in &pruned.left {
            output::message(&format!("can't remove {}: {reason}\n", path.display()));
        }
        match self.format {
            Format::Json => output::result(&format!(
                "{:#}\n",
                json!({
                    "blobs": pruned.blobs,
                    "layers": pruned.layers,
                    "records": pruned.records,
                    "mounts": pruned.mounts,
                    "bytes": pruned.bytes,
                    "dryRun": self.dry_run,
                })
            )),
            Format::Text => output::result(&format!(
                "{} {} in {} blobs, {} layers, {} cache records, {} cache mounts\n",
                if self.dry_run { "would free" } else { "freed" },
                format::size(pruned.bytes),
                pruned.blobs,
                pruned.layers,
                pruned.records,
                pruned.mounts
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times() {
        let seconds = |n| Ok(Duration::from_secs(n));
        for (text, expected) in [
            ("72h", seconds(259_200)),
            ("72", seconds(259_200)),
            ("0", seconds(0)),
            ("3d", seconds(259_200)),
            ("1h30m", seconds(5400)),
        ] {
            assert_eq!(age(text), expected, "{text}");
        }
        assert!(age("2020-01-31").unwrap() > Duration::from_secs(86_400));
        assert!(age("2020-01-31T10:00:00Z").unwrap() < age("2020-01-31").unwrap());
        for bad in ["", "h", "-1", "3w", "2999-01-01", "99999999999999999999d"] {
            assert!(age(bad).is_err(), "{bad}");
        }
        assert!(until("until=1h").is_ok() && until("label=a").is_err());
    }
}
