//! What a finished image has, in the order of paths, kept outside of memory.
//!
//! Two images are compared row by row, and so need not be in memory both, nor
//! either while it is compared.

use std::io;
use std::path::{Path, PathBuf};

use super::inodes::InodeSet;
use super::tree::{Inode, InodeId, NodeId, Origin, Tree};
use crate::layer::bits::Ranked;
use crate::layer::code::{self, Input, to_path};
use crate::layer::frames::NONE;
use crate::layer::index::records::{Attributes, Window, is_sparse, put_attributes, tag};
use crate::layer::index::{Spool, Stored};

/// One path of an image, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Relative; empty for the root.
    pub path: PathBuf,
    /// What is there.
    pub inode: Inode,
    /// Of a file with several names the first one.
    pub first_name: Option<PathBuf>,
}

/// All paths of an image, in order.
#[derive(Debug)]
pub struct Rows {
    stored: Stored,
}

impl Rows {
    /// Those of the finished image that `tree` is of, written to `spool`.
    ///
    /// # Errors
    /// When `spool` can't be written or an index can't be read.
    pub fn of(tree: &Tree, mut spool: Spool) -> io::Result<Self> {
        let links = FirstNames::of(tree);
        let mut last = Vec::new();
        let mut secs = 0;
        for (node, _) in tree.walk() {
            let Some(id) = tree.now(node) else { continue };
            let inode = tree.inode(id)?;
            let origin = inode.origin;
            let out = spool.out();
            let sparse = origin.is_some_and(|o| o.sparse);
            out.push(tag(&inode.kind, &inode.meta, sparse));
            code::path(out, &mut last, &tree.path(node));
            code::number(out, inode.layer as u64);
            out.push(u8::from(origin.is_some()));
            if let Some(origin) = origin {
                for n in [origin.entry, origin.header, origin.data] {
                    code::number(out, n);
                }
            }
            let digest = inode.digest.as_ref();
            put_attributes(out, &mut secs, &inode.kind, &inode.meta, digest)?;
            match links.get(id) {
                Some(first) => {
                    out.push(1);
                    code::field(out, tree.path(first).as_os_str().as_encoded_bytes());
                }
                None => out.push(0),
            }
            spool.settle()?;
        }
        Ok(Self {
            stored: spool.finish()?,
        })
    }

    /// From the first on.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<Row>> {
        let mut window = Window::default();
        let (mut path, mut secs) = (Vec::new(), 0);
        std::iter::from_fn(move || {
            let before = secs;
            let row = window.take(&self.stored, |input| {
                secs = before;
                read(&mut path, &mut secs, input)
            });
            row.transpose()
        })
    }
}

fn read(last: &mut Vec<u8>, secs: &mut i64, input: &mut Input<'_>) -> Option<Row> {
    let tag = input.byte()?;
    input.path(last)?;
    let layer = usize::try_from(input.number()?).ok()?;
    let origin = match input.byte()? {
        0 => None,
        _ => Some(Origin {
            entry: input.number()?,
            header: input.number()?,
            data: input.number()?,
            sparse: is_sparse(tag),
        }),
    };
    let attributes = Attributes::read(tag, secs, input)?;
    let first_name = match input.byte()? {
        0 => None,
        _ => Some(input.path_field()?),
    };
    let (kind, meta, digest) = attributes.to_owned();
    Some(Row {
        path: to_path(last.clone()),
        inode: Inode {
            kind,
            meta,
            digest,
            layer,
            origin,
        },
        first_name,
    })
}

/// The first names of files that have several.
struct FirstNames {
    several: Ranked,
    first: Vec<u32>,
}

impl FirstNames {
    fn of(tree: &Tree) -> Self {
        let (mut seen, mut several) = (InodeSet::default(), InodeSet::default());
        for node in tree.nodes() {
            if let Some(id) = tree.now(node)
                && !tree.is_dir(id)
                && !seen.insert(id)
            {
                several.insert(id);
            }
        }
        let several = Ranked::of(several.0);
        let first = vec![NONE; several.len()];
        let mut names = Self { several, first };
        if !names.first.is_empty() {
            for (node, _) in tree.walk() {
                if let Some(place) = tree.now(node).and_then(|id| names.place(id))
                    && names.first[place] == NONE
                {
                    names.first[place] = node.0;
                }
            }
        }
        names
    }

    fn place(&self, id: InodeId) -> Option<usize> {
        self.several.place(id.entry()?)
    }

    fn get(&self, id: InodeId) -> Option<NodeId> {
        let first = self.first[self.place(id)?];
        (first != NONE).then_some(NodeId(first))
    }
}

/// The order of rows.
pub(super) fn order(a: &Path, b: &Path) -> std::cmp::Ordering {
    crate::layer::path_order(a, b)
}
