//! `shiplap version`.

use serde_json::json;

use super::Format;
use crate::ui::output;

/// Print the version
#[derive(Debug, clap::Args)]
pub(super) struct VersionArgs {
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl VersionArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        let platform = shiplap::platform::Platform::host().to_string();
        match self.format {
            Format::Text => output::result(&format!("shiplap {version} ({platform})\n")),
            Format::Json => output::json(&json!({"version": version, "platform": platform})),
        }
    }
}
