//! What a copy finds where it goes to.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::copy::{CopyError, CopyOptions};
use super::copy_planned::At;
use crate::context::{Node, Tree};
use crate::layer::{Kind, Meta};

/// The destination as it was, and how to copy to it.
pub(super) struct Look {
    pub(super) root: Arc<dyn Tree>,
    pub(super) options: CopyOptions,
}

impl Look {
    fn lookup(&self, path: &Path) -> Result<Option<Node>, CopyError> {
        self.root
            .lookup(path, false)
            .map_err(|source| CopyError::Read {
                path: path.to_owned(),
                source,
            })
    }

    /// What the root has at `path`.
    pub(super) fn at(&self, path: &Path) -> Result<At, CopyError> {
        Ok(match self.lookup(path)?.map(|n| n.kind) {
            None => At::Nothing,
            Some(Kind::Dir) => At::Dir,
            Some(Kind::Symlink { target }) => At::Link(target),
            Some(_) => At::Other,
        })
    }

    /// `--chown` and `--chmod` applied.
    pub(super) fn adjusted(&self, mut meta: Meta, is_dir: bool) -> Meta {
        self.owned(&mut meta);
        if let Some(chmod) = &self.options.chmod {
            meta.mode = chmod.apply(meta.mode, is_dir);
        }
        meta
    }

    /// `--chown` applied.
    pub(super) fn owned(&self, meta: &mut Meta) {
        if let Some((uid, gid)) = self.options.chown {
            (meta.uid, meta.gid) = (uid, gid);
        }
    }

    /// The attributes of a directory that the root has.
    pub(super) fn existing(&self, path: &Path) -> Result<Meta, CopyError> {
        let fail = |source| CopyError::Read {
            path: path.to_owned(),
            source,
        };
        let node = self
            .lookup(path)?
            .ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
        let mut meta = node.meta;
        meta.xattrs = self.root.xattrs(path).map_err(fail)?;
        Ok(meta)
    }
}
