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
//! its status. They are in a file, and of those of a directory only a few are in
//! memory at a time.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Stat};

use super::Guess;
use super::attr;
use super::diff::{Diff, Differ, Item, Place, Side, Source, at, root_change, root_entry, size};
use super::kept::Kept;
use super::names::{Mark, Names};
use super::rows::{self, Reader, Row, Rows, Writer};
use crate::context::{Empty, Tree};
use crate::digest::Hasher;
use crate::layer::index::Spool;
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
    rows: Rows,
    /// Entries changed from here on are compared whatever their status says.
    young: Mtime,
}

impl Table {
    /// Notes the tree `root`, in `spool`.
    ///
    /// # Errors
    /// When a directory can't be read, or `spool` not be written.
    pub fn read(root: &Path, spool: Spool) -> io::Result<Self> {
        let source = Source::open(root)?;
        let side = Now::new(None, source.device()?, Some(spool));
        Self::walk(source, side)
    }

    /// The same with what each entry is, and the root's entry. Waits until
    /// nothing in `root` is young, so that all that stays as it is will be
    /// known to have.
    pub(super) fn record(root: &Path, kept: Kept, spool: Spool) -> io::Result<(Self, Entry)> {
        std::thread::sleep(TICK * 2);
        let source = Source::open(root)?.kept(kept);
        let entry = root_entry(&source, &Empty, None)?;
        let mut side = Now::new(None, source.device()?, Some(spool));
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
    pub(super) fn of(rows: Rows, young: Mtime) -> Self {
        Self { rows, young }
    }

    pub(super) fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(super) fn young(&self) -> Mtime {
        self.young
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        usize::try_from(self.rows.len()).unwrap_or(usize::MAX)
    }

    /// Whether the tree had no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What changed in `root` since the table was made, when it held what
    /// `lower` holds, found while it is asked for. Nothing may change in
    /// `root` until the last content was read. `guess` is for a tree that does
    /// not have everything on disk. The new table is in `spool`.
    ///
    /// # Errors
    /// When something can't be read.
    pub fn changes(
        self,
        root: &Path,
        lower: Arc<dyn Tree>,
        guess: Option<Guess>,
        spool: Spool,
    ) -> io::Result<TableChanges> {
        let mut source = Source::open(root)?;
        if let Some(guess) = guess {
            source = source.kept(Kept::Guessed(guess));
        }
        let side = Now::new(Some(Arc::new(self)), source.device()?, Some(spool));
        Self::stream(source, lower, side)
    }

    /// The same where no new table is wanted, and `kept` says what stands for
    /// what on the disk.
    pub(super) fn compare_once(
        self: Arc<Self>,
        root: &Path,
        lower: Arc<dyn Tree>,
        kept: Kept,
    ) -> io::Result<TableChanges> {
        let source = Source::open(root)?.kept(kept);
        let side = Now::new(Some(self), source.device()?, None);
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
    /// When the stream has not come to its end, or the table can't be written.
    pub fn finish(self) -> io::Result<Table> {
        let early = || io::Error::other("the changes were not all taken");
        self.diff.into_side().ok_or_else(early)?.side.table()
    }
}

/// A plain tree as a side of the difference, and the table that comes of it.
struct Now {
    before: Option<Arc<Table>>,
    /// The rows of the new table, if one is wanted.
    rows: Option<Mutex<Writer>>,
    young: Mtime,
    /// That of the root.
    device: u64,
    /// Whether the new table says what each entry is.
    details: bool,
}

/// A directory of the tree as it is now.
struct Dir {
    /// Its number in the table from before, if it was a directory then.
    before: Option<u32>,
    /// Its number in the new table.
    number: u32,
}

/// How far a directory has been looked at.
struct State {
    /// The rows from before, at the first that may have the next name.
    before: Option<Reader>,
    /// Number of the first of its directories.
    first_child: u32,
    /// Of its directories, how many have been seen, and how many it has.
    children: (u32, u32),
    rows: rows::Next,
}

impl Now {
    fn new(before: Option<Arc<Table>>, device: u64, spool: Option<Spool>) -> Self {
        Self {
            before,
            rows: spool.map(|spool| Mutex::new(Writer::new(spool))),
            young: young(SystemTime::now()),
            device,
            details: false,
        }
    }

    /// The new table.
    fn table(&self) -> io::Result<Table> {
        let gone = || io::Error::other("there is no new table");
        let mut rows = lock(self.rows.as_ref().ok_or_else(gone)?);
        Ok(Table {
            rows: std::mem::take(&mut *rows).finish()?,
            young: self.young,
        })
    }

    /// Fingerprint and number of `name` from before; names come in their order.
    fn row(&self, state: &mut State, name: &[u8]) -> io::Result<Option<(u64, Option<u32>)>> {
        let (Some(table), Some(before)) = (&self.before, &mut state.before) else {
            return Ok(None);
        };
        while let Some((row, child)) = before.row(&table.rows)? {
            let (order, fingerprint) = (row.name.cmp(name), row.fingerprint);
            if order == Ordering::Greater {
                break;
            }
            before.advance();
            if order == Ordering::Equal {
                return Ok(Some((fingerprint, child)));
            }
        }
        Ok(None)
    }

    /// Notes an entry; its number, for a directory.
    fn note(&self, state: &mut State, row: Row<'_>) -> io::Result<u32> {
        let is_dir = row.is_dir;
        if let Some(rows) = &self.rows
            && state.rows.push(row)
        {
            lock(rows).put(&mut state.rows)?;
        }
        let (seen, count) = &mut state.children;
        let number = state.first_child + *seen;
        *seen += u32::from(is_dir);
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
            rows: None,
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
            before: dir.before.map(Reader::new),
            first_child: 0,
            children: (0, children),
            rows: rows::Next::new(dir.number),
        };
        if let Some(rows) = &self.rows
            && children > 0
        {
            state.first_child = lock(rows).enter(dir.number, children)?;
        }
        let mut all_gone = false;
        if let (Some(table), Some(before)) = (&self.before, &mut state.before) {
            let (mut n, here, mut count) = (0, names.len(), 0);
            while let Some((row, _)) = before.row(&table.rows)? {
                while n < here && names.bytes(n) < row.name {
                    n += 1;
                }
                if n == here || names.bytes(n) != row.name {
                    names.push(row.name, FileType::Unknown, Mark::Gone)?;
                } else if names.mark(n) == Mark::Nothing {
                    names.set_mark(n, Mark::Gone);
                }
                count += 1;
                before.advance();
            }
            before.rewind();
            names.sort();
            all_gone = names.count(Mark::Gone) == count;
        }
        Ok((state, all_gone))
    }

    fn end(&self, mut state: State) -> io::Result<()> {
        match &self.rows {
            Some(rows) => lock(rows).put(&mut state.rows),
            None => Ok(()),
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
        let row = self.row(state, name.as_encoded_bytes()).map_err(fail)?;
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

fn lock(rows: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    rows.lock().unwrap_or_else(PoisonError::into_inner)
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
