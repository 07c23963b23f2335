//! `shiplap wasted`: bytes that an image carries and nobody sees.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shiplap::look::waste::{Waste, Wasted, waste};

use super::error::Negative;
use super::files::{self, Lazy, Looked};
use super::image::ImageArgs;
use super::{Format, Session, values};
use crate::ui::{format, output, table};

const EXAMPLES: &str = "\
Examples:
    shiplap wasted app:1

  In CI: fail when more than 20 MB, or more than a tenth, is wasted
    shiplap wasted app:1 --fail-above 20mb
    shiplap wasted app:1 --fail-above 10%

  With dive's thresholds
    shiplap wasted app:1 --lowest-efficiency 0.95 --highest-user-wasted-percent 0.1

In JSON: efficiency, wasted_bytes, written_bytes, user_written_bytes,
user_wasted_percent, paths (path, bytes, files, removed, layers) and failed,
the thresholds that are not met.";

/// Show what layers carry although later layers overwrite or remove it
///
/// The efficiency is dive's: the smallest size that each path ever had, summed,
/// over all bytes that were written to it, summed. Wasted bytes are those of
/// files that the finished image does not show; dive also counts the last file
/// at such a path. The exit code is 1 when a threshold is not met.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct WastedArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// How many paths are shown; 0 is all
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// Fail when more is wasted: bytes (20mb), or a share of what all layers
    /// have (10%)
    #[arg(long, value_name = "SIZE|PERCENT", value_parser = limit)]
    fail_above: Option<Limit>,
    /// Fail when the efficiency is lower, from 0 to 1
    #[arg(long, alias = "lowestEfficiency", value_name = "RATIO", value_parser = ratio)]
    lowest_efficiency: Option<f64>,
    /// Fail when more bytes are wasted
    #[arg(long, alias = "highestWastedBytes", value_name = "SIZE", value_parser = values::bytes)]
    highest_wasted_bytes: Option<u64>,
    /// Fail when a larger share of what the layers above the first have is
    /// wasted, from 0 to 1
    #[arg(long, alias = "highestUserWastedPercent", value_name = "RATIO", value_parser = ratio)]
    highest_user_wasted_percent: Option<f64>,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// How much may be wasted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    Bytes(u64),
    /// From 0 to 1.
    Share(f64),
}

fn limit(text: &str) -> Result<Limit, String> {
    match text.trim().strip_suffix('%') {
        Some(percent) => match percent.trim().parse::<f64>() {
            Ok(p) if (0.0..=100.0).contains(&p) => Ok(Limit::Share(p / 100.0)),
            _ => Err(format!("{text:?} is no share; write 10%")),
        },
        None => values::bytes(text).map(Limit::Bytes),
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("it must be a number from 0 to 1".into()),
    }
}

impl WastedArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let looked = files::look(session, &self.image)?;
        let most = match self.top {
            0 => usize::MAX,
            most => most,
        };
        let found = waste(&looked.tree, most);
        let failed = self.failed(&found);
        match self.format {
            Format::Json => output::json(&self.report(&looked, &found, &failed))?,
            Format::Text => {
                output::stream(|out| Ok(self.text(&looked, &found, &failed, out)?))?;
            }
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(Negative.into()),
        }
    }

    /// The thresholds that are not met.
    fn failed(&self, found: &Waste) -> Vec<String> {
        let mut failed = Vec::new();
        let bytes_limit = match self.fail_above {
            Some(Limit::Bytes(most)) => Some(most),
            _ => None,
        };
        for most in bytes_limit.into_iter().chain(self.highest_wasted_bytes) {
            if found.bytes > most {
                let (is, most) = (format::size(found.bytes), format::size(most));
                failed.push(format!("{is} are wasted, {most} are allowed"));
            }
        }
        if let Some(Limit::Share(most)) = self.fail_above {
            let share = share(found);
            if share > most {
                failed.push(format!(
                    "{} of all bytes are wasted, {} are allowed",
                    percent(share),
                    percent(most)
                ));
            }
        }
        if let Some(least) = self.lowest_efficiency
            && found.efficiency < least
        {
            failed.push(format!(
                "the efficiency is {:.4}, it must be {least} at least",
                found.efficiency
            ));
        }
        if let Some(most) = self.highest_user_wasted_percent
            && found.user_share() > most
        {
            failed.push(format!(
                "{} of what the layers above the first have are wasted, {} are allowed",
                percent(found.user_share()),
                percent(most)
            ));
        }
        failed
    }

    fn report<'a>(
        &self,
        looked: &'a Looked,
        found: &'a Waste,
        failed: &'a [String],
    ) -> impl Serialize + 'a {
        let path = |wasted: Wasted| -> io::Result<Value> {
            let versions = looked.tree.versions(wasted.node);
            let layers: Vec<usize> = versions.map(|(layer, _)| layer + 1).collect();
            Ok(json!({
                "path": format!("/{}", looked.tree.path(wasted.node).display()),
                "bytes": wasted.bytes,
                "files": wasted.files,
                "removed": wasted.is_removed(&looked.tree),
                "layers": layers.into_iter().rev().collect::<Vec<_>>(),
            }))
        };
        Report {
            efficiency: found.efficiency,
            failed,
            paths: Lazy(move || found.paths.iter().map(path)),
            user_wasted_percent: found.user_share(),
            user_written_bytes: found.user_written,
            wasted_bytes: found.bytes,
            written_bytes: found.written,
        }
    }

    fn text(
        &self,
        looked: &Looked,
        found: &Waste,
        failed: &[String],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        writeln!(
            out,
            "efficiency: {}\nwasted: {} of {} ({})",
            percent(found.efficiency),
            format::size(found.bytes),
            format::size(found.written),
            percent(share(found)),
        )?;
        let top = &found.paths;
        if !top.is_empty() {
            let row = |wasted: Wasted| {
                let how = match wasted.is_removed(&looked.tree) {
                    true => "removed",
                    false => "replaced",
                };
                [
                    format::size(wasted.bytes),
                    wasted.files.to_string(),
                    how.into(),
                    format!("/{}", looked.tree.path(wasted.node).display()),
                ]
            };
            writeln!(out)?;
            let header = ["WASTED", "FILES", "HOW", "PATH"];
            table::write(out, header, || top.iter().map(row))?;
        }
        let hidden = found.count - top.len();
        if hidden > 0 {
            writeln!(out, "and {hidden} more paths; --top 0 shows all")?;
        }
        for reason in failed {
            writeln!(out, "failed: {reason}")?;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Report<'a, T: Serialize> {
    efficiency: f64,
    failed: &'a [String],
    paths: T,
    user_wasted_percent: f64,
    user_written_bytes: u64,
    wasted_bytes: u64,
    written_bytes: u64,
}

/// The part of all bytes that is wasted.
fn share(found: &Waste) -> f64 {
    match found.written {
        0 => 0.0,
        written => found.bytes as f64 / written as f64,
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_bytes_or_shares() {
        assert_eq!(limit("20mb"), Ok(Limit::Bytes(20 << 20)));
        assert_eq!(limit("0"), Ok(Limit::Bytes(0)));
        assert_eq!(limit("12.5%"), Ok(Limit::Share(0.125)));
        for bad in ["%", "101%", "-1%", "x", "NaN%"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
        assert!(ratio("1.1").is_err() && ratio("0.9").is_ok() && ratio("NaN").is_err());
    }
}
