//! Layers that were never unpacked as one tree, without contents.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Merged;
use crate::context::{Node, Tree};
use crate::layer::listing::Listing;
use crate::layer::{Kind, Meta, Mtime};
use crate::sys::fs::components;

/// The kernel's limit on links followed in one resolution.
const MAX_LINKS: usize = 40;

/// What stacked layers make, as far as their listings and the directories
/// below them say: kinds and attributes, and the contents of the few files that
/// listings keep. Directories can't be listed.
#[derive(Debug)]
pub struct Layered {
    /// Lowest first.
    listings: Vec<Arc<Listing>>,
    /// The layers below them.
    bottom: Option<Merged>,
}

impl Layered {
    /// `listings` (lowest first) on top of `bottom`. `None` when what a layer
    /// makes depends on a link of those below it, so that only unpacking tells.
    ///
    /// # Errors
    /// When `bottom` can't be read.
    pub fn new(listings: Vec<Arc<Listing>>, bottom: Option<Merged>) -> io::Result<Option<Self>> {
        let tree = Self { listings, bottom };
        for (number, listing) in tree.listings.iter().enumerate() {
            let mut last = None::<PathBuf>;
            for dir in listing.implied() {
                let known =
                    |above: &Path| last.as_ref().is_some_and(|last| last.starts_with(above));
                for above in dir.ancestors().take_while(|above| !known(above)) {
                    let below = tree.at(above, number)?;
                    if below.is_some_and(|n| matches!(n.kind, Kind::Symlink { .. })) {
                        return Ok(None);
                    }
                }
                last = Some(dir);
            }
        }
        Ok(Some(tree))
    }

    /// What the lowest `height` listings and the bottom have at `path`, which
    /// leads through no links.
    fn at(&self, path: &Path, height: usize) -> io::Result<Option<Node>> {
        if path.as_os_str().is_empty() {
            return Ok(Some(self.root()?));
        }
        let mut implied = false;
        for listing in self.listings.iter().take(height).rev() {
            if let Some(listed) = listing.get(path) {
                if implied && listed.kind != Kind::Dir {
                    return Ok(Some(node(Kind::Dir, implied_meta())));
                }
                return Ok(Some(node(listed.kind.clone(), listed.meta.clone())));
            }
            implied |= listing.implies(path);
            if listing.hides(path) {
                return Ok(implied.then(|| node(Kind::Dir, implied_meta())));
            }
        }
        let below = match &self.bottom {
            Some(bottom) if is_plain(bottom, path)? => bottom.lookup(path, false)?,
            _ => None,
        };
        match below {
            Some(found) if !implied || found.kind == Kind::Dir => {
                let mut found = found;
                if let Some(bottom) = &self.bottom
                    && !matches!(found.kind, Kind::Symlink { .. })
                {
                    found.meta.xattrs = bottom.xattrs(path)?;
                }
                Ok(Some(found))
            }
            _ => Ok(implied.then(|| node(Kind::Dir, implied_meta()))),
        }
    }

    fn root(&self) -> io::Result<Node> {
        for listing in self.listings.iter().rev() {
            if let Some(listed) = listing.get(Path::new("")) {
                return Ok(node(Kind::Dir, listed.meta.clone()));
            }
        }
        let below = match &self.bottom {
            Some(bottom) => bottom.lookup(Path::new(""), false)?,
            None => None,
        };
        Ok(below.unwrap_or_else(|| node(Kind::Dir, implied_meta())))
    }

    /// Follows `path` as far as it exists: where it leads without links, with
    /// what is there.
    fn walk(&self, path: &Path, follow: bool) -> io::Result<(PathBuf, Option<Node>)> {
        let mut todo = components(path);
        let mut here = PathBuf::new();
        let mut found = Some(self.root()?);
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                here.pop();
                found = self.at(&here, self.listings.len())?;
                continue;
            }
            here.push(name);
            let above_is_dir = found.as_ref().is_some_and(|n| n.kind == Kind::Dir);
            found = match above_is_dir {
                true => self.at(&here, self.listings.len())?,
                false => None,
            };
            if let Some(Node {
                kind: Kind::Symlink { target },
                ..
            }) = &found
                && (follow || !todo.is_empty())
            {
                links += 1;
                if links > MAX_LINKS {
                    let message = format!("{}: too many symbolic links", path.display());
                    return Err(io::Error::other(message));
                }
                here.pop();
                if target.has_root() {
                    here.clear();
                }
                for name in components(target).into_iter().rev() {
                    todo.push_front(name);
                }
                found = self.at(&here, self.listings.len())?;
            }
        }
        Ok((here, found))
    }
}

/// Whether all that is above `path` is a directory in `tree`.
fn is_plain(tree: &Merged, path: &Path) -> io::Result<bool> {
    for above in path.ancestors().skip(1) {
        if above.as_os_str().is_empty() {
            break;
        }
        let is_dir = tree
            .lookup(above, false)?
            .is_some_and(|n| n.kind == Kind::Dir);
        if !is_dir {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What unpacking gives a directory that no layer has an entry for.
fn implied_meta() -> Meta {
    Meta {
        mode: 0o755,
        ..Meta::default()
    }
}

fn node(kind: Kind, meta: Meta) -> Node {
    Node {
        kind,
        meta,
        ctime: Mtime::default(),
        inode: (0, 0),
        links: 1,
        digest: None,
    }
}

fn absent(path: &Path) -> io::Error {
    let message = format!("{}: no such file or directory", path.display());
    io::Error::new(io::ErrorKind::NotFound, message)
}

impl Tree for Layered {
    fn lookup(&self, path: &Path, follow: bool) -> io::Result<Option<Node>> {
        let (_, mut found) = self.walk(path, follow)?;
        if let Some(node) = &mut found {
            node.meta.xattrs.clear();
        }
        Ok(found)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, Node)>> {
        let message = format!("{} was not unpacked and can't be listed", path.display());
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        let (resolved, found) = self.walk(path, true)?;
        let Some(found) = found else {
            return Err(absent(path));
        };
        if !matches!(found.kind, Kind::File { .. }) {
            let message = format!("{} is not a regular file", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        for listing in self.listings.iter().rev() {
            if let Some(listed) = listing.get(&resolved) {
                let Some(content) = &listed.content else {
                    let message = format!("{} was not unpacked", path.display());
                    return Err(io::Error::new(io::ErrorKind::Unsupported, message));
                };
                let mut file = tempfile::tempfile()?;
                file.write_all(content)?;
                file.rewind()?;
                return Ok(file);
            }
        }
        match &self.bottom {
            Some(bottom) => bottom.open(&resolved),
            None => Err(absent(path)),
        }
    }

    fn xattrs(&self, path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let (_, found) = self.walk(path, false)?;
        Ok(found.ok_or_else(|| absent(path))?.meta.xattrs)
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(self.walk(path, true)?.0)
    }
}

#[cfg(test)]
#[path = "listed_tests.rs"]
mod tests;
