//! The directory snapshot: one plain tree, and finding what a step changed.
//!
//! Before a step, [`Table::read`] notes the status of every entry of the tree;
//! after it, [`Table::changes`] walks the tree again. An entry whose status is
//! the same, ctime included, was not changed: no program can set a ctime.
//! Every other entry is compared with the lower tree, so only those are read.
//!
//! A change right after the table was made can leave the ctime as it was,
//! because it counts in ticks of the kernel's clock. Entries that were that
//! young are compared as well, as git does it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Stat};

use super::attr;
use super::diff::{Found, Item, Source, assemble, at, root_change, size};
use super::walk::{self, Visit, Visited};
use crate::context::Tree;
use crate::layer::{Change, Mtime};

/// The coarsest clock of kernels that we meet ticks a hundred times a second.
const TICK: Duration = Duration::from_millis(20);

/// What is compared of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    device: u64,
    inode: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    rdev: u64,
    size: i64,
    mtime: Mtime,
    ctime: Mtime,
}

impl Status {
    // The field types differ between architectures.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            mode: stat.st_mode as u32,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev as u64,
            // A directory's size says nothing that its entries don't say.
            size: if attr::file_type(stat).is_dir() {
                0
            } else {
                stat.st_size as i64
            },
            mtime: attr::mtime(stat),
            ctime: Mtime {
                secs: stat.st_ctime as i64,
                nanos: stat.st_ctime_nsec as u32,
            },
        }
    }

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

#[derive(Debug)]
struct Row {
    name: OsString,
    status: Status,
    /// Which of the directory's children it is.
    child: Option<usize>,
}

#[derive(Debug)]
struct Rows {
    /// Sorted by name.
    rows: Vec<Row>,
    first_child: usize,
}

impl Rows {
    fn get(&self, name: &OsStr) -> Option<&Row> {
        let found = self.rows.binary_search_by(|r| r.name.as_os_str().cmp(name));
        found.ok().map(|i| &self.rows[i])
    }
}

/// The status of every entry of a tree at one time.
#[derive(Debug)]
pub struct Table {
    dirs: Vec<Rows>,
    /// Entries changed from here on are compared whatever their status says.
    young: Mtime,
}

