//! What commands that make images of images share.

use std::io;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use shiplap::event::{Cancel, Events, Outcome};
use shiplap::image::media_type::{self, Compression, Format as Family};
use shiplap::image::{BlobSink, BlobSource, Descriptor, History, Image, WatchedBlobs};
use shiplap::layer::pipeline::SealOptions;
use shiplap::mutate::{MutateError, NewBlobs, Places};
use shiplap::platform::Platform;
use shiplap::reference::Reference;
use shiplap::registry::Client;
use shiplap::store::Store;
use shiplap::transport::endpoint::Endpoints;
use shiplap::transport::reshape::reshape;
use shiplap::transport::scratch::{Kept, Scratch};
use shiplap::transport::{
    self, CopyOptions, Location, Plan, Recompress, Rewrite, Selection, Source, TransportError,
};

use super::access::{RegistryArgs, Scope};
use super::error::Usage;
use super::{Format, ProgressArgs, Session, image, output_spec, transfer, values};
use crate::ui::output;

/// The image, and where the new one goes.
#[derive(Debug, Args)]
pub(super) struct ReshapeArgs {
    /// The image: a name, digest or id in the store, a name in a registry,
    /// docker://NAME, oci:DIR[:NAME], oci-archive:FILE[:NAME],
    /// docker-archive:FILE[:NAME] or dir:DIR
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Where the new image goes: a name in the store, or a place as for IMAGE
    #[arg(short = 't', long = "tag", value_name = "NEW")]
    #[arg(required_unless_present = "in_place", conflicts_with = "in_place")]
    tag: Option<String>,
    /// Let IMAGE stand for the new image
    #[arg(long)]
    in_place: bool,
    /// Take only the image for this platform out of an image of several
    /// [default: all of them are changed]
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    platform: Option<Platform>,
    #[command(flatten)]
    pub(super) registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// What is printed.
#[derive(Debug, Clone, Args)]
pub(super) struct FormArgs {
    /// Form of the result: text is the new digest; json has name, digest,
    /// media_type, size, and images with digest, id, platform and layers
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
}

/// The remark on a change.
#[derive(Debug, Clone, Args)]
pub(super) struct MessageArgs {
    /// Remark for the history
    #[arg(short, long, value_name = "TEXT")]
    #[arg(default_value = "", hide_default_value = true)]
    pub(super) message: String,
}

/// The remark on a new layer, and whose it is.
#[derive(Debug, Clone, Args)]
pub(super) struct RemarkArgs {
    #[command(flatten)]
    message: MessageArgs,
    /// Who made the change
    #[arg(long, value_name = "TEXT")]
    #[arg(default_value = "", hide_default_value = true)]
    author: String,
}

impl RemarkArgs {
    /// The layer's entry in the history.
    pub(super) fn entry(&self, created: String, created_by: String) -> History {
        History {
            created: Some(created),
            created_by,
            author: self.author.clone(),
            comment: self.message.message.clone(),
            empty_layer: false,
        }
    }
}

/// How new layers are compressed.
#[derive(Debug, Clone, Args)]
pub(super) struct LayerArgs {
    /// Compression of new layers: gzip, gzip-single, zstd or
    /// uncompressed [default: as the
    /// image's last layer]
    #[arg(long, alias = "compression-format", value_name = "NAME")]
    #[arg(value_parser = output_spec::compression, help_heading = "Layers")]
    compression: Option<Compression>,
    /// Level of the compression
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Layers"
    )]
    compression_level: Option<i32>,
}

/// An error of a change, on its way out.
#[derive(Debug)]
pub(super) struct Failed(anyhow::Error);

impl From<TransportError> for Failed {
    fn from(error: TransportError) -> Self {
        Self(error.into())
    }
}

