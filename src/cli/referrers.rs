//! `shiplap referrers`.

use clap::Args;
use shiplap::image::Descriptor;
use shiplap::platform::Platform;

use super::access::RegistryArgs;
use super::{Format, Session, digest};
use crate::ui::{escape, format, output, table};

const EXAMPLES: &str = "\
Examples:
  shiplap referrers reg.example/app:1
  shiplap referrers --artifact-type application/spdx+json reg.example/app:1";

/// List what is attached to an image in a registry
///
/// Signatures, SBOMs and the like name the image as their subject.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReferrersArgs {
    /// Name of the image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
    /// Only what is of this type
    #[arg(long, value_name = "TYPE")]
    artifact_type: Option<String>,
    /// Platform to choose from an image of several
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl ReferrersArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let cancel = session.interrupts.cancel();
        let (client, reference) = self.registry.named(&self.name, cancel)?;
        let subject = digest::look_up(&client, &reference, self.platform.as_ref())?;
        let found = client
            .repository(&reference)
            .referrers(&subject.digest, self.artifact_type.as_deref())?;
        if self.format == Format::Json {
            return output::json(&found);
        }
        let rows: Vec<[String; 3]> = found.iter().map(row).collect();
        output::result(&table::table(["DIGEST", "TYPE", "SIZE"], &rows))
    }
}

fn row(descriptor: &Descriptor) -> [String; 3] {
    let kind = descriptor.artifact_type().unwrap_or_default();
    [
        descriptor.digest.to_string(),
        escape::text(kind).into_owned(),
        format::size(descriptor.size),
    ]
}
