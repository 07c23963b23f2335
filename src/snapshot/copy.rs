//! The directory snapshot: one plain tree, and finding what a step changed.
//!
//! Before a step, [`Table::read`] notes the status of every entry of the tree;
//! after it, [`Table::changes`] walks the tree again and notes it anew. An entry whose status is
//! the same, ctime included, was not changed: no program can set a ctime.
//! Every other entry is compared with the lower tree, so only those are read.
//!
//! A change right after the table was made can leave the ctime as it was,
//! because it counts in ticks of the kernel's clock. Entries that were that
//! young are compared as well, as git does it.
//!
//! A table has about 20 bytes for each entry: its name and a fingerprint of
//! its status.

use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Stat};

use super::Guess;
use super::attr;
use super::diff::{Diff, Differ, Item, Place, Side, Source, at, root_change, size};
use super::names::{Mark, Names};
use crate::context::{Empty, Tree};
use crate::layer::{Change, Mtime};
use crate::sys::fs::lstat_at;

/// The coarsest clock of kernels that we meet ticks a hundred times a second.
const TICK: Duration = Duration::from_millis(20);

/// What is compared of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
}

/// The entries of one directory, sorted by name. Each is a length, a flag, a
/// fingerprint and the name.
#[derive(Debug, Default)]
struct Rows {
    bytes: Vec<u8>,
    /// Number of the first of its directories; the others follow.
    first_child: usize,
    count: usize,
}

/// One entry of [`Rows`].
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    name: &'a [u8],
    is_dir: bool,
    fingerprint: u64,
}

/// A place in [`Rows`].
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    at: usize,
    /// Directories before it.
    dirs: usize,
}

impl Rows {
    fn push(&mut self, name: &[u8], is_dir: bool, fingerprint: u64) {
        let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.push(u8::from(is_dir));
        self.bytes.extend_from_slice(&fingerprint.to_le_bytes());
        self.bytes.extend_from_slice(name);
        self.count += 1;
    }

    /// The row at `at`, and the place behind it.
    fn get(&self, at: Cursor) -> Option<(Row<'_>, Cursor)> {
        let rest = self.bytes.get(at.at..)?;
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let ([is_dir], rest) = rest.split_first_chunk::<1>()?;
        let (fingerprint, rest) = rest.split_first_chunk::<8>()?;
        let name = rest.get(..usize::from(u16::from_le_bytes(*len)))?;
        let row = Row {
            name,
            is_dir: *is_dir != 0,
            fingerprint: u64::from_le_bytes(*fingerprint),
        };
        let next = Cursor {
            at: at.at + 11 + name.len(),
            dirs: at.dirs + usize::from(row.is_dir),
        };
        Some((row, next))
    }

    fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        let mut at = Cursor::default();
        std::iter::from_fn(move || {
            let (row, next) = self.get(at)?;
            at = next;
            Some(row)
        })
    }
}

/// The status of every entry of a tree at one time.
#[derive(Debug)]
pub struct Table {
    dirs: Vec<Rows>,
    /// Entries changed from here on are compared whatever their status says.
    young: Mtime,
    key: RandomState,
}

impl Table {
    /// Notes the tree `root`.
    ///
    /// # Errors
    /// When a directory can't be read.
    pub fn read(root: &Path) -> io::Result<Self> {
        let source = Source::open(root)?;
        let side = Now::new(None);
        let differ = Arc::new(Differ::new(source, Arc::new(Empty), side));
        let mut walk = differ.walk();
        while let Some(found) = walk.take() {
            found?;
        }
        drop(walk);
        differ.side.table()
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.dirs.iter().map(|d| d.count).sum()
    }

