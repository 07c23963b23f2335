//! The same image on another base.

use std::sync::Arc;

use super::flatten::layers_of_base;
use super::{Draft, MutateError, NewBlobs, history};
use crate::image::media_type::{self, Format};
use crate::image::{Descriptor, Image};
use crate::layer::merge::LayerBlob;

/// The annotation with the name of the image's base.
pub const BASE_NAME: &str = "org.opencontainers.image.base.name";
/// The annotation with the digest of the base's manifest.
pub const BASE_DIGEST: &str = "org.opencontainers.image.base.digest";

/// A base and what it is called.
#[derive(Debug, Clone)]
pub struct Base<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its name.
    pub name: &'a str,
}

/// Puts the layers that `image` has above `old` on `new_base`.
///
/// Layers and history of the old base are replaced by those of the new one, and
/// so is the platform; how the image is run stays as it was, variables that it
/// once got from its base included. `created` is the time of the change. The
/// annotations about the base tell of the new one, called by `new_base.name`.
///
/// # Errors
/// When the image does not stand on `old`, or the sink fails.
pub fn rebase(
    image: &Image,
    old: &Base<'_>,
    new_base: &Base<'_>,
    created: &str,
    new: &NewBlobs,
) -> Result<Image, MutateError> {
    let below = layers_of_base(image, old.image, old.name)?;
    let (is, becomes) = (image.config.platform(), new_base.image.config.platform());
    if is.os != becomes.os || is.architecture != becomes.architecture {
        return Err(MutateError::Unfit(format!(
            "the image is for {is}, {} is for {becomes}",
            new_base.name
        )));
    }
    new.blobs.add(Arc::clone(&new_base.image.blobs));
    let mut draft = Draft::new(image);
    let base = Draft::new(new_base.image);
    let format = image.manifest.format();
    let mut layers = LayerBlob::of(new_base.image);
    for layer in &mut layers {
        layer.blob = in_format(&layer.blob, format);
    }
    let same = LayerBlob::of(image).split_off(below);
    layers.extend(same);
    // Entries that made no layer belong to what is above them, unless the old
    // base has them too.
    let known = old.image.config.history.len();
    let own = match image.config.history.get(..known) {
        Some(begin) if begin == old.image.config.history => known,
        _ => history::position(&draft.config.history, below),
    };
    let own = draft
        .config
        .history
        .split_off(own.min(draft.config.history.len()));
    draft.config.history = base.config.history;
    draft.config.history.extend(own);
    draft.config.os = base.config.os;
    draft.config.architecture = base.config.architecture;
    draft.config.variant = base.config.variant;
    draft.config.os_version = base.config.os_version;
    draft.config.os_features = base.config.os_features;
    draft.config.created = Some(created.to_owned());
    draft.set_layers(layers);
    history::align(&mut draft.config.history, draft.manifest.layers.len());
    let digest = new_base.image.descriptor.digest.to_string();
    let notes = &mut draft.manifest.annotations;
    if format == Format::Oci {
        notes.insert(BASE_NAME.into(), new_base.name.into());
        notes.insert(BASE_DIGEST.into(), digest);
    }
    draft.finish(new)
}

/// The layer under the family's media type.
fn in_format(layer: &Descriptor, format: Format) -> Descriptor {
    let compression = media_type::layer_compression(&layer.media_type);
    let is_foreign =
        layer.media_type.contains("foreign") || layer.media_type.contains("nondistributable");
    let Some(compression) = compression.filter(|_| !is_foreign) else {
        return layer.clone();
    };
    Descriptor {
        media_type: media_type::layer(format, compression).into(),
        ..layer.clone()
    }
}
