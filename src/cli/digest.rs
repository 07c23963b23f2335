//! `shiplap digest`.

use clap::Args;
use serde_json::json;
use shiplap::image::{Descriptor, Document};
use shiplap::platform::Platform;
use shiplap::reference::Reference;
use shiplap::registry::{Client, RegistryError};

use super::access::RegistryArgs;
use super::{Format, Session};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  To pin a base image
    shiplap digest debian:bookworm

  Of one platform's image out of several
    shiplap digest --platform linux/arm64 debian:bookworm";

/// Print the digest that a name in a registry stands for
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DigestArgs {
    /// Name of the image
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
    /// Platform to choose from an image of several
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl DigestArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let cancel = session.interrupts.cancel();
        let (client, reference) = self.registry.named(&self.name, cancel)?;
        let descriptor = look_up(&client, &reference, self.platform.as_ref())?;
        match self.format {
            Format::Text => output::result(&format!("{}\n", descriptor.digest)),
            Format::Json => output::json(&json!({
                "name": reference.familiar(),
                "digest": descriptor.digest,
                "media_type": descriptor.media_type,
                "size": descriptor.size,
            })),
        }
    }
}

/// What `reference` stands for; its image for `platform` where one is given.
pub(super) fn look_up(
    client: &Client,
    reference: &Reference,
    platform: Option<&Platform>,
) -> anyhow::Result<Descriptor> {
    if platform.is_some() {
        return Ok(read(client, reference, platform)?.0);
    }
    let repository = client.repository(reference);
    match repository.head(reference.target())? {
        Some(descriptor) => Ok(descriptor),
        // Asked again for the words of the refusal.
        None => Ok(repository.resolve(reference.target())?.0),
    }
}

/// The manifest of `reference` and its descriptor; that of its image for
/// `platform` where one is given.
pub(super) fn read(
    client: &Client,
    reference: &Reference,
    platform: Option<&Platform>,
) -> anyhow::Result<(Descriptor, Vec<u8>)> {
    let repository = client.repository(reference);
    let resolve = |target: &str| -> Result<_, RegistryError> { repository.resolve(target) };
    let (descriptor, bytes) = resolve(reference.target())?;
    let Some(platform) = platform else {
        return Ok((descriptor, bytes));
    };
    match Document::parse(&bytes)? {
        Document::Manifest(_) => Ok((descriptor, bytes)),
        Document::Index(index) => {
            let Some(chosen) = index.select(platform) else {
                let has = index.manifests.iter().filter_map(|d| d.platform.as_ref());
                let has: Vec<String> = has.map(Platform::to_string).collect();
                anyhow::bail!(
                    "{} has no image for {platform}; it has {}",
                    reference.familiar(),
                    has.join(", ")
                );
            };
            Ok(resolve(chosen.digest.as_str())?)
        }
    }
}
