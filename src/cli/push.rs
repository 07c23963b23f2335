//! `shiplap push`.

use std::path::PathBuf;

use clap::Args;
use shiplap::platform::Platform;
use shiplap::reference::Reference;
use shiplap::transport::endpoint::Endpoints;
use shiplap::transport::registry::RegistryDestination;
use shiplap::transport::{self, Destination, Location, Selection};

use super::access::{RegistryArgs, Scope};
use super::transfer::{self, FamilyArg, TransferArgs};
use super::values::write_file;
use super::{ProgressArgs, Session};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  To the registry that the name says
    shiplap push reg.example/app:1

  Under other names; each blob is sent once to each registry
    shiplap push app:1 reg.example/team/app:1 reg.example/team/app:latest

  What would have to be sent
    shiplap push --dry-run reg.example/app:1

  To a registry with a certificate that nobody knows
    shiplap push --insecure reg.example/app:1";

/// Send an image from the store to registries
///
/// Prints the names and the digest. Blobs that the registry has are not sent,
/// and those of its other repositories are taken over from there. Credentials
/// are those of docker and podman.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PushArgs {
    /// Name, digest or id of the image in the store
    image: String,
    /// Names in registries, or other places as for copy [default: the same]
    #[arg(value_name = "NAME[:TAG]")]
    destinations: Vec<String>,
    /// Send only these platforms' images out of several
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',', value_parser = Platform::parse)]
    platform: Vec<Platform>,
    /// Accepted: all that the store has is sent
    #[arg(long, hide = true)]
    all: bool,
    /// Form of manifests and configs there [default: as they are]
    #[arg(short, long, value_enum, help_heading = "Conversion")]
    format: Option<FamilyArg>,
    /// Write the digest to a file
    #[arg(long, alias = "digest-file", value_name = "FILE")]
    digestfile: Option<PathBuf>,
    #[command(flatten)]
    transfer: TransferArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl PushArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let names = match self.destinations.as_slice() {
            [] => std::slice::from_ref(&self.image),
            given => given,
        };
        let to: Vec<Location> = names
            .iter()
            .map(|name| transfer::remote_location(name))
            .collect::<anyhow::Result<_>>()?;
        let selection = transfer::selection(&self.platform, self.all, Selection::All);
        let options = self.transfer.options(selection, self.format)?;
        let store = session.store()?;
        let source = transport::local::open(&store, &self.image)?;
        let registries: Vec<&str> = to.iter().filter_map(transfer::registry_of).collect();
        let cancel = session.interrupts.cancel();
        let client = self
            .registry
            .client(Scope::Registries(&registries), cancel)?;
        let ends = Endpoints {
            client: &client,
            store: Some(&store),
        };
        // Tags of one repository are one destination.
        let references: Vec<Reference> = to
            .iter()
            .filter_map(|location| match location {
                Location::Registry(reference) => Some(reference.clone()),
                _ => None,
            })
            .collect();
        let mut destinations: Vec<Box<dyn Destination>> = Vec::new();
        for destination in RegistryDestination::for_each(&client, &references) {
            destinations.push(Box::new(destination.remembering(&store)));
        }
        let mut stream = false;
        for location in &to {
            if transfer::registry_of(location).is_none() {
                stream |= transfer::is_stream(location)?;
                destinations.push(ends.create(location, || Box::new(std::io::stdout()))?);
            }
        }
        let pushed =
            self.transfer
                .deliver(session, &self.progress, &source, &destinations, &options)?;
        let Some(pushed) = pushed else { return Ok(()) };
        let Some(first) = pushed.first() else {
            return Ok(());
        };
        if let Some(file) = &self.digestfile {
            write_file(file, first.digest.as_str())?;
        }
        if stream {
            return Ok(());
        }
        let lines: String = to.iter().map(|to| transfer::line(to, first)).collect();
        output::result(&lines)
    }
}
