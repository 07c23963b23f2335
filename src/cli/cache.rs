//! `shiplap cache`: the cache mounts of RUN steps.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::json;
use shiplap::store::StoredMount;

use super::error::Usage;
use super::{Format, Session};
use crate::ui::{escape, format, output, table};

const EXAMPLES: &str = "\
Examples:
  All cache mounts, their sizes and when they were used last
    shiplap cache ls

  For a script
    shiplap cache ls --format json

  One, by the id or the path that RUN --mount=type=cache gives
    shiplap cache rm /var/cache/apt

  All
    shiplap cache rm --all";

/// List and remove the cache mounts of RUN steps
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub(super) struct CacheMountArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    Ls(LsArgs),
    Rm(RmArgs),
}

/// List cache mounts
#[derive(Debug, Args)]
#[command(visible_alias = "list", after_help = EXAMPLES)]
struct LsArgs {
    /// Only those with these ids
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Remove cache mounts
///
/// One that a running build has stays, and the exit code is 1 then.
#[derive(Debug, Args)]
#[command(visible_alias = "remove", after_help = EXAMPLES)]
struct RmArgs {
    /// Ids, or keys as ls shows them
    #[arg(
        value_name = "ID",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    ids: Vec<String>,
    /// All of them
    #[arg(short, long)]
    all: bool,
}

impl CacheMountArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        match self.command {
            CacheCommand::Ls(args) => args.run(session),
            CacheCommand::Rm(args) => args.run(session),
        }
    }
}

/// Digits of a key that are shown, and that must be given at least.
const SHORT: usize = 12;

fn is_it(mount: &StoredMount, text: &str) -> bool {
    mount.id == text || text.len() >= SHORT && mount.key.starts_with(text)
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl LsArgs {
    fn run(self, session: &Session) -> anyhow::Result<()> {
        let mut mounts = session.store()?.mounts()?;
        mounts.retain(|m| self.ids.is_empty() || self.ids.iter().any(|id| is_it(m, id)));
        if self.format == Format::Json {
            let all: Vec<_> = mounts
                .iter()
                .map(|m| {
                    json!({
                        "key": m.key,
                        "id": m.id,
                        "bytes": m.bytes,
                        "last_used": jiff::Timestamp::from_second(seconds(m.last_used))
                            .map(|t| t.to_string())
                            .ok(),
                        "in_use": m.in_use,
                        "sharing": m.sharing,
                    })
                })
                .collect();
            return output::json(&all);
        }
        let now = seconds(SystemTime::now());
        let rows: Vec<[String; 5]> = mounts
            .into_iter()
            .map(|m| {
                let used = match m.in_use {
                    true => "now".to_owned(),
                    false => format::age(now - seconds(m.last_used)),
                };
                let key = m.key.get(..SHORT).unwrap_or(&m.key).to_owned();
                [key, format::size(m.bytes), used, m.sharing, m.id]
            })
            .collect();
        let header = ["KEY", "SIZE", "LAST USED", "SHARING", "ID"];
        output::result(&table::table(header, &rows))
    }
}

impl RmArgs {
    fn run(self, session: &Session) -> anyhow::Result<()> {
        let store = session.store()?;
        let mounts = store.mounts()?;
        // All is looked up before anything is removed.
        if let Some(id) = (self.ids.iter()).find(|id| !mounts.iter().any(|m| is_it(m, id))) {
            return Err(Usage::error(format!(
                "there is no cache mount {id:?}; shiplap cache ls shows those there are"
            )));
        }
        let doomed = |m: &&StoredMount| self.all || self.ids.iter().any(|id| is_it(m, id));
        let (mut freed, mut left) = (0, Vec::new());
        for mount in mounts.iter().filter(doomed) {
            if store.remove_mount(mount)? {
                freed += mount.bytes;
                output::result(&format!("{}\n", escape::text(&mount.id)))?;
            } else {
                left.push(mount.id.as_str());
            }
        }
        let _ = store.empty_trash();
        output::message(&format!("freed {}\n", format::size(freed)));
        match left[..] {
            [] => Ok(()),
            _ => Err(anyhow::anyhow!(
                "a running build has {}; it was left",
                left.join(", ")
            )),
        }
    }
}
