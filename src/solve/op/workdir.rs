//! WORKDIR: makes the directory if it is not there.

use std::path::{Path, PathBuf};

use super::super::key::KeyBuilder;
use super::super::{Done, Solver, StepError};
use crate::context::Tree;
use crate::graph::WorkdirOp;
use crate::layer::{Change, Content, Entry, Kind, Meta, Mtime};
use crate::snapshot::users;

pub(in super::super) fn key(op: &WorkdirOp) -> KeyBuilder {
    let mut key = KeyBuilder::new("workdir");
    key.add("path", &op.path).add("user", &op.user);
    key
}

/// The directory with its parents; nothing where it exists.
pub(in super::super) fn workdir(
    solver: &Solver<'_, '_>,
    op: &WorkdirOp,
    parent: &Done,
) -> Result<Vec<Change>, StepError> {
    let tree = solver.look(&parent.layers)?;
    let owner = if op.user.is_empty() {
        (0, 0)
    } else {
        let find = |tree: &dyn Tree| users::resolve_user(tree, &op.user);
        let ids = solver.users(&parent.layers, &*tree, find)?;
        (ids.uid, ids.gid)
    };
    make_dirs(&*tree, Path::new(&op.path), owner, solver.env.options.now)
}

/// Changes that make the directory `path` and its missing parents, all owned
/// by `owner`; parents that exist stand before them as they are.
pub(in super::super) fn make_dirs(
    tree: &dyn Tree,
    path: &Path,
    owner: (u32, u32),
    now: i64,
) -> Result<Vec<Change>, StepError> {
    let fail = || StepError::io(format!("can't look up {} in the image", path.display()));
    let resolved = tree.resolve(path).map_err(fail())?;
    let resolved = resolved.strip_prefix("/").unwrap_or(&resolved);
    let mut changes = Vec::new();
    let mut here = PathBuf::new();
    let mut missing = false;
    for part in resolved.components() {
        here.push(part);
        let node = if missing {
            None
        } else {
            tree.lookup(&here, false).map_err(fail())?
        };
        let meta = match node {
            Some(node) if node.kind == Kind::Dir => Meta {
                xattrs: tree.xattrs(&here).map_err(fail())?,
                ..node.meta
            },
            Some(_) => {
                return Err(StepError::Refused {
                    message: format!(
                        "{} can't be made: {} is no directory",
                        path.display(),
                        here.display()
                    ),
                    hint: None,
                });
            }
            None => {
                missing = true;
                Meta {
                    mode: 0o755,
                    uid: owner.0,
                    gid: owner.1,
                    mtime: Mtime {
                        secs: now,
                        nanos: 0,
                    },
                    ..Meta::default()
                }
            }
        };
        changes.push(Change::Put(
            Entry {
                path: here.clone(),
                kind: Kind::Dir,
                meta,
            },
            Content::None,
        ));
    }
    Ok(if missing { changes } else { Vec::new() })
}
