//! `shiplap tree`: the files of an image or of one layer.

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value, json};
use shiplap::look::{ChangeKind, InodeId, NodeId, Tree};

use super::files::{self, Lazy, Looked, Wanted};
use super::image::ImageArgs;
use super::{Format, Session};
use crate::ui::{escape, format, output};

const EXAMPLES: &str = "\
Examples:
  What takes the room
    shiplap tree app:1 --depth 2 --sort size

  A directory, and all shared libraries
    shiplap tree app:1 /etc
    shiplap tree app:1 '*.so*'

  What the topmost of three layers did
    shiplap tree app:1 --layer 3

In JSON each entry has path, type, size, mode, uid, gid, mtime, layer (the
number of the one that gave it), and where it applies target, device, digest,
xattrs (values in base64), total (bytes below a directory) and, with --layer,
change: added, changed, removed or same.";

/// Show the files of an image without unpacking it
///
/// Links, whiteouts and hard links are resolved as they are when the image is
/// unpacked. Directories have the size of all that is in them. With --layer
/// only what that layer has is shown, with + for what it added, ~ for what it
/// changed and - for what it removed. Layers that were looked at before need
/// not be read again.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TreeArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Paths, or patterns with *, ?, [...] and **; one without a slash is
    /// looked for everywhere
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
    /// One layer: its number (the lowest is 1), or its digest or diffID
    #[arg(long, value_name = "N|DIGEST")]
    layer: Option<String>,
    /// How deep directories are shown
    #[arg(short = 'L', long, value_name = "N")]
    depth: Option<usize>,
    /// Order of the entries of a directory
    #[arg(long, value_enum, default_value = "name", value_name = "BY")]
    sort: Sort,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Order of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// By name
    Name,
    /// The largest first
    Size,
}

/// What is shown of a tree.
struct View<'a> {
    tree: &'a Tree,
    layer: Option<usize>,
    /// By node: what is shown there.
    shown: Vec<Option<InodeId>>,
    changes: Vec<Option<ChangeKind>>,
    sizes: Vec<u64>,
    sort: Sort,
    depth: usize,
}

impl TreeArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let wanted = Wanted::new(&self.paths)?;
        let looked = files::look(session, &self.image)?;
        let layer = self.layer.as_deref().map(|l| looked.layer(l)).transpose()?;
        let view = View::new(&looked, layer, &wanted, self.sort, self.depth);
        match self.format {
            Format::Text => output::result(&view.text()),
            Format::Json => output::json(&Report {
                layer: layer.map(|l| l + 1),
                files: Lazy(|| view.rows().map(|(_, node, _)| view.entry(node))),
            }),
        }
    }
}

#[derive(Serialize)]
struct Report<T: Serialize> {
    layer: Option<usize>,
    files: T,
}

impl<'a> View<'a> {
    fn new(
        looked: &'a Looked,
        layer: Option<usize>,
        wanted: &Wanted,
        sort: Sort,
        depth: Option<usize>,
    ) -> Self {
        let tree = &looked.tree;
        let count = tree.nodes().len();
        let mut shown = vec![None; count];
        let mut changes = vec![None; count];
        let mut own = vec![0_u64; count];
        match layer {
            None => {
                for node in tree.nodes() {
                    shown[node.index()] = tree.now(node);
                }
            }
            Some(layer) => {
                for change in tree.changes(layer) {
                    shown[change.node.index()] = change.after.or(change.before);
                    changes[change.node.index()] = Some(tree.kind(change).0);
                }
            }
        }
        let mut matched = vec![false; count];
        for node in tree.nodes().rev() {
            let at = node.index();
            let is_match = shown[at].is_some() && wanted.has(&tree.path(node));
            if let Some(inode) = shown[at].filter(|_| is_match)
                && changes[at] != Some(ChangeKind::Removed)
            {
                own[at] = own[at].saturating_add(tree.inode(inode).size());
            }
            // What leads to something that is shown is shown too.
            matched[at] |= is_match;
            if let Some(parent) = tree.parent(node).filter(|_| matched[at]) {
                let above = parent.index();
                matched[above] = true;
                own[above] = own[above].saturating_add(own[at]);
            }
            let here = layer.map_or_else(|| tree.now(node), |l| tree.at(node, l));
            shown[at] = match matched[at] {
                true => shown[at].or(here).or_else(|| last_seen(tree, node)),
                false => None,
            };
        }
        Self {
            tree,
            layer,
            shown,
            changes,
            sizes: own,
            sort,
            depth: depth.unwrap_or(usize::MAX),
        }
    }

