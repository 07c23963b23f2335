//! `shiplap pull`.

use clap::Args;
use shiplap::platform::Platform;
use shiplap::transport::{self, CopyOptions, Selection};

use super::access::{RegistryArgs, Scope};
use super::{ProgressArgs, Session, images};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  From Docker Hub
    shiplap pull debian:bookworm

  From a registry on this machine, which may speak plain http
    shiplap pull localhost:5000/app:1

  Another platform's image
    shiplap pull --platform linux/arm64 debian:bookworm

  With credentials for this command only
    shiplap pull --creds ci:\"$TOKEN\" reg.example/app:1";

/// Fetch an image from a registry into the store
///
/// Prints the name and the digest. Credentials are those of docker and podman.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PullArgs {
    /// Name of the image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
    /// Platform to choose from an image of several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
    /// Fetch the images for all platforms, and the index
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl PullArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let reference = images::registry_name(&self.name)?;
        let store = session.store()?;
        let cancel = session.interrupts.cancel();
        let client = self
            .registry
            .client(Scope::Registries(&[reference.registry()]), cancel.clone())?;
        let ui = session.ui(&self.progress)?;
        let source = transport::registry::open(&client, &reference)?;
        let options = CopyOptions {
            selection: if self.all_platforms {
                Selection::All
            } else {
                Selection::One(self.platform.unwrap_or_else(Platform::host))
            },
            ..CopyOptions::default()
        };
        // A name with a digest only is what the store finds it by.
        let destination = Session::destination(&store, vec![reference.clone()]);
        let pulled = transport::copy(&source, &destination, &options, &ui.events(), &cancel)?;
        drop(ui);
        output::result(&format!(
            "{}@{}\n",
            reference.familiar_name(),
            pulled.digest
        ))
    }
}