impl From<MutateError> for Failed {
    fn from(error: MutateError) -> Self {
        Self(error.into())
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

/// Changes one image.
type Change<'a> = &'a mut dyn FnMut(&Image, &NewBlobs) -> Result<Image, Failed>;

impl ReshapeArgs {
    /// Changes the image, or each of several, and puts the result where it
    /// shall be.
    pub(super) fn run(
        &self,
        session: &Session,
        verb: &str,
        form: Format,
        layers: Option<&LayerArgs>,
        change: Change<'_>,
    ) -> anyhow::Result<()> {
        let cancel = session.interrupts.cancel();
        let store = session.store()?;
        let opened = image::open(session, &store, &self.registry, &self.image)?;
        let to = self.destination(&opened.location, &store)?;
        let is_stream = transfer::is_stream(&to)?;
        let (sink, made): (Arc<dyn BlobSink>, Arc<dyn BlobSource>) = match &to {
            Location::Name(_) => (Arc::new(store.clone()), Arc::new(store.clone())),
            _ => {
                let scratch = Arc::new(Scratch::default());
                (Arc::clone(&scratch) as _, scratch)
            }
        };
        let old = Arc::clone(&opened.source.blobs);
        let old: Arc<dyn BlobSource> = match is_remote(&opened.location, &store) {
            true => Arc::new(Kept::new(old)),
            false => old,
        };
        let old = WatchedBlobs::new(old, cancel.clone());
        let new = NewBlobs {
            sink,
            known: Some(Box::new({
                let store = store.clone();
                move |digest| store.index_get(digest)
            })),
            blobs: Arc::new(Places::new(vec![made, Arc::new(old)])),
            spools: store.spools(),
            seal: SealOptions {
                level: layers.and_then(|l| l.compression_level),
                ..SealOptions::default()
            },
            compression: layers.and_then(|l| l.compression),
        };
        let selection = transfer::selection(self.platform.as_slice(), true, Selection::All);
        let ui = session.ui(&self.progress)?;
        let events = ui.events();
        let task = events.start(format!("{verb} {}", self.image));
        let mut change = |image: &Image| {
            if image.manifest.format() == Family::Docker
                && new.compression == Some(Compression::Zstd)
            {
                return Err(Failed(Usage::error(
                    "layers in zstd have no place in docker's form; leave --compression out, or convert it first",
                )));
            }
            change(image, &new)
        };
        let reshaped = reshape(&opened.source, &selection, &new, &mut change);
        if cancel.is_cancelled() {
            task.finish(Outcome::Cancelled);
            return Err(TransportError::Cancelled.into());
        }
        task.finish(match &reshaped {
            Ok(_) => Outcome::Done,
            Err(Failed(error)) => Outcome::Failed(format!("{error:#}")),
        });
        let reshaped = reshaped
            .map_err(|Failed(error)| error)
            .with_context(|| format!("can't {verb} {}", self.image))?;
        let options = CopyOptions::default();
        let copied = self.write(&store, &reshaped.source, &to, &options, &events, &cancel)?;
        drop(ui);
        show(form, is_stream, &to, &copied, &reshaped.images)
    }

    /// Copies the image, or each of several, in another form.
    pub(super) fn copy(
        &self,
        session: &Session,
        verb: &str,
        form: Format,
        format: Option<Family>,
        recompress: Option<Recompress>,
    ) -> anyhow::Result<()> {
        let cancel = session.interrupts.cancel();
        let store = session.store()?;
        let opened = image::open(session, &store, &self.registry, &self.image)?;
        let to = self.destination(&opened.location, &store)?;
        let is_stream = transfer::is_stream(&to)?;
        let options = CopyOptions {
            selection: transfer::selection(self.platform.as_slice(), true, Selection::All),
            format,
            recompress,
            ..CopyOptions::default()
        };
        let ui = session.ui(&self.progress)?;
        let copied = self
            .write(&store, &opened.source, &to, &options, &ui.events(), &cancel)
            .with_context(|| format!("can't {verb} {}", self.image))?;
        drop(ui);
        let images = match (form, is_stream) {
            (Format::Json, false) => {
                let client = self.client(&to, &cancel)?;
                let ends = Endpoints {
                    client: &client,
                    store: Some(&store),
                };
                images(&ends.open(&to)?, &copied)?
            }
            _ => Vec::new(),
        };
        show(form, is_stream, &to, &copied, &images)
    }

    fn client(&self, to: &Location, cancel: &Cancel) -> anyhow::Result<Client> {
        let registry = transfer::registry_of(to);
        let scope = Scope::Registries(registry.as_slice());
        self.registry.client(scope, cancel.clone())
    }

    /// Puts an image where it shall be.
    fn write(
        &self,
        store: &Store,
        source: &Source,
        to: &Location,
        options: &CopyOptions,
        events: &Events,
        cancel: &Cancel,
    ) -> anyhow::Result<Descriptor> {
        let client = self.client(to, cancel)?;
        let ends = Endpoints {
            client: &client,
            store: Some(store),
        };
        let destination = ends.create(to, || Box::new(io::stdout()))?;
        Ok(transport::copy(
            source,
            &*destination,
            options,
            events,
            cancel,
        )?)
    }

    /// Where the new image goes. The old one keeps its name unless it was
    /// allowed to lose it.
    fn destination(&self, from: &Location, store: &Store) -> anyhow::Result<Location> {
        let Some(tag) = &self.tag else {
            return match from {
                Location::Name(name) if has_name(store, name)? => Ok(from.clone()),
                Location::Name(name) => Err(Usage::error(format!(
                    "{name} is no name in the store, so there is none to keep; give the new image one with -t"
                ))),
                Location::Registry(reference) if reference.digest().is_some() => {
                    Err(Usage::error("a digest stands for one image only; give -t"))
                }
                Location::Registry(_) | Location::Oci { .. } => Ok(from.clone()),
                Location::OciArchive { .. } | Location::DockerArchive { .. } | Location::Dir(_) => {
                    Err(Usage::error(
                        "an archive or a plain directory can't be changed in place; give -t",
                    ))
                }
            };
        };
        let to = transfer::location(tag)?;
        let same = match (from, &to) {
            (Location::Name(a), Location::Name(b)) => {
                let parse = |name: &str| Reference::parse(name).ok();
                parse(a).is_some() && parse(a) == parse(b)
            }
            (a, b) => a == b,
        };
        if same {
            return Err(Usage::error(format!(
                "{tag} is the image itself; to let it stand for the new one, give --in-place instead of -t"
            )));
        }
        Ok(to)
    }
}

/// Whether `name` is the name of an image in the store, and no digest or id.
fn has_name(store: &Store, name: &str) -> anyhow::Result<bool> {
    match Reference::parse(name) {
        Ok(reference) if reference.digest().is_none() => Ok(store.get_ref(&reference)?.is_some()),
        _ => Ok(false),
    }
}

/// Whether reading it twice would fetch it twice.
fn is_remote(location: &Location, store: &Store) -> bool {
    match location {
        Location::Registry(_) => true,
        Location::Name(name) => store.find(name).is_err(),
        _ => false,
    }
}

fn show(
    form: Format,
    is_stream: bool,
    to: &Location,
    copied: &Descriptor,
    images: &[Image],
) -> anyhow::Result<()> {
    match (is_stream, form) {
        (true, _) => Ok(()),
        (false, Format::Text) => output::result(&format!("{}\n", copied.digest)),
        (false, Format::Json) => output::json(&report(to, copied, images)),
    }
}

/// The images of what was copied.
fn images(source: &Source, copied: &Descriptor) -> anyhow::Result<Vec<Image>> {
    let plan = Plan::make(source, &Selection::All, &Rewrite::default())?;
    anyhow::ensure!(
        plan.root.digest == copied.digest,
        "it has been replaced meanwhile"
    );
    let mut images = Vec::new();
    for (descriptor, bytes) in plan.manifests {
        if media_type::is_manifest(&descriptor.media_type)
            && let Ok(image) = Image::load(descriptor, bytes, Arc::clone(&source.blobs))
        {
            images.push(image);
        }
    }
    Ok(images)
}

/// What was made, for programs.
fn report(to: &Location, copied: &Descriptor, images: &[Image]) -> serde_json::Value {
    let images: Vec<serde_json::Value> = images
        .iter()
        .map(|image| {
            let ids = &image.config.rootfs.diff_ids;
            let layers = image.manifest.layers.iter().zip(ids);
            let layers = layers.map(|(layer, diff_id)| {
                json!({
                    "digest": layer.digest,
                    "diff_id": diff_id,
                    "media_type": layer.media_type,
                    "size": layer.size,
                })
            });
            json!({
                "digest": image.descriptor.digest,
                "id": image.manifest.config.digest,
                "platform": image.config.platform().to_string(),
                "layers": layers.collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "name": to.to_string(),
        "digest": copied.digest,
        "media_type": copied.media_type,
        "size": copied.size,
        "images": images,
    })
}

/// The time of what is made now: SOURCE_DATE_EPOCH, else the clock's.
pub(super) fn now() -> anyhow::Result<String> {
    let epoch = values::source_date_epoch(std::env::var_os("SOURCE_DATE_EPOCH"))?;
    let time = match epoch {
        Some(seconds) => jiff::Timestamp::from_second(seconds)
            .map_err(|e| Usage::error(format!("SOURCE_DATE_EPOCH: {e}")))?,
        None => jiff::Timestamp::now(),
    };
    Ok(time.to_string())
}