    /// What is shown, in order: its depth, the node, and for each level above
    /// it whether more comes there.
    fn rows(&self) -> impl Iterator<Item = (usize, NodeId, Vec<bool>)> {
        let mut todo = vec![(0, Tree::ROOT, Vec::new())];
        std::iter::from_fn(move || {
            let (depth, node, more) = todo.pop()?;
            if depth < self.depth {
                let children = self.tree.children(node).iter().copied();
                let mut below: Vec<NodeId> = children
                    .filter(|n| self.shown[n.index()].is_some())
                    .collect();
                if self.sort == Sort::Size {
                    below.sort_by_key(|n| std::cmp::Reverse(self.sizes[n.index()]));
                }
                let last = below.last().copied();
                todo.extend(below.into_iter().rev().map(|n| {
                    let mut more = more.clone();
                    more.push(Some(n) != last);
                    (depth + 1, n, more)
                }));
            }
            Some((depth, node, more))
        })
    }

    fn text(&self) -> String {
        let mut rows = Vec::new();
        for (_, node, more) in self.rows() {
            let Some(inode) = self.shown[node.index()] else {
                continue;
            };
            let inode = self.tree.inode(inode);
            let mut label = String::new();
            for (level, more_here) in more.iter().enumerate() {
                label.push_str(match (level + 1 == more.len(), more_here) {
                    (true, true) => "├── ",
                    (true, false) => "└── ",
                    (false, true) => "│   ",
                    (false, false) => "    ",
                });
            }
            match node {
                Tree::ROOT => label.push('/'),
                _ => label.push_str(&escape::text(&files::name(self.tree.name(node), inode))),
            }
            let mark = match (self.layer, self.changes[node.index()]) {
                (None, _) => "",
                (_, Some(ChangeKind::Added)) => "+ ",
                (_, Some(ChangeKind::Changed)) => "~ ",
                (_, Some(ChangeKind::Removed)) => "- ",
                _ => "  ",
            };
            let size = format::size(self.size(node, inode.size()));
            rows.push((mark, files::mode(inode), files::owner(inode), size, label));
        }
        let width = |of: fn(&(&str, String, String, String, String)) -> usize| {
            rows.iter().map(of).max().unwrap_or(0)
        };
        let (owners, sizes) = (width(|r| r.2.len()), width(|r| r.3.len()));
        let mut out = String::new();
        for (mark, mode, owner, size, label) in &rows {
            out.push_str(&format!(
                "{mark}{mode}  {owner:<owners$}  {size:>sizes$}  {label}\n"
            ));
        }
        out
    }

    fn size(&self, node: NodeId, own: u64) -> u64 {
        match self.changes[node.index()] {
            Some(ChangeKind::Removed) => own,
            _ => self.sizes[node.index()],
        }
    }

    fn entry(&self, node: NodeId) -> Map<String, Value> {
        let Some(inode) = self.shown[node.index()] else {
            return Map::new();
        };
        let inode = self.tree.inode(inode);
        let mut entry = files::entry_json(&self.tree.path(node), inode);
        if inode.is_dir() {
            entry.insert("total".into(), json!(self.sizes[node.index()]));
        }
        if self.layer.is_some() {
            let change = self.changes[node.index()].map(change_name);
            entry.insert("change".into(), json!(change));
        }
        entry
    }
}

/// The newest that a path had.
fn last_seen(tree: &Tree, node: NodeId) -> Option<InodeId> {
    tree.versions(node).find_map(|(_, inode)| inode)
}

/// What a change is called in JSON.
fn change_name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "added",
        ChangeKind::Changed => "changed",
        ChangeKind::Removed => "removed",
        ChangeKind::Same => "same",
    }
}
