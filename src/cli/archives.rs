//! `shiplap load` and `save`: images in one file.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};
use shiplap::image::media_type::Format as Family;
use shiplap::platform::Platform;
use shiplap::reference::Reference;
use shiplap::transport::archive::OciArchive;
use shiplap::transport::docker_archive;
use shiplap::transport::docker_save::DockerArchive;
use shiplap::transport::{self, CopyOptions, Destination, Output, Selection, Source};

use super::error::Usage;
use super::{ProgressArgs, Session, images, open_input};
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
    #[command(flatten)]
    progress: ProgressArgs,
}

impl LoadArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let tag = self.tag.as_deref().map(images::new_name).transpose()?;
        let store = session.store()?;
        let cancel = session.interrupts.cancel();
        let spool = store.temp_dir()?;
        let input = if self.input.as_os_str() == "-" {
            // An archive is read in the order of its manifest, not in its own.
            let path = spool.path().join("archive");
            let mut file = std::fs::File::create(&path)
                .with_context(|| format!("can't write {}", path.display()))?;
            std::io::copy(&mut open_input(&self.input)?, &mut file)
                .context("can't keep standard input in a file")?;
            path
        } else {
            self.input.clone()
        };
        let sources = docker_archive::open_any(&input)?;
        if tag.is_some() && sources.len() != 1 {
            return Err(Usage::error(format!(
                "the archive has {} images; --tag can name one",
                sources.len()
            )));
        }
        let ui = session.ui(&self.progress)?;
        let mut loaded = String::new();
        for source in &sources {
            let names = match &tag {
                Some(tag) => vec![tag.clone()],
                None => source.references.clone(),
            };
            let destination = Session::destination(&store, names.clone());
            let options = CopyOptions::default();
            let image = transport::copy(source, &destination, &options, &ui.events(), &cancel)?;
            for name in &names {
                loaded.push_str(&format!("{}\n", name.familiar()));
            }
            if names.is_empty() {
                loaded.push_str(&format!("{}\n", image.digest));
            }
        }
        drop(ui);
        output::result(&loaded)
    }
}

/// Write images from the store to an archive
#[derive(Debug, Args)]
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
    /// Platform to choose from an image of several [default: this machine's
    /// for docker-archive, all for oci-archive]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
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
        let target = if self.output.as_os_str() == "-" {
            if std::io::stdout().is_terminal() {
                return Err(Usage::error(
                    "an archive would go to the terminal; give --output FILE",
                ));
            }
            Output::Stream(Box::new(std::io::stdout()))
        } else {
            Output::File(self.output.clone())
        };
        let store = session.store()?;
        let cancel = session.interrupts.cancel();
        let mut sources = Vec::new();
        for name in &self.names {
            let descriptor = store.find(name)?;
            let mut source = Source::load(name.clone(), descriptor, Arc::new(store.clone()))?;
            source.references = given_name(&store, name)?.into_iter().collect();
            sources.push(source);
        }
        let (selection, format) = match (self.format, self.platform) {
            (ArchiveFormat::DockerArchive, platform) => {
                let platform = platform.unwrap_or_else(Platform::host);
                (Selection::One(platform), Some(Family::Docker))
            }
            (ArchiveFormat::OciArchive, Some(platform)) => (Selection::One(platform), None),
            (ArchiveFormat::OciArchive, None) => (Selection::All, None),
        };
        let options = CopyOptions {
            selection,
            format,
            ..CopyOptions::default()
        };
        let ui = session.ui(&self.progress)?;
        let archive: Box<dyn Destination> = match self.format {
            ArchiveFormat::DockerArchive => Box::new(DockerArchive::create(target, &[])?),
            ArchiveFormat::OciArchive => Box::new(OciArchive::create(target, &[])?),
        };
        transport::copy_all(&sources, &*archive, &options, &ui.events(), &cancel)?;
        Ok(())
    }
}

/// The name that an image was asked for by; `None` for a digest or an id.
fn given_name(store: &shiplap::store::Store, text: &str) -> anyhow::Result<Option<Reference>> {
    match Reference::parse(text) {
        Ok(reference) if store.get_ref(&reference)?.is_some() => Ok(Some(reference)),
        _ => Ok(None),
    }
}
