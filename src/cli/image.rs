//! The image that a command is about, wherever it is.

use clap::Args;
use shiplap::image::Image;
use shiplap::platform::Platform;
use shiplap::reference::Reference;
use shiplap::store::{Store, TempDir};
use shiplap::transport::endpoint::Endpoints;
use shiplap::transport::{Location, Source, TransportError};

use super::access::{RegistryArgs, Scope};
use super::error::Hinted;
use super::{Session, transfer};

/// What commands about one image take.
#[derive(Debug, Clone, Args)]
pub(super) struct ImageArgs {
    /// The image: a name, digest or id in the store, a name in a registry
    /// (asked when the store does not have it), docker://NAME, oci:DIR[:NAME],
    /// oci-archive:FILE[:NAME], docker-archive:FILE[:NAME] or dir:DIR; a FILE
    /// of - is standard input
    #[arg(value_name = "IMAGE")]
    pub(super) image: String,
    #[command(flatten)]
    pub(super) access: ImageAccess,
}

/// How images are chosen and reached; for commands about several of them.
#[derive(Debug, Clone, Args)]
pub(super) struct ImageAccess {
    /// Platform to choose from an image of several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    pub(super) platform: Option<Platform>,
    #[command(flatten)]
    pub(super) registry: RegistryArgs,
}

/// An image that was found.
#[derive(Debug)]
pub(super) struct Opened {
    /// Where it is.
    pub(super) location: Location,
    /// What the name stands for: an image, or an index of several.
    pub(super) source: Source,
    /// Keeps an archive from standard input while it is read.
    _spool: Option<TempDir>,
    platform: Option<Platform>,
}

impl ImageArgs {
    /// Finds the image.
    ///
    /// # Errors
    /// [`Usage`](super::error::Usage) when it is no name or place.
    pub(super) fn open(&self, session: &Session, store: &Store) -> anyhow::Result<Opened> {
        self.access.open(session, store, &self.image)
    }
}

impl ImageAccess {
    /// Finds the image that `text` means. Only its manifest or index is read.
    ///
    /// # Errors
    /// [`Usage`](super::error::Usage) when it is no name or place.
    pub(super) fn open(
        &self,
        session: &Session,
        store: &Store,
        text: &str,
    ) -> anyhow::Result<Opened> {
        let mut opened = open(session, store, &self.registry, text)?;
        opened.platform = self.platform.clone();
        Ok(opened)
    }
}

/// Finds what `text` means: only its manifest or index is read.
///
/// # Errors
/// [`Usage`](super::error::Usage) when it is no name or place.
pub(super) fn open(
    session: &Session,
    store: &Store,
    registry: &RegistryArgs,
    text: &str,
) -> anyhow::Result<Opened> {
    let (location, spool) = transfer::readable(transfer::location(text)?, store)?;
    // A bare name may turn out to be one in a registry.
    let name = match &location {
        Location::Name(name) => Reference::parse(name).ok(),
        _ => None,
    };
    let host = transfer::registry_of(&location).or(name.as_ref().map(Reference::registry));
    let scope = Scope::Registries(host.as_slice());
    let client = registry.client(scope, session.interrupts.cancel())?;
    let ends = Endpoints {
        client: &client,
        store: Some(store),
    };
    let source = ends.open(&location).map_err(|e| match (&location, e) {
        (Location::Name(name), error @ TransportError::Registry(_)) => Hinted {
            hint: format!("the store has no image {name}, so its registry was asked"),
            error: error.into(),
        }
        .into(),
        (_, error) => anyhow::Error::from(error),
    })?;
    Ok(Opened {
        location,
        source,
        _spool: spool,
        platform: None,
    })
}

impl Opened {
    /// The image: manifest and config are read, layers when they are needed.
    ///
    /// # Errors
    /// When there is none for the platform.
    pub(super) fn image(&self) -> anyhow::Result<Image> {
        let host = Platform::host();
        let platform = self.platform.as_ref().unwrap_or(&host);
        Ok(self.source.load_image(platform)?)
    }
}
