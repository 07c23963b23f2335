//! `shiplap pull`.

use clap::Args;
use shiplap::digest::Digest;
use shiplap::platform::Platform;
use shiplap::reference::Reference;
use shiplap::store::Store;
use shiplap::transport::endpoint::Endpoints;
use shiplap::transport::{Destination, Location, Selection};

use super::access::RegistryArgs;
use super::transfer::{self, TransferArgs};
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
    /// Name of the image, or another place as for copy
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
    /// Platforms to choose from an image of several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',', value_parser = Platform::parse)]
    platform: Vec<Platform>,
    /// Fetch the images for all platforms, and the index
    #[arg(short, long, alias = "all", conflicts_with = "platform")]
    all_platforms: bool,
    /// Name to give in the store [default: the image's own]
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Option<String>,
    #[command(flatten)]
    transfer: TransferArgs,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// One image to fetch, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pull<'a> {
    pub(super) name: &'a str,
    pub(super) registry: &'a RegistryArgs,
    pub(super) progress: &'a ProgressArgs,
}

impl Pull<'_> {
    /// Fetches the image for one platform, which has its own name in the store
    /// then; its digest.
    pub(super) fn one(
        self,
        session: &Session,
        store: &Store,
        platform: Platform,
    ) -> anyhow::Result<Digest> {
        let transfer = TransferArgs::plain();
        let selection = Selection::One(platform);
        let fetched = self.fetch(session, store, (&transfer, selection), None)?;
        let fetched = fetched.map(|(_, digest)| digest);
        fetched.ok_or_else(|| anyhow::anyhow!("nothing was fetched"))
    }

    /// Fetches; the names that it has now, and the digest. `None` where nothing
    /// was to be done.
    fn fetch(
        self,
        session: &Session,
        store: &Store,
        (transfer, selection): (&TransferArgs, Selection),
        tag: Option<Reference>,
    ) -> anyhow::Result<Option<(Vec<Reference>, Digest)>> {
        let cancel = session.interrupts.cancel();
        let (client, from) = self.registry.remote(self.name, cancel)?;
        let options = transfer.options(selection, None)?;
        let (from, _spool) = transfer::readable(from, store)?;
        let ends = Endpoints {
            client: &client,
            store: None,
        };
        let source = ends.open(&from)?;
        // A name with a digest only is what the store finds it by.
        let names: Vec<Reference> = match (tag, &from) {
            (Some(tag), _) => vec![tag],
            (None, Location::Registry(reference)) => vec![reference.clone()],
            (None, _) => source.references.clone(),
        };
        let destination: Box<dyn Destination> =
            Box::new(Session::destination(store, names.clone()));
        let pulled = transfer.deliver(session, self.progress, &source, &[destination], &options)?;
        let digest = pulled.and_then(|p| Some(p.first()?.digest.clone()));
        Ok(digest.map(|digest| (names, digest)))
    }
}

impl PullArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let tag = self.tag.as_deref().map(images::new_name).transpose()?;
        let store = session.store()?;
        let otherwise = Selection::One(Platform::host());
        let selection = transfer::selection(&self.platform, self.all_platforms, otherwise);
        let pull = Pull {
            name: &self.name,
            registry: &self.registry,
            progress: &self.progress,
        };
        let fetched = pull.fetch(session, &store, (&self.transfer, selection), tag)?;
        let Some((names, digest)) = fetched else {
            return Ok(());
        };
        let lines: String = names
            .iter()
            .map(|name| format!("{}@{digest}\n", name.familiar_name()))
            .collect();
        if lines.is_empty() {
            return output::result(&format!("{digest}\n"));
        }
        output::result(&lines)
    }
}
