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
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Stat};

use super::Guess;
use super::attr;
use super::diff::{Diff, Differ, Item, Place, Side, Source, at, root_change, root_entry, size};
use super::kept::Kept;
use super::names::{Mark, Names};
use super::rows::{self, Cursor, Row, Rows};
use crate::context::{Empty, Tree};
use crate::digest::Hasher;
use crate::layer::{Change, Entry, Mtime};
use crate::sys::fs::lstat_at;

/// The coarsest clock of kernels that we meet ticks a hundred times a second.
const TICK: Duration = Duration::from_millis(20);

/// What is compared of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    /// Zero on the root's own file system: numbers of devices are new after
    /// every start of the machine.
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
    fn of(stat: &Stat, root_device: u64) -> Self {
        Self {
            device: stat.st_dev as u64 ^ root_device,
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

    /// Eight bytes that stand for it, here and in other processes.
    fn print(&self) -> u64 {
        let mut bytes = [0; 80];
        let words = [
            self.device,
            self.inode,
            u64::from(self.mode),
            u64::from(self.uid) << 32 | u64::from(self.gid),
            self.rdev,
            self.size as u64,
            self.mtime.secs as u64,
            u64::from(self.mtime.nanos) << 32 | u64::from(self.ctime.nanos),
            self.ctime.secs as u64,
        ];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let mut hasher = Hasher::new();
        hasher.update(&bytes);
        let [a, b, c, d, e, f, g, h, ..] = hasher.finish_raw().0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
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
        let side = Now::new(None, source.device()?);
        Self::walk(source, side)
    }

    /// The same with what each entry is, and the root's entry. Waits until
    /// nothing in `root` is young, so that all that stays as it is will be
    /// known to have.
    pub(super) fn record(root: &Path, kept: Kept) -> io::Result<(Self, Entry)> {
        std::thread::sleep(TICK * 2);
        let source = Source::open(root)?.kept(kept);
        let entry = root_entry(&source, &Empty, None)?;
        let mut side = Now::new(None, source.device()?);
        side.details = true;
        Ok((Self::walk(source, side)?, entry))
    }

    fn walk(source: Source, side: Now) -> io::Result<Self> {
        let differ = Arc::new(Differ::new(source, Arc::new(Empty), side));
        let mut walk = differ.walk();
        while let Some(found) = walk.take() {
            found?;
        }
        drop(walk);
        differ.side.table()
    }

    /// A table that was read from a file.
    pub(super) fn of(dirs: Vec<Rows>, young: Mtime) -> Option<Self> {
        (!dirs.is_empty()).then_some(Self { dirs, young })
    }

    pub(super) fn dirs(&self) -> &[Rows] {
        &self.dirs
    }

    pub(super) fn young(&self) -> Mtime {
        self.young
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
        Arc::new(self).compare(root, lower, guess.map(Kept::Guessed))
    }

    /// [`changes`](Self::changes), where `kept` says what stands for what on
    /// the disk.
    pub(super) fn compare(
        self: Arc<Self>,
        root: &Path,
        lower: Arc<dyn Tree>,
        kept: Option<Kept>,
    ) -> io::Result<TableChanges> {
        let mut source = Source::open(root)?;
        if let Some(kept) = kept {
            source = source.kept(kept);
        }
        let side = Now::new(Some(self), source.device()?);
        Self::stream(source, lower, side)
    }

    /// The same where no new table is wanted.
    pub(super) fn compare_once(
        self: Arc<Self>,
        root: &Path,
        lower: Arc<dyn Tree>,
        kept: Kept,
    ) -> io::Result<TableChanges> {
        let source = Source::open(root)?.kept(kept);
        let side = Now {
            dirs: None,
            ..Now::new(Some(self), source.device()?)
        };
        Self::stream(source, lower, side)
    }

    fn stream(source: Source, lower: Arc<dyn Tree>, side: Now) -> io::Result<TableChanges> {
        let change = root_change(&source, &*lower)?;
        let differ = Differ::new(source, lower, side);
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
    /// That of the root.
    device: u64,
    /// Whether the new table says what each entry is.
    details: bool,
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
    fn new(before: Option<Arc<Table>>, device: u64) -> Self {
        Self {
            before,
            dirs: Some(Mutex::new(vec![Rows::default()])),
            young: young(SystemTime::now()),
            device,
            details: false,
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
    fn note(&self, state: &mut State, row: Row<'_>) -> io::Result<usize> {
        let is_dir = row.is_dir;
        if self.dirs.is_some() {
            state.rows.push(row);
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
            device: self.device,
            details: false,
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
        let status = Status::of(&stat, self.device);
        let is_dir = attr::file_type(&stat).is_dir();
        let print = status.print();
        let row = self.row(state, name.as_encoded_bytes());
        let mut detail = Vec::new();
        if self.details {
            detail = describe(place, name, &stat).map_err(fail)?;
        }
        let new = Row {
            name: name.as_encoded_bytes(),
            is_dir,
            fingerprint: print,
            detail: &detail,
        };
        let number = self.note(state, new).map_err(fail)?;
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

/// What a table that is kept says of the entry `name`.
fn describe(place: &Place<'_>, name: &OsStr, stat: &Stat) -> io::Result<Vec<u8>> {
    let Some(mut item) = Item::read(place.fd, name, stat)? else {
        return Ok(Vec::new());
    };
    item.meta.xattrs = attr::xattrs(place.fd.as_fd(), name)?;
    item.meta.xattrs.retain(|name, _| attr::is_content(name));
    let read = (&mut item.kind, &mut item.meta);
    let path = place.path.join(name);
    place.source.1.correct(place.lower, &path, read, None)?;
    Ok(rows::detail(&item.kind, &item.meta))
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
