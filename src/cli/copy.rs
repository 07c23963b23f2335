//! `shiplap copy`.

use std::path::PathBuf;

use clap::Args;
use shiplap::platform::Platform;
use shiplap::reference::Reference;
use shiplap::transport::endpoint::Endpoints;
use shiplap::transport::{Destination, Location, Selection};

use super::access::{Basic, RegistryArgs, Scope, Side, basic};
use super::error::Usage;
use super::transfer::{self, FamilyArg, TransferArgs};
use super::values::write_file;
use super::{ProgressArgs, Session, images};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  From one registry to another, for all platforms, digests unchanged
    shiplap copy --all docker://reg.example/app:1 docker://other.example/app:1

  Into a directory, and from there into the store
    shiplap copy docker://debian:bookworm oci:images:debian
    shiplap copy oci:images:debian debian:bookworm

  What would have to be sent
    shiplap copy --dry-run app:1 docker://reg.example/app:1

  With layers in zstd
    shiplap copy --compression zstd app:1 docker://reg.example/app:1-zstd";

const PLACES: &str = "\
Copy an image from one place to others

Places are docker://NAME (a registry), oci:DIR[:NAME], oci-archive:FILE[:NAME],
docker-archive:FILE[:NAME], dir:DIR, and a bare NAME in the store; to read, a
bare NAME that the store does not have is one in its registry. A FILE of - is
standard input or output.

Of an image for several platforms the one for this machine is copied, unless
--platform or --all says otherwise. Blobs that are there are not sent; a digest
stays what it was unless a conversion is asked for. Prints what was written.";

/// Copy an image from one place to others
#[derive(Debug, Args)]
#[command(long_about = PLACES, after_help = EXAMPLES)]
pub(super) struct CopyArgs {
    /// Where the image is
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where it is to be
    #[arg(required = true, value_name = "DEST")]
    destinations: Vec<String>,
    /// Copy the images for all platforms, and the index
    #[arg(short, long, conflicts_with = "platform")]
    all: bool,
    /// Platforms to copy; several stay together in an index
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',', value_parser = Platform::parse)]
    platform: Vec<Platform>,
    /// The same as --all, --platform, as other tools have it
    #[arg(long, hide = true, value_parser = ["all", "system"])]
    multi_arch: Option<String>,
    /// Form of manifests and configs there [default: as they are]
    #[arg(short, long, value_enum, help_heading = "Conversion")]
    format: Option<FamilyArg>,
    /// Another name for it: in the store, in a docker archive, or a tag of the
    /// same repository; may be given several times
    #[arg(long, value_name = "NAME[:TAG]")]
    additional_tag: Vec<String>,
    /// Write the digest to a file
    #[arg(long, alias = "digest-file", value_name = "FILE")]
    digestfile: Option<PathBuf>,
    #[command(flatten)]
    transfer: TransferArgs,

    /// User and password for the source's registry
    #[arg(long, value_name = "USER:PASSWORD", value_parser = basic, help_heading = "Registries")]
    src_creds: Option<Basic>,
    /// User and password for the destinations' registries
    #[arg(long, value_name = "USER:PASSWORD", value_parser = basic, help_heading = "Registries")]
    dest_creds: Option<Basic>,
    /// Whether the source's registry needs https and a known certificate
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", help_heading = "Registries")]
    src_tls_verify: Option<bool>,
    /// Whether the destinations' registries do
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", help_heading = "Registries")]
    dest_tls_verify: Option<bool>,
    /// File with credentials for the source
    #[arg(long, value_name = "FILE", help_heading = "Registries")]
    src_authfile: Option<PathBuf>,
    /// File with credentials for the destinations
    #[arg(long, value_name = "FILE", help_heading = "Registries")]
    dest_authfile: Option<PathBuf>,
    /// Accepted: signatures are never copied
    #[arg(long, hide = true)]
    remove_signatures: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl CopyArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let from = transfer::location(&self.source)?;
        let to: Vec<Location> = self
            .destinations
            .iter()
            .map(|text| transfer::location(text))
            .collect::<anyhow::Result<_>>()?;
        let streams: Vec<bool> = to
            .iter()
            .map(transfer::is_stream)
            .collect::<anyhow::Result<_>>()?;
        if streams.iter().filter(|s| **s).count() > 1 {
            return Err(Usage::error("only one archive can go to standard output"));
        }
        let more: Vec<Reference> = self
            .additional_tag
            .iter()
            .map(|name| images::new_name(name))
            .collect::<anyhow::Result<_>>()?;
        let all = self.all || self.multi_arch.as_deref() == Some("all");
        let otherwise = Selection::One(Platform::host());
        let selection = transfer::selection(&self.platform, all, otherwise);
        let options = self.transfer.options(selection, self.format)?;
        let cancel = session.interrupts.cancel();
        let store = session.store()?;
        let (from, _spool) = transfer::readable(from, &store)?;
        // A bare name may turn out to be one in a registry.
        let name = match &from {
            Location::Name(name) => Reference::parse(name).ok(),
            _ => None,
        };
        let registry = transfer::registry_of(&from).or(name.as_ref().map(Reference::registry));
        let side = Side {
            creds: self.src_creds.clone(),
            tls_verify: self.src_tls_verify,
            authfile: self.src_authfile.clone(),
        };
        let client = self
            .registry
            .side(&side)
            .client(Scope::Registries(registry.as_slice()), cancel.clone())?;
        let source = Endpoints {
            client: &client,
            store: Some(&store),
        }
        .open(&from)?;
        let registries: Vec<&str> = to.iter().filter_map(transfer::registry_of).collect();
        let side = Side {
            creds: self.dest_creds.clone(),
            tls_verify: self.dest_tls_verify,
            authfile: self.dest_authfile.clone(),
        };
        let side = self.registry.side(&side);
        let client = side.client(Scope::Registries(&registries), cancel)?;
        let ends = Endpoints {
            client: &client,
            store: Some(&store),
        };
        let destinations: Vec<Box<dyn Destination>> = to
            .iter()
            .map(|location| ends.create_named(location, &more, || Box::new(std::io::stdout())))
            .collect::<Result<_, _>>()?;
        let copied =
            self.transfer
                .deliver(session, &self.progress, &source, &destinations, &options)?;
        let Some(copied) = copied else { return Ok(()) };
        if let (Some(file), Some(first)) = (&self.digestfile, copied.first()) {
            write_file(file, first.digest.as_str())?;
        }
        if streams.contains(&true) {
            return Ok(());
        }
        let lines = to.iter().zip(&copied);
        let lines: String = lines
            .map(|(to, copied)| transfer::line(to, copied))
            .collect();
        output::result(&lines)
    }
}