    /// Whether the tree had no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What changed in `root` since the table was made, when it held what
    /// `lower` holds, found while it is asked for. Nothing may change in
    /// `root` until the last content was read. `guess` is for a tree that does
    /// not have everything on disk.
    ///
    /// # Errors
    /// When something can't be read.
    pub fn changes(
        self,
        root: &Path,
        lower: Arc<dyn Tree>,
        guess: Option<Guess>,
    ) -> io::Result<TableChanges> {
        let mut source = Source::open(root)?;
        if let Some(guess) = guess {
            source = source.guessed(guess);
        }
        let change = root_change(&source, &*lower)?;
        let differ = Differ::new(source, lower, Now::new(Some(self)));
        let diff = Diff::new(Arc::new(differ), change)?;
        Ok(TableChanges { diff })
    }
}

/// The stream that [`Table::changes`] begins.
pub struct TableChanges {
    diff: Diff<Now>,
}

impl std::fmt::Debug for TableChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TableChanges")
    }
}

impl Iterator for TableChanges {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        self.diff.next()
    }
}

impl TableChanges {
    /// The table of the tree as it is now, for the next step.
    ///
    /// # Errors
    /// When the stream has not come to its end.
    pub fn finish(self) -> io::Result<Table> {
        let early = || io::Error::other("the changes were not all taken");
        self.diff.into_side().ok_or_else(early)?.side.table()
    }
}

/// A plain tree as a side of the difference, and the table that comes of it.
struct Now {
    before: Option<Arc<Table>>,
    /// The new table, unless this is another look.
    dirs: Option<Mutex<Vec<Rows>>>,
    young: Mtime,
    key: RandomState,
}

/// A directory of the tree as it is now.
struct Dir {
    /// Its number in the table from before, if it was a directory then.
    before: Option<usize>,
    /// Its number in the new table.
    number: usize,
}

/// How far a directory has been looked at.
struct State {
    before: Option<usize>,
    /// Where the name that comes next may be in the rows from before.
    at: Cursor,
    number: usize,
    /// Number of the first of its directories.
    first_child: usize,
    /// Of its directories, how many have been seen, and how many it has.
    children: (usize, usize),
    rows: Rows,
}

impl Now {
    fn new(before: Option<Table>) -> Self {
        let key = before.as_ref().map(|table| table.key.clone());
        Self {
            before: before.map(Arc::new),
            dirs: Some(Mutex::new(vec![Rows::default()])),
            young: young(SystemTime::now()),
            key: key.unwrap_or_default(),
        }
    }

    /// The new table.
    fn table(&self) -> io::Result<Table> {
        let gone = || io::Error::other("there is no new table");
        let dirs = self.dirs.as_ref().ok_or_else(gone)?;
        let mut dirs = dirs.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Table {
            dirs: std::mem::take(&mut *dirs),
            young: self.young,
            key: self.key.clone(),
        })
    }

    fn rows(&self, before: Option<usize>) -> Option<&Rows> {
        self.before.as_ref()?.dirs.get(before?)
    }

    /// The row of `name` from before; names come in their order.
    fn row(&self, state: &mut State, name: &[u8]) -> Option<(u64, Option<usize>)> {
        let rows = self.rows(state.before)?;
        while let Some((row, next)) = rows.get(state.at) {
            if row.name > name {
                return None;
            }
            let child = row.is_dir.then_some(rows.first_child + state.at.dirs);
            state.at = next;
            if row.name == name {
                return Some((row.fingerprint, child));
            }
        }
        None
    }

    /// Notes an entry; its number, for a directory.
    fn note(&self, state: &mut State, name: &OsStr, is_dir: bool, print: u64) -> io::Result<usize> {
        if self.dirs.is_some() {
            state.rows.push(name.as_encoded_bytes(), is_dir, print);
        }
        let (seen, count) = &mut state.children;
        let number = state.first_child + *seen;
        *seen += usize::from(is_dir);
        if *seen > *count {
            return Err(io::Error::other("it changed while it was being read"));
        }
        Ok(number)
    }
}

impl Side for Now {
    type Dir = Dir;
    type State = State;

    fn root(&self) -> Dir {
        Dir {
            before: Some(0),
            number: 0,
        }
    }

