//! The history of an image, joined with its layers.

use crate::image::{Descriptor, History, Image};

/// One entry of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<'a> {
    /// The entry.
    pub entry: &'a History,
    /// The layer that it made: its number from 0, and its descriptor.
    pub layer: Option<(usize, &'a Descriptor)>,
}

/// The history of `image`, the oldest first.
///
/// Entries that made a layer and layers stand in the same order. Images that
/// lie about it have entries without layer, or layers without entry.
pub fn steps(image: &Image) -> Vec<Step<'_>> {
    let mut layers = image.manifest.layers.iter().enumerate();
    let entries = image.config.history.iter();
    entries
        .map(|entry| Step {
            entry,
            layer: if entry.empty_layer {
                None
            } else {
                layers.next()
            },
        })
        .collect()
}

/// The instruction that made each layer; empty where the history does not say.
pub fn instructions(image: &Image) -> Vec<&str> {
    let mut made = vec![""; image.manifest.layers.len()];
    for step in steps(image) {
        if let Some((number, _)) = step.layer {
            made[number] = &step.entry.created_by;
        }
    }
    made
}
