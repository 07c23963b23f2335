//! From a tree to the lines that are shown of it.

use shiplap::look::{ChangeKind, NodeId, Tree};

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
    /// By number of node: bytes at and below it.
    sizes: Vec<u64>,
}

impl View {
    /// As `layer` leaves it; without one, the finished image.
    pub(crate) fn of(tree: &Tree, layer: Option<usize>) -> Self {
        let at = layer.unwrap_or(tree.layers().saturating_sub(1));
        let mut view = Self {
            layer: at,
            marks: Vec::new(),
            sizes: tree.sizes(at),
        };
        let Some(layer) = layer else { return view };
        let mut marks = vec![Mark::None; view.sizes.len()];
        for change in tree.changes(layer) {
            let at = change.node.index();
            // Where it can't be known any more in what two differ, they do.
            let kind = tree.kind(&change).map_or(ChangeKind::Changed, |k| k.0);
            marks[at] = match kind {
                ChangeKind::Added => Mark::Added,
                ChangeKind::Changed => Mark::Changed,
                ChangeKind::Removed => Mark::Removed,
                ChangeKind::Same => Mark::None,
            };
            if marks[at] == Mark::Removed && layer > 0 {
                let before = change.before.map_or(0, |id| tree.size(id));
                view.sizes[at] = view.sizes[at].saturating_add(before);
            }
        }
        // What is removed with all that is below it has the size that it had.
        for node in tree.nodes().rev() {
            let Some(parent) = tree.parent(node) else {
                continue;
            };
            let (mark, above) = (marks[node.index()], marks[parent.index()]);
            if mark == Mark::Removed && above == Mark::Removed {
                let size = view.sizes[node.index()];
                let sum = &mut view.sizes[parent.index()];
                *sum = sum.saturating_add(size);
            }
            if mark != Mark::None && above == Mark::None {
                marks[parent.index()] = Mark::Below;
            }
        }
        view.marks = marks;
        view
    }

    pub(crate) fn layer(&self) -> usize {
        self.layer
    }

    pub(crate) fn mark(&self, node: NodeId) -> Mark {
        self.marks.get(node.index()).copied().unwrap_or(Mark::None)
    }

    pub(crate) fn size(&self, node: NodeId) -> u64 {
        self.sizes.get(node.index()).copied().unwrap_or(0)
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

/// One line: an entry, and how deep it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) node: NodeId,
    pub(crate) depth: u16,
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
    /// Whether a directory is unfolded.
    pub(crate) open: &'a [bool],
}

/// The lines, and how many entries are wanted, those that only lead there not
/// counted.
pub(crate) fn rows(tree: &Tree, view: &View, wanted: &Wanted<'_>) -> (Vec<Row>, usize) {
    let (shown, count) = shown(tree, view, wanted);
    let mut rows = Vec::new();
    let mut todo = Vec::new();
    let mut children = Vec::new();
    let mut push = |node, depth, todo: &mut Vec<Row>| {
        children.clear();
        let below = tree.children(node).iter().copied();
        children.extend(below.filter(|c| shown[c.index()]));
        if wanted.sort == Sort::Size {
            children.sort_by_key(|c| std::cmp::Reverse(view.size(*c)));
        }
        todo.extend(children.iter().rev().map(|node| Row { node: *node, depth }));
    };
    push(Tree::ROOT, 0, &mut todo);
    while let Some(row) = todo.pop() {
        rows.push(row);
        if wanted.open[row.node.index()] {
            push(row.node, row.depth.saturating_add(1), &mut todo);
        }
    }
    (rows, count)
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
    let mut todo: Vec<(NodeId, usize)> = vec![(Tree::ROOT, 0)];
    let mut hits = vec![false; shown.len()];
    let mut count = 0;
    while let Some((node, begins)) = todo.pop() {
        path.truncate(begins);
        path.extend_from_slice(tree.name(node));
        if node != Tree::ROOT && filter.matches(&path) {
            hits[node.index()] = true;
            count += 1;
        }
        if !tree.children(node).is_empty() {
            if node != Tree::ROOT {
                path.push(b'/');
            }
            let below = tree.children(node).iter();
            todo.extend(below.filter(|c| shown[c.index()]).map(|c| (*c, path.len())));
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