    fn again(&self) -> Self {
        Self {
            before: self.before.clone(),
            dirs: None,
            young: self.young,
            key: self.key.clone(),
        }
    }

    fn list(&self, _: &Place<'_>, dir: Dir, names: &mut Names) -> io::Result<(State, bool)> {
        let mut children = 0;
        for n in 0..names.len() {
            match names.kind(n) {
                // No layer has one.
                FileType::Socket => names.set_mark(n, Mark::Nothing),
                FileType::Directory => children += 1,
                _ => {}
            }
        }
        let mut state = State {
            before: dir.before,
            at: Cursor::default(),
            number: dir.number,
            first_child: 0,
            children: (0, children),
            rows: Rows::default(),
        };
        if let Some(dirs) = &self.dirs {
            let mut dirs = dirs.lock().unwrap_or_else(PoisonError::into_inner);
            state.first_child = dirs.len();
            dirs.resize_with(state.first_child + children, Rows::default);
        }
        let mut all_gone = false;
        if let Some(rows) = self.rows(dir.before) {
            let (mut n, here) = (0, names.len());
            for row in rows.iter() {
                while n < here && names.bytes(n) < row.name {
                    n += 1;
                }
                if n == here || names.bytes(n) != row.name {
                    names.push(row.name, FileType::Unknown, Mark::Gone)?;
                } else if names.mark(n) == Mark::Nothing {
                    names.set_mark(n, Mark::Gone);
                }
            }
            names.sort();
            all_gone = names.count(Mark::Gone) == rows.count;
        }
        Ok((state, all_gone))
    }

    fn end(&self, state: State) {
        if let Some(dirs) = &self.dirs {
            let mut rows = state.rows;
            rows.first_child = state.first_child;
            rows.bytes.shrink_to_fit();
            let mut dirs = dirs.lock().unwrap_or_else(PoisonError::into_inner);
            dirs[state.number] = rows;
        }
    }

    fn look(
        &self,
        place: &Place<'_>,
        state: &mut State,
        name: &OsStr,
    ) -> io::Result<Option<(Item, Option<Dir>)>> {
        let fail = |e| at(&place.path.join(name), e);
        let stat = lstat_at(place.fd.as_fd(), name).map_err(fail)?;
        let status = Status::of(&stat);
        let is_dir = attr::file_type(&stat).is_dir();
        let print = self.key.hash_one(status);
        let row = self.row(state, name.as_encoded_bytes());
        let number = self.note(state, name, is_dir, print).map_err(fail)?;
        let child = is_dir.then(|| Dir {
            before: row.and_then(|(_, child)| child),
            number,
        });
        let Some(before) = &self.before else {
            let Some(dir) = child else { return Ok(None) };
            let item = Item::read(place.fd, name, &stat).map_err(fail)?;
            return Ok(item.map(|item| (item, Some(dir))));
        };
        let same = row.is_some_and(|(p, _)| p == print) && status.ctime < before.young;
        if same && !is_dir {
            return Ok(None);
        }
        let Some(mut item) = Item::read(place.fd, name, &stat).map_err(fail)? else {
            return Ok(None);
        };
        item.meta.xattrs = attr::xattrs(place.fd.as_fd(), name).map_err(fail)?;
        item.meta.xattrs.retain(|name, _| attr::is_content(name));
        let path = place.path.join(name);
        let kept = &place.source.1;
        let node = match row.is_some() && (!same || kept.needs_lower()) {
            true => place.lower.lookup(&path, false)?,
            false => None,
        };
        let read = (&mut item.kind, &mut item.meta);
        kept.correct(place.lower, &path, read, node.as_ref())?;
        if same {
            item.changed = false;
        } else if let Some(node) = node {
            let open = || place.source.open_file(&path, item.inode, size(&item.kind));
            item.changed = !item.equals(place.lower, &path, &node, open)?;
        }
        Ok(Some((item, child)))
    }
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
