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
    shiplap prune --unused-for 72h";

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
    #[arg(long, value_name = "HOURS", value_parser = hours)]
    unused_for: Option<Duration>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// `72h` or `72`: whole hours.
fn hours(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('h').unwrap_or(text);
    number
        .parse::<u32>()
        .map(|hours| Duration::from_secs(u64::from(hours) * 3600))
        .map_err(|_| "it must be a number of hours, as in 72h".into())
}

impl PruneArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let pruned = session.store()?.prune(&PruneOptions {
            unused_for: if self.all {
                Some(Duration::ZERO)
            } else {
                self.unused_for
            },
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
    fn reads_hours() {
        assert_eq!(hours("72h"), Ok(Duration::from_secs(259_200)));
        assert_eq!(hours("0"), Ok(Duration::ZERO));
        assert!(hours("3d").is_err() && hours("-1").is_err());
    }
}
