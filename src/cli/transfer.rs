//! What commands that copy images share: how, and what is said about it.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use shiplap::event::Cancel;
use shiplap::image::Descriptor;
use shiplap::image::media_type::{Compression, Format as Family};
use shiplap::platform::Platform;
use shiplap::store::{Store, TempDir};
use shiplap::transport::{
    self, CopyOptions, Destination, Fate, Location, Preview, Recompress, Selection, Source,
};

use super::error::Usage;
use super::{ProgressArgs, Session, output_spec};
use crate::ui::{format, output};

/// How many blobs are copied at once.
const JOBS: usize = 8;

/// How images are copied.
#[derive(Debug, Clone, Args)]
pub(super) struct TransferArgs {
    /// Compression of the layers there: gzip, gzip-single, zstd or
    /// uncompressed [default: as they are]
    #[arg(long, alias = "dest-compress-format", alias = "compression-format")]
    #[arg(value_name = "NAME", value_parser = output_spec::compression, help_heading = "Conversion")]
    compression: Option<Compression>,
    /// Level of the compression
    #[arg(long, alias = "dest-compress-level", allow_negative_numbers = true)]
    #[arg(
        value_name = "N",
        requires = "compression",
        help_heading = "Conversion"
    )]
    compression_level: Option<i32>,
    /// Compress layers anew that are compressed so already, as for a level
    #[arg(long, alias = "dest-force-compress-format")]
    #[arg(requires = "compression", help_heading = "Conversion")]
    force_compression: bool,
    /// Fail where a digest would change
    #[arg(long, help_heading = "Conversion")]
    preserve_digests: bool,
    /// How many blobs are copied at once
    #[arg(
        long,
        alias = "image-parallel-copies",
        value_name = "N",
        default_value_t = JOBS
    )]
    jobs: usize,
    /// Print what would be sent, and send nothing
    #[arg(long, alias = "dryrun")]
    dry_run: bool,
}

/// The family of manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FamilyArg {
    /// OCI image-spec
    Oci,
    /// Docker schema 2
    #[value(alias = "v2s2")]
    Docker,
}

impl FamilyArg {
    pub(super) fn family(self) -> Family {
        match self {
            Self::Oci => Family::Oci,
            Self::Docker => Family::Docker,
        }
    }
}

impl TransferArgs {
    /// The options of a copy.
    ///
    /// # Errors
    /// [`Usage`] when what is asked for does not go together.
    pub(super) fn options(
        &self,
        selection: Selection,
        format: Option<FamilyArg>,
    ) -> anyhow::Result<CopyOptions> {
        if format == Some(FamilyArg::Docker) && self.compression == Some(Compression::Zstd) {
            return Err(Usage::error(
                "layers in zstd have no place in docker's form; leave --format or --compression out",
            ));
        }
        Ok(CopyOptions {
            selection,
            format: format.map(FamilyArg::family),
            recompress: self.compression.map(|compression| Recompress {
                compression,
                level: self.compression_level,
                force: self.force_compression,
            }),
            preserve_digests: self.preserve_digests,
            jobs: self.jobs.max(1),
        })
    }

    /// Copies `source` to each destination, or says what would be copied.
    /// `None` when nothing was done.
    pub(super) fn deliver(
        &self,
        session: &Session,
        progress: &ProgressArgs,
        source: &Source,
        destinations: &[Box<dyn Destination>],
        options: &CopyOptions,
    ) -> anyhow::Result<Option<Vec<Descriptor>>> {
        if self.dry_run {
            for destination in destinations {
                let preview = transport::preview(source, &**destination, options)?;
                output::result(&describe(&destination.name(), &preview))?;
            }
            return Ok(None);
        }
        let cancel: Cancel = session.interrupts.cancel();
        let ui = session.ui(progress)?;
        let copied = transport::copy_to_each(source, destinations, options, &ui.events(), &cancel);
        drop(ui);
        Ok(Some(copied?))
    }
}

impl TransferArgs {
    /// Copies everything as it is.
    pub(super) fn plain() -> Self {
        Self {
            compression: None,
            compression_level: None,
            force_compression: false,
            preserve_digests: false,
            jobs: JOBS,
            dry_run: false,
        }
    }

    /// Copies all sources into one archive, or says what would be copied.
    pub(super) fn gather(
        &self,
        session: &Session,
        progress: &ProgressArgs,
        sources: &[Source],
        archive: &dyn Destination,
        options: &CopyOptions,
    ) -> anyhow::Result<()> {
        if self.dry_run {
            for source in sources {
                let preview = transport::preview(source, archive, options)?;
                output::result(&describe(&archive.name(), &preview))?;
            }
            return Ok(());
        }
        let cancel = session.interrupts.cancel();
        let ui = session.ui(progress)?;
        transport::copy_all(sources, archive, options, &ui.events(), &cancel)?;
        Ok(())
    }
}

