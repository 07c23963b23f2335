//! `shiplap manifest`.

use clap::Args;
use serde_json::Value;
use shiplap::platform::Platform;

use super::access::RegistryArgs;
use super::{Session, digest};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  shiplap manifest debian:bookworm
  shiplap manifest --platform linux/arm64 debian:bookworm

  Byte for byte, so that the digest is right
    shiplap manifest --raw debian:bookworm | sha256sum";

/// Print a manifest or index as it is in a registry
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ManifestArgs {
    /// Name of the image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
    /// Print its bytes as they are, without any layout
    #[arg(long)]
    raw: bool,
    /// Platform to choose from an image of several
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl ManifestArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let cancel = session.interrupts.cancel();
        let (client, reference) = self.registry.named(&self.name, cancel)?;
        let (_, bytes) = digest::read(&client, &reference, self.platform.as_ref())?;
        if self.raw {
            return output::result_bytes(&bytes);
        }
        output::json(&serde_json::from_slice::<Value>(&bytes)?)
    }
}
