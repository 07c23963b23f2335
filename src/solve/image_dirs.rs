//! An image's layers as directories, for whoever mounts them.

use std::path::PathBuf;
use std::sync::Arc;

use super::layers::{Layer, LayerBlob, LayerError, dirs};
use crate::event::Events;
use crate::image::Image;
use crate::store::Store;

/// The layers of an image as directories in overlayfs' form.
#[derive(Debug)]
pub struct LayerDirs {
    /// Lowest first.
    pub dirs: Vec<PathBuf>,
    layers: Vec<Arc<Layer>>,
}

impl LayerDirs {
    /// Those of `image`; what is missing of them is fetched and unpacked.
    ///
    /// # Errors
    /// When a layer can't be had or unpacked.
    pub fn of(image: &Image, store: &Store, events: &Events) -> Result<Self, LayerError> {
        let blobs = image.manifest.layers.iter();
        let layers: Vec<Arc<Layer>> = blobs
            .zip(&image.config.rootfs.diff_ids)
            .map(|(descriptor, diff_id)| LayerBlob {
                descriptor: descriptor.clone(),
                diff_id: diff_id.clone(),
            })
            .map(|blob| Arc::new(Layer::of_base(image, blob)))
            .collect();
        let dirs = dirs(&layers, store, events)?;
        Ok(Self { dirs, layers })
    }

    /// Leaves also those that belong on these layers alone, when there is a
    /// record in the store that leads to them.
    pub fn keep(self) {
        for layer in self.layers {
            if let Some(made) = layer.take_made() {
                made.keep();
            }
        }
    }
}
