//! Where things come from: a number for each entry of all layers.

use super::{NodeId, Origin, too_many};
use crate::layer::texts::Texts;

/// The nodes of a [`Stack`](super::Stack): each has the number of its entry
/// among those of all layers, so that nothing else is kept of it.
#[derive(Debug)]
pub(super) struct Nodes {
    /// The number of the first entry of each layer so far.
    firsts: Vec<u32>,
    /// Symbolic links in order, and the places of their texts.
    links: Vec<(NodeId, u32)>,
}

impl Nodes {
    pub(super) fn new() -> Self {
        Self {
            firsts: vec![0],
            links: Vec::new(),
        }
    }

    /// Ends the layer, which had so many entries.
    pub(super) fn next_layer(&mut self, entries: u32) {
        let first = self.firsts.last().copied().unwrap_or(0);
        self.firsts.push(first.saturating_add(entries));
    }

    /// The number of the first entry of a layer.
    pub(super) fn first_of(&self, layer: u32) -> u32 {
        let first = self.firsts.get(layer as usize);
        first.or(self.firsts.last()).copied().unwrap_or(0)
    }

    /// The node of an entry of the last layer.
    pub(super) fn of(&self, entry: u32) -> Result<NodeId, String> {
        let first = self.firsts.last().copied().unwrap_or(0);
        first.checked_add(entry).map(NodeId).ok_or_else(too_many)
    }

    /// Says that `node`, the newest one, is a link with the text at `place`.
    pub(super) fn set_link(&mut self, node: NodeId, place: u32) {
        self.links.push((node, place));
    }

    pub(super) fn origin(&self, node: NodeId) -> Origin {
        let layer = self.firsts.partition_point(|first| *first <= node.0) - 1;
        Origin {
            layer: layer as u32,
            entry: node.0 - self.firsts[layer],
        }
    }

    /// The text of a symbolic link.
    pub(super) fn link<'a>(&self, node: NodeId, texts: &'a Texts) -> Option<&'a [u8]> {
        let at = self.links.binary_search_by_key(&node, |(node, _)| *node);
        Some(texts.get(self.links[at.ok()?].1.into()))
    }

    pub(super) fn finish(&mut self) {
        self.links.shrink_to_fit();
    }
}
