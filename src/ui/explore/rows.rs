//! From a tree to the lines that are shown of it.

use shiplap::look::{ChangeKind, NodeId, Sums, Tree};

use super::filter::Filter;

/// What the chosen layer did to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing.
    None,
    /// Nothing, but something to what is below it.
    Below,
    Added,
    Changed,
    Removed,
}

/// The tree as it is when one layer was applied, with what that layer did.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// The layer, or the last one.
    layer: usize,
    /// By number of node: what the layer did; empty for the whole image.
    marks: Vec<Mark>,
    /// Bytes at and below nodes.
    sums: Sums,
}

impl View {
    /// As `layer` leaves it; without one, the finished image.
    pub(crate) fn of(tree: &Tree, layer: Option<usize>) -> Self {
        let at = layer.unwrap_or(tree.layers().saturating_sub(1));
        let mut view = Self {
            layer: at,
            marks: Vec::new(),
            sums: Sums::default(),
        };
        if let Some(layer) = layer {
            view.mark_all(tree, layer);
        }
        let gone = |node| view.mark(node) == Mark::Removed;
        // What is removed with all that is below it has the size that it had.
        let counts = |node, parent| !gone(node) || gone(parent);
        view.sums = tree.sums(|node| view.own_size(tree, node), counts);
        view
    }

    fn mark_all(&mut self, tree: &Tree, layer: usize) {
        let mut marks = vec![Mark::None; tree.nodes().len()];
        for change in tree.changes(layer) {
            // Where it can't be known any more in what two differ, they do.
            let kind = tree.kind(&change).map_or(ChangeKind::Changed, |k| k.0);
            marks[change.node.index()] = match kind {
                ChangeKind::Added => Mark::Added,
                ChangeKind::Changed => Mark::Changed,
                ChangeKind::Removed => Mark::Removed,
                ChangeKind::Same => Mark::None,
            };
        }
        for node in tree.nodes().rev() {
            if let Some(parent) = tree.parent(node)
                && marks[node.index()] != Mark::None
                && marks[parent.index()] == Mark::None
            {
                marks[parent.index()] = Mark::Below;
            }
        }
        self.marks = marks;
    }

    /// Bytes of what is at `node`, or was before the layer removed it.
    fn own_size(&self, tree: &Tree, node: NodeId) -> u64 {
        let before = self.layer.checked_sub(1);
        let inode = match (self.mark(node), before) {
            (Mark::Removed, Some(before)) => tree.at(node, before),
            _ => tree.at(node, self.layer),
        };
        inode.map_or(0, |id| tree.size(id))
    }

    pub(crate) fn layer(&self) -> usize {
        self.layer
    }

    pub(crate) fn mark(&self, node: NodeId) -> Mark {
        self.marks.get(node.index()).copied().unwrap_or(Mark::None)
    }

    pub(crate) fn size(&self, tree: &Tree, node: NodeId) -> u64 {
        let sum = tree.sum(&self.sums, node);
        sum.unwrap_or_else(|| self.own_size(tree, node))
    }

    /// Whether a layer was chosen, so that there are marks.
    pub(crate) fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Whether there is something at `node`, or was before the layer.
    pub(crate) fn shows(&self, tree: &Tree, node: NodeId) -> bool {
        self.mark(node) == Mark::Removed || tree.at(node, self.layer).is_some()
    }
}

/// The order of entries in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Name,
    /// The largest first.
    Size,
}

/// What is wanted of a tree.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) sort: Sort,
    /// Only what the layer changed, and what leads there.
    pub(crate) only_changes: bool,
    pub(crate) filter: Option<&'a Filter>,
    /// Whether a directory is unfolded, by [`place`](Tree::place).
    pub(crate) open: &'a [bool],
}

/// The entries of the lines, and how many entries are wanted, those that only
/// lead there not counted.
pub(crate) fn rows(tree: &Tree, view: &View, wanted: &Wanted<'_>) -> (Vec<NodeId>, usize) {
    let (shown, count) = shown(tree, view, wanted);
    let below = |node| {
        let below = tree.children(node).iter().copied();
        let below = below.filter(|c| shown[c.index()]);
        match wanted.sort {
            Sort::Name => Below::AsThere(below),
            Sort::Size => {
                let mut sorted: Vec<NodeId> = below.collect();
                sorted.sort_by_key(|c| std::cmp::Reverse(view.size(tree, *c)));
                Below::Sorted(sorted.into_iter())
            }
        }
    };
    let mut rows = Vec::new();
    let mut above = vec![below(Tree::ROOT)];
    while let Some(rest) = above.last_mut() {
        match rest.next() {
            None => drop(above.pop()),
            Some(node) => {
                rows.push(node);
                if tree.place(node).is_some_and(|place| wanted.open[place]) {
                    above.push(below(node));
                }
            }
        }
    }
    (rows, count)
}

/// What is in a directory, in the order of the lines.
enum Below<I> {
    AsThere(I),
    Sorted(std::vec::IntoIter<NodeId>),
}

impl<I: Iterator<Item = NodeId>> Iterator for Below<I> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        match self {
            Self::AsThere(rest) => rest.next(),
            Self::Sorted(rest) => rest.next(),
        }
    }
}

/// By number of node: whether it is wanted, or leads to what is. And how many
/// are wanted.
fn shown(tree: &Tree, view: &View, wanted: &Wanted<'_>) -> (Vec<bool>, usize) {
    let changes = wanted.only_changes && view.has_marks();
    let mut shown: Vec<bool> = tree
        .nodes()
        .map(|node| view.shows(tree, node) && !(changes && view.mark(node) == Mark::None))
        .collect();
    let Some(filter) = wanted.filter else {
        let count = shown.iter().skip(1).filter(|s| **s).count();
        return (shown, count);
    };
    // One path is written at a time, so that long ones in deep trees cost no
    // more than they are long.
    let mut path = Vec::new();
    let mut hits = vec![false; shown.len()];
    let mut count = 0;
    let mut above = vec![(tree.children(Tree::ROOT).iter(), 0)];
    while let Some((rest, begins)) = above.last_mut() {
        let Some(node) = rest.find(|c| shown[c.index()]).copied() else {
            above.pop();
            continue;
        };
        path.truncate(*begins);
        path.extend_from_slice(tree.name(node));
        if filter.matches(&path) {
            hits[node.index()] = true;
            count += 1;
        }
        let below = tree.children(node);
        if !below.is_empty() {
            path.push(b'/');
            above.push((below.iter(), path.len()));
        }
    }
    for node in tree.nodes().rev() {
        let hit = hits[node.index()] && shown[node.index()];
        shown[node.index()] = hit;
        if let Some(parent) = tree.parent(node).filter(|_| hit) {
            hits[parent.index()] = true;
        }
    }
    (shown, count)
}