/// What a copy would do, for people.
fn describe(name: &str, preview: &Preview) -> String {
    let mut text = format!("{}\n", crate::ui::escape::text(name));
    let mut sums = [(0usize, 0u64); 4];
    for (blob, fate) in &preview.blobs {
        let (n, word) = match fate {
            Fate::Send => (0, "send"),
            Fate::Recompress => (1, "compress"),
            Fate::Mount(_) => (2, "mount"),
            Fate::Present => (3, "present"),
        };
        sums[n].0 += 1;
        sums[n].1 = sums[n].1.saturating_add(blob.size);
        let from = match fate {
            Fate::Mount(from) => format!("  from {}", crate::ui::escape::text(from)),
            _ => String::new(),
        };
        let size = format::size(blob.size);
        text.push_str(&format!("  {word:<8}  {}  {size:>8}{from}\n", blob.digest));
    }
    for manifest in &preview.manifests {
        let shown = match (&preview.root, preview.manifests.len()) {
            (None, _) => "(its digest is known when it is made)".to_owned(),
            _ => manifest.digest.to_string(),
        };
        text.push_str(&format!("  manifest  {shown}\n"));
    }
    let words = ["to send", "to compress and send", "mounted", "present"];
    let parts: Vec<String> = sums
        .iter()
        .zip(words)
        .filter(|((count, _), word)| *count > 0 || *word == "to send")
        .map(|((count, bytes), word)| format!("{count} {word} ({bytes} bytes)"))
        .collect();
    text.push_str(&format!("blobs: {}\n", parts.join(", ")));
    text
}

/// Which images of several: `--platform`, else `--all`, else `otherwise`.
pub(super) fn selection(platforms: &[Platform], all: bool, otherwise: Selection) -> Selection {
    match platforms {
        [] if all => Selection::All,
        [] => otherwise,
        [one] => Selection::One(one.clone()),
        several => Selection::Several(several.to_vec()),
    }
}

/// A place as a user wrote it.
pub(super) fn location(text: &str) -> anyhow::Result<Location> {
    Location::parse(text).map_err(|e| Usage::error(e.to_string()))
}

/// The same, where a bare name is one in a registry.
pub(super) fn remote_location(text: &str) -> anyhow::Result<Location> {
    match location(text)? {
        Location::Name(name) => Ok(Location::Registry(super::images::registry_name(&name)?)),
        other => Ok(other),
    }
}

/// The registry of a place, where it is in one.
pub(super) fn registry_of(location: &Location) -> Option<&str> {
    match location {
        Location::Registry(reference) => Some(reference.registry()),
        _ => None,
    }
}

/// The archive that `-` stands for is kept in a file, as archives are read in
/// the order of their manifest.
pub(super) fn readable(
    location: Location,
    store: &Store,
) -> anyhow::Result<(Location, Option<TempDir>)> {
    let is_stdin = |path: &PathBuf| path.as_os_str() == "-";
    let spool = || -> anyhow::Result<(PathBuf, TempDir)> {
        let dir = store.temp_dir()?;
        let path = dir.path().join("archive");
        let mut file = std::fs::File::create(&path)
            .with_context(|| format!("can't write {}", path.display()))?;
        std::io::copy(&mut std::io::stdin(), &mut file)
            .context("can't keep standard input in a file")?;
        Ok((path, dir))
    };
    Ok(match location {
        Location::OciArchive { path, name } if is_stdin(&path) => {
            let (path, dir) = spool()?;
            (Location::OciArchive { path, name }, Some(dir))
        }
        Location::DockerArchive { path, name } if is_stdin(&path) => {
            let (path, dir) = spool()?;
            (Location::DockerArchive { path, name }, Some(dir))
        }
        other => (other, None),
    })
}

/// Whether an archive goes to standard output.
///
/// # Errors
/// [`Usage`] when that is a terminal.
pub(super) fn is_stream(location: &Location) -> anyhow::Result<bool> {
    let (Location::OciArchive { path, .. } | Location::DockerArchive { path, .. }) = location
    else {
        return Ok(false);
    };
    if path.as_os_str() != "-" {
        return Ok(false);
    }
    if std::io::stdout().is_terminal() {
        return Err(Usage::error(
            "an archive would go to the terminal; name a file",
        ));
    }
    Ok(true)
}

/// The line that says what is where now.
pub(super) fn line(location: &Location, copied: &Descriptor) -> String {
    let digest = &copied.digest;
    match location {
        Location::Registry(reference) => format!("{}@{digest}\n", reference.familiar_name()),
        Location::Name(name) => match shiplap::reference::Reference::parse(name) {
            Ok(reference) => format!("{}@{digest}\n", reference.familiar_name()),
            Err(_) => format!("{digest}\n"),
        },
        _ => format!("{digest}\n"),
    }
}
