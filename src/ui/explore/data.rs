//! The same picture for programs: fields are only ever added.

use serde::{Serialize, Serializer};
use shiplap::digest::Digest;
use shiplap::look::{ChangeKind, Inode, NodeId, Tree};

use super::picture::{Contents, Outline};
use super::walk::{kind_letter, link_target};

/// All that is known of an image. Layers are counted from 1, as on the screen.
#[derive(Serialize)]
pub(crate) struct Data<'a> {
    name: &'a str,
    digest: &'a str,
    platform: &'a str,
    created: Option<&'a str>,
    size: u64,
    layers: Vec<LayerData<'a>>,
    waste: WasteData,
    /// What made no sense in layers.
    problems: Vec<ProblemData<'a>>,
    files: Files<'a>,
}

#[derive(Serialize)]
struct LayerData<'a> {
    digest: &'a str,
    diff_id: &'a str,
    size: u64,
    unpacked_size: u64,
    instruction: &'a str,
    added: u64,
    changed: u64,
    removed: u64,
}

#[derive(Serialize)]
struct ProblemData<'a> {
    layer: usize,
    problem: &'a str,
}

#[derive(Serialize)]
struct WasteData {
    efficiency: f64,
    bytes: u64,
    paths: Vec<WastedData>,
}

#[derive(Serialize)]
struct WastedData {
    path: String,
    bytes: u64,
    files: u64,
    removed: bool,
}

/// Every path that ever was, in order.
struct Files<'a>(&'a Contents);

#[derive(Serialize)]
struct FileData {
    path: String,
    kind: char,
    size: u64,
    mode: String,
    uid: u32,
    gid: u32,
    mtime: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    /// The layer that it is from.
    layer: usize,
    /// Whether it is not in the finished image.
    removed: bool,
    changes: Vec<ChangeData>,
}

#[derive(Serialize)]
struct ChangeData {
    layer: usize,
    kind: &'static str,
}

impl<'a> Data<'a> {
    pub(crate) fn of(outline: &'a Outline, contents: &'a Contents) -> Self {
        let waste = &contents.waste;
        let paths = waste.paths.iter().map(|wasted| WastedData {
            path: path(&contents.tree, wasted.node),
            bytes: wasted.bytes,
            files: wasted.files,
            removed: wasted.removed,
        });
        let layers = outline.layers.iter().enumerate().map(|(number, layer)| {
            let did = contents.layers.get(number).copied().unwrap_or_default();
            LayerData {
                digest: &layer.digest,
                diff_id: &layer.diff_id,
                size: layer.size,
                unpacked_size: contents.tar_bytes.get(number).copied().unwrap_or(0),
                instruction: &layer.instruction,
                added: did.added,
                changed: did.changed,
                removed: did.removed,
            }
        });
        let problems = contents.tree.problems().iter();
        Self {
            name: &outline.name,
            digest: &outline.digest,
            platform: &outline.platform,
            created: outline.created.as_deref(),
            size: outline.size(),
            layers: layers.collect(),
            waste: WasteData {
                efficiency: waste.efficiency,
                bytes: waste.bytes,
                paths: paths.collect(),
            },
            problems: problems
                .map(|(number, text)| ProblemData {
                    layer: number + 1,
                    problem: text,
                })
                .collect(),
            files: Files(contents),
        }
    }
}

fn path(tree: &Tree, node: NodeId) -> String {
    tree.path(node).to_string_lossy().into_owned()
}

impl Serialize for Files<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tree = &self.0.tree;
        let mut todo = vec![Tree::ROOT];
        serializer.collect_seq(std::iter::from_fn(|| {
            loop {
                let node = todo.pop()?;
                let Some((inode, removed)) = ever(tree, node) else {
                    continue;
                };
                todo.extend(tree.children(node).iter().rev());
                if node != Tree::ROOT {
                    return Some(file(self.0, node, inode, removed));
                }
            }
        }))
    }
}

/// What is at a path, or was last; and whether it is gone.
pub(super) fn ever(tree: &Tree, node: NodeId) -> Option<(&Inode, bool)> {
    let now = tree.now(node);
    let last = now.or_else(|| tree.versions(node).find_map(|(_, inode)| inode))?;
    Some((tree.inode(last), now.is_none()))
}

fn file(contents: &Contents, node: NodeId, inode: &Inode, removed: bool) -> FileData {
    let changes = contents.story(node).into_iter();
    FileData {
        path: path(&contents.tree, node),
        kind: kind_letter(&inode.kind),
        size: inode.size(),
        mode: format!("{:04o}", inode.meta.mode),
        uid: inode.meta.uid,
        gid: inode.meta.gid,
        mtime: inode.meta.mtime.secs,
        target: link_target(&inode.kind),
        digest: inode.digest.map(Digest::from),
        layer: inode.layer + 1,
        removed,
        changes: changes
            .map(|(layer, kind)| ChangeData {
                layer: layer + 1,
                kind: word(kind),
            })
            .collect(),
    }
}

/// What a layer did to a path.
pub(super) fn word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "added",
        ChangeKind::Changed => "changed",
        ChangeKind::Removed => "removed",
        ChangeKind::Same => "same",
    }
}
