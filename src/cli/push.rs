//! `shiplap push`.

use std::sync::Arc;

use clap::Args;
use shiplap::platform::Platform;
use shiplap::transport::registry::RegistryDestination;
use shiplap::transport::{self, CopyOptions, Selection, Source};

use super::access::{RegistryArgs, Scope};
use super::{ProgressArgs, Session, images};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  To the registry that the name says
    shiplap push reg.example/app:1

  Under another name
    shiplap push app:1 reg.example/team/app:1

  To a registry with a certificate that nobody knows
    shiplap push --insecure reg.example/app:1";

/// Send an image from the store to a registry
///
/// Prints the name and the digest. Blobs that the registry has are not sent.
/// Credentials are those of docker and podman.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PushArgs {
    /// Name, digest or id of the image in the store
    image: String,
    /// Name in the registry [default: the same]
    #[arg(value_name = "NAME[:TAG]")]
    destination: Option<String>,
    /// Send only this platform's image out of several
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl PushArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let name = self.destination.as_ref().unwrap_or(&self.image);
        let reference = images::registry_name(name)?;
        let store = session.store()?;
        let descriptor = store.find(&self.image)?;
        let cancel = session.interrupts.cancel();
        let client = self
            .registry
            .client(Scope::Registries(&[reference.registry()]), cancel.clone())?;
        let source = Source::load(self.image.clone(), descriptor, Arc::new(store.clone()))?;
        let ui = session.ui(&self.progress)?;
        let options = CopyOptions {
            selection: self.platform.map_or(Selection::All, Selection::One),
            ..CopyOptions::default()
        };
        let destination = RegistryDestination::new(&client, &reference).remembering(&store);
        let pushed = transport::copy(&source, &destination, &options, &ui.events(), &cancel)?;
        drop(ui);
        output::result(&format!(
            "{}@{}\n",
            reference.familiar_name(),
            pushed.digest
        ))
    }
}
