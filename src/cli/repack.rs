//! `shiplap repack`: an unpacked image, changed, as an image again.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use shiplap::bundle::{ImageContents, Repacked, State, repack};
use shiplap::event::Outcome;
use shiplap::image::media_type::{self, Compression};
use shiplap::image::{BlobSource, Image};
use shiplap::layer::pipeline::SealOptions;
use shiplap::store::Store;
use shiplap::transport::endpoint::Endpoints;
use shiplap::transport::{CopyOptions, FirstOf, Location, Selection, Source, copy_to_each};

use super::access::{RegistryArgs, Scope};
use super::error::Usage;
use super::image::ImageAccess;
use super::reshape::RemarkArgs;
use super::{Format, ProgressArgs, Session, output_spec, transfer, unpack, values};
use crate::ui::output;

const EXAMPLES: &str = "\
Examples:
  Change an image by hand
    shiplap unpack debian:12 rootfs
    echo hello > rootfs/etc/motd
    shiplap repack rootfs mine:1 --message 'a greeting'

  A bundle, to a registry
    shiplap repack app docker://registry.example.com/app:2

The layers of the image are not read again, nor are files that were not
changed. With nothing changed the image is the same, and gets the new name.";

/// Make an image of an unpacked one, with what was changed as a new layer
///
/// Prints the image's digest.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RepackArgs {
    /// Directory that shiplap unpack made
    dir: PathBuf,
    /// Name of the new image: in the store, or docker://NAME, oci:DIR[:NAME],
    /// oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], dir:DIR
    #[arg(required_unless_present = "tag")]
    image: Option<String>,
    /// More names of the new image
    #[arg(short, long, value_name = "IMAGE")]
    tag: Vec<String>,
    /// Where the image is now that the directory was made of [default: where
    /// it was then]
    #[arg(long, value_name = "IMAGE")]
    from: Option<String>,
    #[command(flatten)]
    remark: RemarkArgs,
    /// What the history says the layer was made by
    #[arg(long, value_name = "TEXT", default_value = "shiplap repack")]
    created_by: String,
    /// Compression of the layer: gzip, gzip-single, zstd or
    /// uncompressed
    #[arg(long, value_name = "NAME", default_value = "gzip", value_parser = output_spec::compression)]
    compression: Compression,
    /// Level of the compression
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    compression_level: Option<i32>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl RepackArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let names = self.image.iter().chain(&self.tag);
        let to: Vec<Location> = names
            .map(|text| transfer::location(text))
            .collect::<anyhow::Result<_>>()?;
        let epoch = values::source_date_epoch(std::env::var_os("SOURCE_DATE_EPOCH"))?;
        let created = created(epoch)?;
        let state = State::of(&self.dir).map_err(unpack::hinted)?;
        let store = session.store()?;
        let base = self.base(session, &store, &state)?;
        if base.manifest.format() == media_type::Format::Docker
            && self.compression == Compression::Zstd
        {
            return Err(Usage::error(
                "layers in zstd have no place in docker's form",
            ));
        }
        let ui = session.ui(&self.progress)?;
        let events = ui.events();
        let cancel = session.interrupts.cancel();
        let task = events.start(format!("[repack] {}", self.dir.display()));
        let options = SealOptions {
            compression: self.compression,
            level: self.compression_level,
            clamp_mtime: epoch,
            ..SealOptions::default()
        };
        let history = self.remark.entry(created, self.created_by.clone());
        let contents = Arc::new(ImageContents::new(&base, &store));
        let made = repack(state, &base, contents, &store, &options, history, &cancel);
        task.finish(match &made {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Failed(error.to_string()),
        });
        let made = made.map_err(unpack::hinted)?;
        let source = source(&store, &base, made.as_ref());
        let registries: Vec<&str> = to.iter().filter_map(transfer::registry_of).collect();
        let scope = Scope::Registries(&registries);
        let client = self.registry.client(scope, cancel.clone())?;
        let ends = Endpoints {
            client: &client,
            store: Some(&store),
        };
        let mut streams = false;
        for location in &to {
            streams |= transfer::is_stream(location)?;
        }
        let destinations = to
            .iter()
            .map(|location| ends.create(location, || Box::new(std::io::stdout())))
            .collect::<Result<Vec<_>, _>>()?;
        let options = CopyOptions {
            selection: Selection::All,
            ..CopyOptions::default()
        };
        let copied = copy_to_each(&source, &destinations, &options, &events, &cancel);
        drop(ui);
        let copied = copied?;
        if streams {
            return Ok(());
        }
        let layer = made.as_ref().map(|made| &made.layer);
        match self.format {
            Format::Text => {
                let lines = to.iter().zip(&copied);
                let lines: String = lines.map(|(to, d)| transfer::line(to, d)).collect();
                output::result(&lines)
            }
            Format::Json => output::json(&json!({
                "digest": copied.first().map(|d| &d.digest),
                "names": to.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "changed": made.is_some(),
                "layer": layer.map(|layer| json!({
                    "digest": layer.descriptor.digest,
                    "diff_id": layer.diff_id,
                    "size": layer.descriptor.size,
                    "entries": layer.entries,
                })),
            })),
        }
    }

    /// The image that the directory was made of.
    fn base(&self, session: &Session, store: &Store, state: &State) -> anyhow::Result<Image> {
        let origin = &state.origin;
        if self.from.is_none()
            && let Ok(image) = store.load_image(&origin.manifest, None)
            && image.manifest.layers.iter().all(|l| store.has(&l.digest))
        {
            return Ok(image);
        }
        let from = self.from.as_ref().unwrap_or(&origin.image);
        let access = ImageAccess {
            platform: Some(origin.platform.clone()),
            registry: self.registry.clone(),
        };
        let context = || {
            format!(
                "can't find the image that {} was made of",
                self.dir.display()
            )
        };
        let opened = access.open(session, store, from).with_context(context)?;
        opened.image().with_context(context)
    }
}

/// What is copied to where the image shall be.
fn source(store: &Store, base: &Image, made: Option<&Repacked>) -> Source {
    match made {
        None => Source::image("the image", base),
        Some(made) => {
            let blobs: Vec<Arc<dyn BlobSource>> =
                vec![Arc::new(store.clone()), Arc::clone(&base.blobs)];
            let blobs = Arc::new(FirstOf(blobs));
            let manifest = made.manifest_bytes.clone();
            Source::new("the image", made.descriptor.clone(), manifest, blobs)
        }
    }
}

/// The time of the change, RFC 3339.
fn created(epoch: Option<i64>) -> anyhow::Result<String> {
    let time = match epoch {
        Some(seconds) => jiff::Timestamp::from_second(seconds)
            .map_err(|e| Usage::error(format!("SOURCE_DATE_EPOCH: {e}")))?,
        None => jiff::Timestamp::now(),
    };
    Ok(time.to_string())
}