impl Table {
    /// Notes the tree `root`.
    ///
    /// # Errors
    /// When a directory can't be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let source = Source::open(root)?;
        let young = young(SystemTime::now());
        let visited = walk::visit_all(PathBuf::new(), |path: PathBuf| {
            let fd = source.open_dir(&path)?;
            let entries = walk::list(fd.as_fd()).map_err(|e| at(&path, e))?;
            let (mut children, mut rows) = (Vec::new(), Vec::with_capacity(entries.len()));
            for (name, stat) in entries {
                let child = attr::file_type(&stat).is_dir().then(|| {
                    children.push(path.join(&name));
                    children.len() - 1
                });
                rows.push(Row {
                    name,
                    status: Status::of(&stat),
                    child,
                });
            }
            Ok(Visit {
                children,
                result: rows,
            })
        })?;
        Ok(Self::of(visited, young))
    }

    fn of(visited: Vec<Visited<Vec<Row>>>, young: Mtime) -> Self {
        let dirs = visited
            .into_iter()
            .map(|v| Rows {
                rows: v.result,
                first_child: v.first_child,
            })
            .collect();
        Self { dirs, young }
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.dirs.iter().map(|d| d.rows.len()).sum()
    }

    /// Whether the tree had no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What changed in `root` since the table was made, when it held what
    /// `lower` holds, and the table for the next time.
    ///
    /// # Errors
    /// When something can't be read.
    pub fn changes(&self, root: &Path, lower: &dyn Tree) -> io::Result<(Vec<Change>, Self)> {
        let source = Source::open(root)?;
        let young = young(SystemTime::now());
        let root = root_change(&source, lower)?;
        let first = Dir {
            path: PathBuf::new(),
            before: Some(0),
        };
        let visited = walk::visit_all(first, |dir| self.visit(&source, lower, dir))?;
        let (mut found, mut rows) = (Vec::new(), Vec::new());
        for Visited {
            first_child,
            result,
        } in visited
        {
            let (result, row) = result;
            found.push(Visited {
                first_child,
                result,
            });
            rows.push(Visited {
                first_child,
                result: row,
            });
        }
        Ok((assemble(&source, found, root), Self::of(rows, young)))
    }

    fn visit(
        &self,
        source: &Source,
        lower: &dyn Tree,
        dir: Dir,
    ) -> io::Result<Visit<Dir, (Found, Vec<Row>)>> {
        let fd = source.open_dir(&dir.path)?;
        let entries = walk::list(fd.as_fd()).map_err(|e| at(&dir.path, e))?;
        let before = dir.before.and_then(|n| self.dirs.get(n));
        let mut found = Found::default();
        let (mut children, mut rows) = (Vec::new(), Vec::with_capacity(entries.len()));
        let mut present = BTreeSet::new();
        for (name, stat) in &entries {
            let status = Status::of(stat);
            let row = before.and_then(|b| b.get(name));
            let is_dir = status.kind().is_dir();
            let child = is_dir.then_some(children.len());
            if status.kind() != FileType::Socket {
                present.insert(name.as_os_str());
                let item = self.compare(source, lower, &fd, &dir.path, (name, stat), row)?;
                if let Some(mut item) = item {
                    item.child = child;
                    found.items.push(item);
                }
            }
            if is_dir {
                let first = before.map(|b| b.first_child);
                let at = row.and_then(|r| r.child);
                children.push(Dir {
                    path: dir.path.join(name),
                    before: first.zip(at).map(|(first, n)| first + n),
                });
            }
            rows.push(Row {
                name: name.clone(),
                status,
                child,
            });
        }
        let was = |row: &&Row| row.status.kind() != FileType::Socket;
        let former = before.map_or(&[][..], |b| &b.rows).iter().filter(was);
        let count = former.clone().count();
        found.gone = former
            .filter(|row| !present.contains(row.name.as_os_str()))
            .map(|row| row.name.clone())
            .collect();
        found.all_gone = found.gone.len() == count;
        Ok(Visit {
            children,
            result: (found, rows),
        })
    }

    /// The entry, if it can be part of the difference: all but those that are
    /// surely unchanged and have one name.
    fn compare(
        &self,
        source: &Source,
        lower: &dyn Tree,
        fd: &OwnedFd,
        dir: &Path,
        (name, stat): (&OsStr, &Stat),
        row: Option<&Row>,
    ) -> io::Result<Option<Item>> {
        let status = Status::of(stat);
        let same = row.is_some_and(|r| r.status == status) && status.ctime < self.young;
        if same && !status.kind().is_dir() && stat.st_nlink <= 1 {
            return Ok(None);
        }
        let path = dir.join(name);
        let fail = |e| at(&path, e);
        let Some(mut item) = Item::read(fd, name, stat).map_err(fail)? else {
            return Ok(None);
        };
        item.meta.xattrs = attr::xattrs(fd.as_fd(), name).map_err(fail)?;
        item.meta.xattrs.retain(|name, _| attr::is_content(name));
        if same {
            item.changed = false;
        } else if row.is_some()
            && let Some(node) = lower.lookup(&path, false)?
        {
            let open = || source.open_file(&path, item.inode, size(&item.kind));
            item.changed = !item.equals(lower, &path, &node, open)?;
        }
        Ok(Some(item))
    }
}

/// A directory of the tree as it is now.
struct Dir {
    path: PathBuf,
    /// Its number in the table, if it was a directory then.
    before: Option<usize>,
}

fn young(now: SystemTime) -> Mtime {
    let since = (now - TICK)
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Mtime {
        secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos(),
    }
}
