//! What is shown of an image: first what manifest and config say, then what
//! its layers say.

use std::io;
use std::sync::Arc;

use shiplap::image::Image;
use shiplap::layer::index::LayerIndex;
use shiplap::layer::pile::Spools;
use shiplap::look::waste::{Waste, waste};
use shiplap::look::{ChangeKind, LayerSummary, NodeId, Tree, steps, summary};

use crate::ui::format;

/// What manifest and config say.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Outline {
    /// As the user has it.
    pub(crate) name: String,
    /// Digest of the manifest.
    pub(crate) digest: String,
    pub(crate) platform: String,
    pub(crate) created: Option<String>,
    /// The lowest first.
    pub(crate) layers: Vec<Layer>,
}

/// A layer as the manifest has it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Layer {
    pub(crate) digest: String,
    pub(crate) diff_id: String,
    /// Bytes of the blob.
    pub(crate) size: u64,
    /// What made it; empty where the history does not say.
    pub(crate) instruction: String,
}

impl Outline {
    pub(crate) fn of(name: &str, image: &Image) -> Self {
        let instructions = steps::instructions(image);
        let diff_ids = image.config.rootfs.diff_ids.iter().map(ToString::to_string);
        let diff_ids = diff_ids.chain(std::iter::repeat(String::new()));
        let layers = image.manifest.layers.iter().zip(instructions).zip(diff_ids);
        Self {
            name: name.to_owned(),
            digest: image.descriptor.digest.to_string(),
            platform: image.config.platform().to_string(),
            created: image.config.created.clone(),
            layers: layers
                .map(|((layer, instruction), diff_id)| Layer {
                    digest: layer.digest.to_string(),
                    diff_id,
                    size: layer.size,
                    instruction: instruction.to_owned(),
                })
                .collect(),
        }
    }

    /// Bytes of all blobs of layers.
    pub(crate) fn size(&self) -> u64 {
        let sizes = self.layers.iter().map(|l| l.size);
        sizes.fold(0, u64::saturating_add)
    }

    /// Which part of all blobs the layer is, from 0 to 1.
    pub(crate) fn share(&self, layer: usize) -> f64 {
        match (self.layers.get(layer), self.size()) {
            (None, _) | (_, 0) => 0.0,
            (Some(layer), all) => layer.size as f64 / all as f64,
        }
    }
}

/// What the layers say.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) tree: Tree,
    pub(crate) layers: Vec<LayerSummary>,
    /// Bytes of each layer's tar.
    pub(crate) tar_bytes: Vec<u64>,
    pub(crate) waste: Waste,
}

impl Contents {
    /// With the `most` paths at which most is wasted. Names lie in one of
    /// `spools`.
    ///
    /// # Errors
    /// As [`Tree::build`].
    pub(crate) fn of(indexes: &[Arc<LayerIndex>], spools: Spools, most: usize) -> io::Result<Self> {
        let tree = Tree::build(indexes.iter().cloned(), spools)?;
        Ok(Self {
            layers: summary(&tree)?,
            tar_bytes: indexes.iter().map(|index| index.tar_bytes).collect(),
            waste: waste(&tree, most),
            tree,
        })
    }

    /// Bytes of all tars.
    pub(crate) fn unpacked(&self) -> u64 {
        self.tar_bytes.iter().copied().fold(0, u64::saturating_add)
    }

    /// How much is wasted, in words.
    pub(crate) fn wasted(&self) -> String {
        format!(
            "{} at {} paths, efficiency {:.1}%",
            format::size(self.waste.bytes),
            self.waste.count,
            self.waste.efficiency * 100.0
        )
    }

    /// What is wrong with the layers, in words; `None` where nothing is.
    pub(crate) fn problems(&self) -> Option<String> {
        let all = self.tree.problems();
        let (layer, problem) = all.first()?;
        let count = all.len();
        Some(format!(
            "{count}, the first in layer {}: {problem}",
            layer + 1
        ))
    }

    /// What the layers did to a path, the oldest first.
    ///
    /// # Errors
    /// As [`Tree::kind`].
    pub(crate) fn story(&self, node: NodeId) -> io::Result<Vec<(usize, ChangeKind)>> {
        let mut versions: Vec<_> = self.tree.versions(node).collect();
        versions.reverse();
        let mut before = None;
        let mut story = Vec::with_capacity(versions.len());
        for (layer, after) in versions {
            let change = shiplap::look::Change {
                node,
                before,
                after,
            };
            match self.tree.kind(&change)?.0 {
                ChangeKind::Same => {}
                kind => story.push((layer, kind)),
            }
            before = after;
        }
        Ok(story)
    }
}

/// An instruction on one line, without the shell that old builders put in
/// front of it.
pub(crate) fn one_line(instruction: &str) -> String {
    let line = instruction.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = [" # buildkit", " # shiplap"]
        .iter()
        .find_map(|by| line.strip_suffix(by))
        .unwrap_or(&line);
    if let Some(rest) = line.strip_prefix("/bin/sh -c #(nop) ") {
        return rest.trim_start().to_owned();
    }
    match line.strip_prefix("/bin/sh -c ") {
        Some(rest) => format!("RUN {rest}"),
        None => line.replacen("RUN /bin/sh -c ", "RUN ", 1),
    }
}

/// What a layer did to a path.
pub(crate) fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "added",
        ChangeKind::Changed => "changed",
        ChangeKind::Removed => "removed",
        ChangeKind::Same => "same",
    }
}
