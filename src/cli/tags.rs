//! `shiplap tags`.

use clap::Args;
use serde_json::json;

use super::access::RegistryArgs;
use super::error::Usage;
use super::{Format, Session};
use crate::ui::{escape, output};

const EXAMPLES: &str = "\
Examples:
  shiplap tags debian
  shiplap tags --format json reg.example/team/app";

/// List the tags of a repository in a registry
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TagsArgs {
    /// The repository
    #[arg(value_name = "REPOSITORY")]
    repository: String,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl TagsArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let last = self.repository.rsplit('/').next().unwrap_or_default();
        if last.contains([':', '@']) {
            return Err(Usage::error(
                "the tags of a repository: leave tag and digest off",
            ));
        }
        let cancel = session.interrupts.cancel();
        let (client, reference) = self.registry.named(&self.repository, cancel)?;
        let tags = client.repository(&reference).tags()?;
        match self.format {
            Format::Json => output::json(&json!({
                "repository": reference.familiar_name(),
                "tags": tags,
            })),
            Format::Text => {
                let lines = tags.iter().map(|tag| format!("{}\n", escape::text(tag)));
                output::result(&lines.collect::<String>())
            }
        }
    }
}
