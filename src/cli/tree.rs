//! `shiplap tree`: the files of an image or of one layer.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value, json};
use shiplap::look::{ChangeKind, Inode, InodeId, NodeId, Sums, Tree};

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
    /// By node: whether it is shown.
    is_shown: Vec<bool>,
    /// By node: what the layer did; empty without one.
    changes: Vec<Option<ChangeKind>>,
    sums: Sums,
    sort: Sort,
    depth: usize,
}

impl TreeArgs {
    pub(super) fn run(self, session: &Session) -> anyhow::Result<()> {
        let wanted = Wanted::new(&self.paths)?;
        let looked = files::look(session, &self.image)?;
        let layer = self.layer.as_deref().map(|l| looked.layer(l)).transpose()?;
        let view = View::new(&looked, layer, &wanted, self.sort, self.depth)?;
        match self.format {
            Format::Text => output::stream(|out| Ok(view.text(out)?)),
            Format::Json => output::json(&Report {
                layer: layer.map(|l| l + 1),
                files: Lazy(|| view.rows().nodes().map(|node| view.entry(node))),
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
    ) -> io::Result<Self> {
        let tree = &looked.tree;
        let count = tree.nodes().len();
        let mut changes = Vec::new();
        if let Some(layer) = layer {
            changes.resize(count, None);
            for change in tree.changes(layer) {
                changes[change.node.index()] = Some(tree.kind(&change)?.0);
            }
        }
        let mut view = Self {
            tree,
            layer,
            is_shown: vec![false; count],
            changes,
            sums: Sums::default(),
            sort,
            depth: depth.unwrap_or(usize::MAX),
        };
        for node in tree.nodes().rev() {
            // What leads to something that is shown is shown too.
            view.is_shown[node.index()] |= view.own(node, wanted).is_some();
            if let Some(parent) = tree.parent(node).filter(|_| view.is_shown[node.index()]) {
                view.is_shown[parent.index()] = true;
            }
        }
        let own = |node: NodeId| match view.is_shown[node.index()] {
            true => view
                .own(node, wanted)
                .map_or(0, |id| view.own_size(node, id)),
            false => 0,
        };
        view.sums = tree.sums(own, |node, _| view.is_shown[node.index()]);
        Ok(view)
    }

    /// What is shown at a node for its own sake.
    fn own(&self, node: NodeId, wanted: &Wanted) -> Option<InodeId> {
        let own = match self.layer {
            None => self.tree.now(node),
            Some(_) => self.change(node).and_then(|_| self.inode(node)),
        };
        own.filter(|_| wanted.has_all() || wanted.has(&self.tree.path(node)))
    }

    /// Bytes that count where `id` is at `node`.
    fn own_size(&self, node: NodeId, id: InodeId) -> u64 {
        match self.change(node) {
            Some(ChangeKind::Removed) => 0,
            _ => self.tree.size(id),
        }
    }

    /// Bytes at and below a node that is shown.
    fn sum(&self, node: NodeId) -> u64 {
        let own = || self.inode(node).map_or(0, |id| self.own_size(node, id));
        self.tree.sum(&self.sums, node).unwrap_or_else(own)
    }

    /// What the layer did to a node.
    fn change(&self, node: NodeId) -> Option<ChangeKind> {
        self.changes.get(node.index()).copied().flatten()
    }

    /// What was at a node when the layer was applied, or the last thing that
    /// was there before; else the newest that it ever had.
    fn inode(&self, node: NodeId) -> Option<InodeId> {
        let tree = self.tree;
        let layer = self.layer.unwrap_or(usize::MAX);
        let mut versions = tree.versions(node).skip_while(|(by, _)| *by > layer);
        let here = versions.next().and_then(|(_, inode)| inode);
        let before = || match self.change(node) {
            Some(_) => versions.next().and_then(|(_, inode)| inode),
            None => None,
        };
        here.or_else(before).or_else(|| last_seen(tree, node))
    }

    /// What is shown, in order.
    fn rows(&self) -> Rows<'_> {
        Rows {
            view: self,
            root: true,
            above: Vec::new(),
            more: Vec::new(),
        }
    }

    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let (mut owners, mut sizes) = (0, 0);
        self.each_line(|line| {
            owners = owners.max(line.owner.len());
            sizes = sizes.max(line.size.len());
            Ok(())
        })?;
        let mut label = String::new();
        self.each_line(|line| {
            label.clear();
            for (level, more_here) in line.more.iter().enumerate() {
                label.push_str(match (level + 1 == line.more.len(), more_here) {
                    (true, true) => "├── ",
                    (true, false) => "└── ",
                    (false, true) => "│   ",
                    (false, false) => "    ",
                });
            }
            let (node, inode) = (line.node, line.inode);
            match node {
                Tree::ROOT => label.push('/'),
                _ => label.push_str(&escape::text(&files::name(self.tree.name(node), inode))),
            }
            let mark = match (self.layer, self.change(node)) {
                (None, _) => "",
                (_, Some(ChangeKind::Added)) => "+ ",
                (_, Some(ChangeKind::Changed)) => "~ ",
                (_, Some(ChangeKind::Removed)) => "- ",
                _ => "  ",
            };
            let (mode, owner, size) = (files::mode(inode), &line.owner, &line.size);
            writeln!(
                out,
                "{mark}{mode}  {owner:<owners$}  {size:>sizes$}  {label}"
            )
        })
    }

    fn each_line(&self, mut each: impl FnMut(&Line<'_>) -> io::Result<()>) -> io::Result<()> {
        let mut rows = self.rows();
        while let Some((node, depth)) = rows.next() {
            let Some(inode) = self.inode(node).filter(|_| self.is_shown[node.index()]) else {
                continue;
            };
            let inode = self.tree.inode(inode)?;
            each(&Line {
                node,
                more: &rows.more[..depth],
                owner: files::owner(&inode),
                size: format::size(self.size(node, inode.size())),
                inode: &inode,
            })?;
        }
        Ok(())
    }

    fn size(&self, node: NodeId, own: u64) -> u64 {
        match self.change(node) {
            Some(ChangeKind::Removed) => own,
            _ => self.sum(node),
        }
    }

    fn entry(&self, node: NodeId) -> io::Result<Map<String, Value>> {
        let Some(inode) = self.inode(node).filter(|_| self.is_shown[node.index()]) else {
            return Ok(Map::new());
        };
        let inode = self.tree.inode(inode)?;
        let mut entry = files::entry_json(&self.tree.path(node), &inode);
        if inode.is_dir() {
            entry.insert("total".into(), json!(self.sum(node)));
        }
        if self.layer.is_some() {
            let change = self.change(node).map(change_name);
            entry.insert("change".into(), json!(change));
        }
        Ok(entry)
    }
}

/// One line of text.
struct Line<'a> {
    node: NodeId,
    /// For each level above it whether more comes there.
    more: &'a [bool],
    owner: String,
    size: String,
    inode: &'a Inode,
}

/// Goes through what is shown.
struct Rows<'a> {
    view: &'a View<'a>,
    root: bool,
    /// What still comes in each directory that leads to the last node, and the
    /// last one itself.
    above: Vec<std::vec::IntoIter<NodeId>>,
    /// Whether more comes there.
    more: Vec<bool>,
}

impl<'a> Rows<'a> {
    /// The next node, and how many directories lead to it.
    fn next(&mut self) -> Option<(NodeId, usize)> {
        let node = match std::mem::take(&mut self.root) {
            true => Tree::ROOT,
            false => loop {
                let rest = self.above.last_mut()?;
                match rest.next() {
                    Some(node) => {
                        *self.more.last_mut()? = rest.len() > 0;
                        break node;
                    }
                    None => {
                        self.above.pop();
                        self.more.pop();
                    }
                }
            },
        };
        let depth = self.above.len();
        let view = self.view;
        let mut below = Vec::new();
        if depth < view.depth {
            let children = view.tree.children(node).iter().copied();
            below.extend(children.filter(|n| view.is_shown[n.index()]));
            if view.sort == Sort::Size {
                below.sort_by_key(|n| std::cmp::Reverse(view.sum(*n)));
            }
        }
        self.above.push(below.into_iter());
        self.more.push(false);
        Some((node, depth))
    }

    fn nodes(mut self) -> impl Iterator<Item = NodeId> + 'a {
        std::iter::from_fn(move || Some(self.next()?.0))
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
