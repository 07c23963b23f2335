//! No time after an instant.

use super::{Draft, MutateError, NewBlobs};
use crate::image::Image;
use crate::layer::MAX_TAR_BYTES;
use crate::layer::merge::{LayerBlob, MergeError, read_items};
use crate::layer::pipeline::{LayerWriter, SealOptions, open};
use crate::layer::tar_read::{Item, Names, TarReader};

/// The annotation with the time at which the image was made.
const CREATED: &str = "org.opencontainers.image.created";

/// Lets no entry of a layer, and nothing that the image says of itself, have a
/// later time than `epoch`, in seconds since 1970; what has one gets `epoch`.
///
/// Layers that have no such entry stay as they are.
///
/// # Errors
/// When a layer can't be read, `epoch` is no time, or the sink fails.
pub fn clamp(image: &Image, epoch: i64, new: &NewBlobs) -> Result<Image, MutateError> {
    let mut layers = LayerBlob::of(image);
    let mut late = vec![false; layers.len()];
    read_items(&layers, new.headers(image), |number, item| {
        if let Item::Put(entry) = item {
            let mtime = entry.meta.mtime;
            late[number] |= (mtime.secs, mtime.nanos) > (epoch, 0);
        }
        Ok(())
    })?;
    let is_late = late.contains(&true);
    for (layer, _) in layers.iter_mut().zip(late).filter(|(_, late)| *late) {
        *layer = write_clamped(image, layer, epoch, new)?;
    }
    let time = jiff::Timestamp::from_second(epoch)
        .map_err(|e| MutateError::Unfit(format!("{epoch} is no time: {e}")))?;
    let mut draft = Draft::new(image);
    if is_late {
        draft.set_layers(layers);
    }
    let clamp = |text: &mut String| {
        // What is no time can't be later.
        if text.parse::<jiff::Timestamp>().is_ok_and(|t| t > time) {
            *text = time.to_string();
        }
    };
    draft.config.created.iter_mut().for_each(clamp);
    let history = draft.config.history.iter_mut();
    history
        .filter_map(|entry| entry.created.as_mut())
        .for_each(clamp);
    draft
        .manifest
        .annotations
        .get_mut(CREATED)
        .into_iter()
        .for_each(clamp);
    draft
        .config
        .config
        .labels
        .get_mut(CREATED)
        .into_iter()
        .for_each(clamp);
    draft.finish(new)
}

/// The layer in the form it has, with no entry later than `epoch`.
fn write_clamped(
    image: &Image,
    layer: &LayerBlob,
    epoch: i64,
    new: &NewBlobs,
) -> Result<LayerBlob, MutateError> {
    let failed = |source| MergeError::Tar {
        layer: layer.blob.digest.to_string(),
        source,
    };
    let options = SealOptions {
        clamp_mtime: Some(epoch),
        ..new.seal_like(image, layer)
    };
    let mut writer = LayerWriter::new(&*new.sink, &options)?;
    let tar = open(&layer.blob, None, &*image.blobs).map_err(MutateError::Read)?;
    let mut reader = TarReader::new(tar, Names::Layer);
    while let Some(item) = reader.next_entry().map_err(failed)? {
        match item {
            Item::Put(entry) => writer.tar().put(&entry, &mut reader.body())?,
            Item::Whiteout(path) => writer.tar().whiteout(&path)?,
            Item::Opaque(path) => writer.tar().opaque(&path)?,
        }
    }
    reader.finish(MAX_TAR_BYTES).map_err(failed)?;
    Ok(writer.finish()?.into())
}
