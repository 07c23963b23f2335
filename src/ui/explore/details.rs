//! What is known of the chosen entry, layer or image, as names and values.

use std::path::Path;

use shiplap::digest::Digest;
use shiplap::layer::Kind;
use shiplap::look::{Inode, InodeId, NodeId};

use super::picture::{Contents, one_line, word};
use super::rows::View;
use super::state::State;
use crate::ui::entry::{mode, owner, time};
use crate::ui::format;

/// Names and their values.
type Fields = Vec<(&'static str, String)>;

/// Other names of a file that are listed.
const MOST_NAMES: usize = 4;

/// What is at `node`, or was until the chosen layer removed it.
pub(super) fn inode(contents: &Contents, view: &View, node: NodeId) -> Option<Inode> {
    contents.tree.inode(inode_id(contents, view, node)?).ok()
}

fn inode_id(contents: &Contents, view: &View, node: NodeId) -> Option<InodeId> {
    let tree = &contents.tree;
    let now = tree.at(node, view.layer());
    let before = || tree.at(node, view.layer().checked_sub(1)?);
    now.or_else(before).or_else(|| {
        let mut versions = tree.versions(node);
        versions.find_map(|(_, inode)| inode)
    })
}

fn rooted(path: &Path) -> String {
    format!("/{}", path.to_string_lossy())
}

pub(super) fn entry(contents: &Contents, view: &View, node: NodeId) -> Fields {
    let tree = &contents.tree;
    let mut fields = vec![("path", rooted(&tree.path(node)))];
    let Some(id) = inode_id(contents, view, node) else {
        return fields;
    };
    let inode = match tree.inode(id) {
        Ok(inode) => inode,
        Err(error) => {
            fields.push(("problem", error.to_string()));
            return fields;
        }
    };
    let kind = match &inode.kind {
        Kind::File { .. } => "file".to_owned(),
        Kind::Dir => "directory".to_owned(),
        Kind::Symlink { target } => format!("link to {}", target.to_string_lossy()),
        Kind::Hardlink { target } => format!("other name of {}, which is missing", rooted(target)),
        Kind::Char { major, minor } => format!("character device {major}:{minor}"),
        Kind::Block { major, minor } => format!("block device {major}:{minor}"),
        Kind::Fifo => "named pipe".to_owned(),
    };
    let size = match inode.is_dir() {
        true => view.size(tree, node),
        false => inode.size(),
    };
    let mode = mode(&inode);
    fields.extend([
        ("kind", kind),
        ("mode", format!("{:04o} {mode}", inode.meta.mode)),
        ("owner", owner(&inode)),
        ("size", format!("{} ({size} bytes)", format::size(size))),
        ("mtime", time(inode.meta.mtime)),
    ]);
    let story = contents.story(node).unwrap_or_default().into_iter();
    let story = story.map(|(layer, kind)| format!("{} {}", layer + 1, word(kind)));
    fields.push(("layers", story.collect::<Vec<_>>().join(", ")));
    if !inode.meta.xattrs.is_empty() {
        let names = inode.meta.xattrs.keys();
        let names = names.map(|name| String::from_utf8_lossy(name));
        fields.push(("xattrs", names.collect::<Vec<_>>().join(" ")));
    }
    if let Some(digest) = inode.digest {
        fields.push(("digest", Digest::from(digest).to_string()));
    }
    if matches!(inode.kind, Kind::File { .. }) {
        let others: Vec<String> = tree
            .nodes()
            .filter(|other| *other != node && tree.at(*other, view.layer()) == Some(id))
            .map(|other| rooted(&tree.path(other)))
            .take(MOST_NAMES)
            .collect();
        if !others.is_empty() {
            fields.push(("links", others.join(" ")));
        }
    }
    fields
}

pub(super) fn layer(state: &State, contents: Option<&Contents>, layer: usize) -> Fields {
    let outline = &state.outline;
    let Some(described) = outline.layers.get(layer) else {
        return Vec::new();
    };
    let mut fields = vec![(
        "size",
        format!(
            "{} ({:.1}% of the image)",
            format::size(described.size),
            outline.share(layer) * 100.0
        ),
    )];
    if let Some(contents) = contents {
        if let Some(bytes) = contents.tar_bytes.get(layer) {
            fields.push(("unpacked", format::size(*bytes)));
        }
        if let Some(did) = contents.layers.get(layer) {
            let text = format!(
                "{} added, {} changed, {} removed",
                did.added, did.changed, did.removed
            );
            fields.push(("entries", text));
        }
    }
    fields.push(("made by", one_line(&described.instruction)));
    fields.push(("digest", described.digest.clone()));
    fields.push(("diffID", described.diff_id.clone()));
    fields
}

pub(super) fn image(state: &State, contents: Option<&Contents>) -> Fields {
    let outline = &state.outline;
    let mut fields = vec![("name", outline.name.clone())];
    fields.push((
        "size",
        format!(
            "{} in {} layers",
            format::size(outline.size()),
            outline.layers.len()
        ),
    ));
    if let Some(contents) = contents {
        fields.extend([
            ("unpacked", format::size(contents.unpacked())),
            ("wasted", contents.wasted()),
        ]);
        fields.extend(contents.problems().map(|text| ("problems", text)));
    }
    fields.push(("digest", outline.digest.clone()));
    fields.push(("platform", outline.platform.clone()));
    if let Some(created) = &outline.created {
        fields.push(("created", created.clone()));
    }
    fields
}
