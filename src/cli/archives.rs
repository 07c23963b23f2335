//! `shiplap load` and `save`: images in one file.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use shiplap::platform::Platform;
use shiplap::reference::Reference;
use shiplap::transport::archive::OciArchive;
use shiplap::transport::docker_archive;
use shiplap::transport::docker_save::DockerArchive;
use shiplap::transport::{self, Destination, Location, Output, Selection};

use super::error::Usage;
use super::transfer::{self, TransferArgs};
use super::{ProgressArgs, Session, images};
use crate::ui::output;

/// Read images from an archive into the store
///
/// The archive is what docker save or shiplap save wrote, or an OCI image
/// layout in a tar; it may be compressed. Prints the names.
#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// The archive [default: standard input]
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "-",
        hide_default_value = true
    )]
    input: PathBuf,
    /// Name to give instead of the archive's; it must have one image then
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Option<String>,
    /// Only these platforms' images out of several
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',', value_parser = Platform::parse)]
    platform: Vec<Platform>,
    #[command(flatten)]
    transfer: TransferArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl LoadArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let tag = self.tag.as_deref().map(images::new_name).transpose()?;
        let store = session.store()?;
        let input = Location::OciArchive {
            path: self.input.clone(),
            name: None,
        };
        let (input, _spool) = transfer::readable(input, &store)?;
        let input = match input {
            Location::OciArchive { path, .. } => path,
            _ => self.input.clone(),
        };
        let sources = docker_archive::open_any(&input)?;
        if tag.is_some() && sources.len() != 1 {
            return Err(Usage::error(format!(
                "the archive has {} images; --tag can name one",
                sources.len()
            )));
        }
        let selection = transfer::selection(&self.platform, false, Selection::All);
        let options = self.transfer.options(selection, None)?;
        let mut loaded = String::new();
        for source in &sources {
            let names = match &tag {
                Some(tag) => vec![tag.clone()],
                None => source.references.clone(),
            };
            let destination: Box<dyn Destination> =
                Box::new(Session::destination(&store, names.clone()));
            let done =
                self.transfer
                    .deliver(session, &self.progress, source, &[destination], &options)?;
            let Some(image) = done.as_ref().and_then(|d| d.first()) else {
                continue;
            };
            for name in &names {
                loaded.push_str(&format!("{}\n", name.familiar()));
            }
            if names.is_empty() {
                loaded.push_str(&format!("{}\n", image.digest));
            }
        }
        output::result(&loaded)
    }
}

const SAVE_EXAMPLES: &str = "\
Examples:
  For docker load
    shiplap save -o images.tar app:1 db:3

  All platforms, with layers in zstd
    shiplap save --format oci-archive --compression zstd -o app.tar app:1";

/// Write images from the store to an archive
#[derive(Debug, Args)]
#[command(after_help = SAVE_EXAMPLES)]
pub(super) struct SaveArgs {
    /// Names, digests or ids of the images
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// The archive [default: standard output]
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "-",
        hide_default_value = true
    )]
    output: PathBuf,
    /// Form of the archive
    #[arg(long, value_enum, default_value = "docker-archive")]
    format: ArchiveFormat,
    /// Platforms to choose from an image of several [default: this machine's
    /// for docker-archive, all for oci-archive]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',', value_parser = Platform::parse)]
    platform: Vec<Platform>,
    #[command(flatten)]
    transfer: TransferArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// Forms of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ArchiveFormat {
    /// What docker load reads.
    DockerArchive,
    /// An OCI image layout in a tar.
    OciArchive,
}

impl SaveArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let location = match self.format {
            ArchiveFormat::DockerArchive => Location::DockerArchive {
                path: self.output.clone(),
                name: None,
            },
            ArchiveFormat::OciArchive => Location::OciArchive {
                path: self.output.clone(),
                name: None,
            },
        };
        let target = if transfer::is_stream(&location)? {
            Output::Stream(Box::new(std::io::stdout()))
        } else {
            Output::File(self.output.clone())
        };
        let store = session.store()?;
        let mut sources = Vec::new();
        for name in &self.names {
            let mut source = transport::local::open(&store, name)?;
            source.references = given_name(&store, name)?.into_iter().collect();
            sources.push(source);
        }
        let otherwise = match self.format {
            ArchiveFormat::DockerArchive => Selection::One(Platform::host()),
            ArchiveFormat::OciArchive => Selection::All,
        };
        let selection = transfer::selection(&self.platform, false, otherwise);
        let options = self.transfer.options(selection, None)?;
        let archive: Box<dyn Destination> = match self.format {
            ArchiveFormat::DockerArchive => Box::new(DockerArchive::create(target, &[])?),
            ArchiveFormat::OciArchive => Box::new(OciArchive::create(target, &[])?),
        };
        self.transfer
            .gather(session, &self.progress, &sources, &*archive, &options)
    }
}

/// The name that an image was asked for by; `None` for a digest or an id.
fn given_name(store: &shiplap::store::Store, text: &str) -> anyhow::Result<Option<Reference>> {
    match Reference::parse(text) {
        Ok(reference) if store.get_ref(&reference)?.is_some() => Ok(Some(reference)),
        _ => Ok(None),
    }
}
