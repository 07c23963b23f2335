//! One layer of several.

use super::{Draft, MutateError, NewBlobs, history};
use crate::digest::DiffId;
use crate::image::Image;
use crate::layer::merge::{LayerBlob, Merge};
use crate::layer::pipeline::LayerWriter;

/// Makes one layer of all layers from number `from` on, counted from 0. A
/// single layer stays as it is.
///
/// The files stay the same: what the layers remove from those below is still
/// removed. `verb` is what the history calls it.
///
/// # Errors
/// When a layer can't be read, has something that no unpacker would take, or
/// the sink fails.
pub fn flatten(
    image: &Image,
    from: usize,
    verb: &str,
    new: &NewBlobs,
) -> Result<Image, MutateError> {
    let mut layers = LayerBlob::of(image);
    if from + 1 >= layers.len() {
        return Ok(image.clone());
    }
    let merge = Merge::read(layers.clone(), from, new.headers(image))?;
    let mut writer = LayerWriter::new(&*new.sink, &new.seal_for(image))?;
    merge.write(&*image.blobs, writer.tar())?;
    let made = writer.finish()?;
    layers.truncate(from);
    layers.push(made.into());
    let mut draft = Draft::new(image);
    draft.config.history = history::fold(&draft.config.history, from, verb);
    draft.set_layers(layers);
    draft.finish(new)
}

/// How many layers `image` has in common with `base`, which is to be all of
/// those.
///
/// # Errors
/// When the image does not stand on the base.
pub fn layers_of_base(image: &Image, base: &Image, name: &str) -> Result<usize, MutateError> {
    let (own, below) = (&image.config.rootfs.diff_ids, &base.config.rootfs.diff_ids);
    if own.starts_with(below) {
        return Ok(below.len());
    }
    let same = own.iter().zip(below).take_while(|(a, b)| a == b).count();
    let short = |id: Option<&DiffId>| match id {
        Some(id) => id.digest().short().to_owned(),
        None => "nothing".into(),
    };
    Err(MutateError::Unfit(format!(
        "the image does not stand on {name}: layer {} of {} is {} there, {} in the image (diffIDs)",
        same + 1,
        below.len(),
        short(below.get(same)),
        short(own.get(same)),
    )))
}
