//! What is known of files that did not change: their digests, found again by
//! what their status says.
//!
//! A file whose device, inode, size, mtime and ctime are those of before has
//! the content of before: every change sets the ctime to the clock's time, and
//! nothing can set it to another. Except within one tick of that clock: a file
//! that was changed just before it was read may be changed again in the same
//! tick and look the same. So what was young when it was read is not kept, as
//! git does it.
//!
//! | kept | why |
//! |---|---|
//! | device and inode | two files may agree in all the rest |
//! | size, mtime | they cost nothing, and catch file systems with a broken ctime |
//! | ctime | the one time that a program can't set back |
//! | SHA-256 of the content | what the entry is for |
//! | that there are no extended attributes to copy | asking for them costs more than the status; a change of them sets the ctime |
//!
//! An entry that was not seen in [`MAX_AGE`] savings is dropped, and there are
//! never more than [`MAX_ENTRIES`]. They stay in their file, sorted by device and
//! inode, and a few blocks of it are in memory: see `stat_table`.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Node;
use super::stat_table::{Entry, Merge, Run, Table, TableWriter};
use crate::digest::Sha256;
use crate::layer::{Kind, Mtime};

/// Savings that an entry survives without being seen.
const MAX_AGE: u8 = 16;
/// Entries kept: about 85 MB.
const MAX_ENTRIES: u64 = 1_000_000;
/// New entries that are held in memory.
const MAX_LEARNED: usize = 50_000;
/// The coarsest clock of file systems that keep whole seconds (FAT has two)…
const COARSE: Duration = Duration::from_millis(2_100);
/// …and of those that keep fractions: a kernel's tick is 10 ms at most.
const FINE: Duration = Duration::from_millis(50);

/// What a file's status says, as far as it shows a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Where it is.
    pub device: u64,
    /// Which one it is there.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// When its content changed.
    pub mtime: Mtime,
    /// When anything about it changed.
    pub ctime: Mtime,
}

impl Stamp {
    /// That of a regular file.
    pub fn of(node: &Node) -> Option<Self> {
        let Kind::File { size } = node.kind else {
            return None;
        };
        Some(Self {
            device: node.inode.0,
            inode: node.inode.1,
            size,
            mtime: node.meta.mtime,
            ctime: node.ctime,
        })
    }

    /// Whether a change after `read` is sure to give another stamp.
    fn is_settled(&self, read: SystemTime) -> bool {
        let tick = if self.ctime.nanos == 0 { COARSE } else { FINE };
        let Ok(secs) = u64::try_from(self.ctime.secs) else {
            return true;
        };
        let changed = UNIX_EPOCH + Duration::new(secs, self.ctime.nanos);
        changed + tick < read
    }
}

type Load = Box<dyn FnOnce() -> Option<File> + Send>;
type NewFile = Box<dyn Fn() -> io::Result<File> + Send + Sync>;

/// Digests of files by their status.
pub struct Stats {
    known: OnceLock<Option<Mutex<Table>>>,
    load: Mutex<Option<Load>>,
    learned: Mutex<Learned>,
    new_file: NewFile,
}

/// What was found out.
#[derive(Default)]
struct Learned {
    recent: Vec<Entry>,
    /// What there was no room for, sorted; the newest last.
    runs: Vec<Run>,
}

impl std::fmt::Debug for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stats")
    }
}

impl Stats {
    /// Reads what [`write`](Self::write) wrote, from the file that `load` gives
    /// when something is asked for; of anything else, nothing is known.
    /// `new_file` makes files for what is too much for the memory.
    pub fn new(
        load: impl FnOnce() -> Option<File> + Send + 'static,
        new_file: impl Fn() -> io::Result<File> + Send + Sync + 'static,
    ) -> Self {
        Self {
            known: OnceLock::new(),
            load: Mutex::new(Some(Box::new(load))),
            learned: Mutex::default(),
            new_file: Box::new(new_file),
        }
    }

    fn known(&self) -> Option<MutexGuard<'_, Table>> {
        let known = self.known.get_or_init(|| {
            let load = lock(&self.load).take();
            let file = load.and_then(|load| load())?;
            Table::open(file).map(Mutex::new)
        });
        known.as_ref().map(lock)
    }

    /// The digest of the file's content, and that it has no extended
    /// attributes, if it has not changed since that was found out.
    pub fn get(&self, node: &Node) -> Option<Sha256> {
        let stamp = Stamp::of(node)?;
        let entry = self.known()?.get(&stamp)?;
        Some(entry.digest)
    }

    /// Takes note of the content of a file that has no extended attributes.
    /// Its status was the same before and after it was read; reading began at
    /// `read`.
    pub fn learn(&self, stamp: &Stamp, digest: Sha256, read: SystemTime) {
        if !stamp.is_settled(read) {
            return;
        }
        let mut learned = lock(&self.learned);
        learned.recent.push(Entry {
            stamp: *stamp,
            digest,
            age: 0,
        });
        if learned.recent.len() >= MAX_LEARNED {
            let recent = std::mem::take(&mut learned.recent);
            let run = (self.new_file)().and_then(|file| Run::write(recent, file));
            // Without it, these files are read again next time.
            learned.runs.extend(run);
        }
    }

    /// Whether something was found out.
    pub fn has_news(&self) -> bool {
        let learned = lock(&self.learned);
        !(learned.recent.is_empty() && learned.runs.is_empty())
    }

    /// Writes what is worth keeping.
    ///
    /// # Errors
    /// When it can't be read back or written.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let learned = std::mem::take(&mut *lock(&self.learned));
        let mut runs = learned.runs;
        runs.push(Run::sorted(learned.recent));
        let new: u64 = runs.iter().map(Run::len).sum();
        let mut out = TableWriter::new(out)?;
        let known = self.known();
        // The youngest, should there be too many.
        let mut left = MAX_ENTRIES.saturating_sub(new);
        let mut oldest = MAX_AGE;
        if let Some(table) = &known
            && table.len() > left
        {
            let mut ages = [0_u64; MAX_AGE as usize + 1];
            for entry in table.iter() {
                if let Some(count) = ages.get_mut(usize::from(entry.age)) {
                    *count += 1;
                }
            }
            let mut total = 0;
            let fits = ages.iter().take_while(|count| {
                total += **count;
                total <= left
            });
            // Of the last age that counts, only some.
            oldest = u8::try_from(fits.count()).unwrap_or(MAX_AGE).min(MAX_AGE);
        }
        let mut merge = Merge::new(runs, known.as_deref())?;
        while let Some((entry, is_new)) = merge.next()? {
            if is_new {
                if out.len() < MAX_ENTRIES {
                    out.push(&entry)?;
                }
            } else if entry.age <= oldest && left > 0 {
                left -= 1;
                out.push(&entry)?;
            }
        }
        out.finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Meta;

    fn node(inode: u64, size: u64, ctime: u64) -> Node {
        let time = Mtime {
            secs: 1_000,
            nanos: 5,
        };
        Node {
            kind: Kind::File { size },
            meta: Meta {
                mtime: time,
                ..Meta::default()
            },
            ctime: Mtime {
                secs: i64::try_from(ctime).unwrap(),
                nanos: 7,
            },
            inode: (1, inode),
            links: 1,
            digest: None,
        }
    }

    fn stamp(node: &Node) -> Stamp {
        Stamp::of(node).unwrap()
    }

    fn at(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn stats(file: Option<File>) -> Stats {
        Stats::new(move || file, tempfile::tempfile)
    }

    fn again(known: &Stats) -> Stats {
        let mut file = tempfile::tempfile().unwrap();
        known.write(&mut file).unwrap();
        stats(Some(file))
    }

    #[test]
    fn only_the_same_status_is_known() {
        let stats = stats(None);
        let digest = Sha256::of(b"x");
        stats.learn(&stamp(&node(1, 5, 2_000)), digest, at(3_000));
        let stats = again(&stats);
        let known = node(1, 5, 2_000);
        assert_eq!(stats.get(&known), Some(digest));
        let mut others = vec![node(2, 5, 2_000), node(1, 6, 2_000), node(1, 5, 2_001)];
        let mut other = known.clone();
        other.inode.0 = 2;
        others.push(other);
        let mut other = known.clone();
        other.meta.mtime.nanos = 6;
        others.push(other);
        let mut other = known.clone();
        other.ctime.nanos = 8;
        others.push(other);
        let mut other = known;
        other.kind = Kind::Dir;
        others.push(other);
        for other in others {
            assert_eq!(stats.get(&other), None, "{other:?}");
        }
    }

    #[test]
    fn what_was_young_is_not_kept() {
        let digest = Sha256::of(b"x");
        for (read, nanos, kept) in [(2_000, 7, false), (2_001, 7, true), (2_001, 0, false)] {
            let stats = stats(None);
            let mut file = node(1, 5, 2_000);
            file.ctime.nanos = nanos;
            stats.learn(&stamp(&file), digest, at(read));
            assert_eq!(stats.has_news(), kept, "{read} {nanos}");
        }
        // A file from the future is young.
        let stats = stats(None);
        stats.learn(&stamp(&node(1, 5, 9_000)), digest, at(3_000));
        assert!(!stats.has_news());
    }

    #[test]
    fn entries_that_nobody_sees_go_in_time() {
        let mut stats = stats(None);
        stats.learn(&stamp(&node(1, 1, 10)), Sha256::of(b"1"), at(99));
        stats.learn(&stamp(&node(2, 2, 10)), Sha256::of(b"2"), at(99));
        stats = again(&stats);
        for round in 0..=u64::from(MAX_AGE) {
            assert!(stats.get(&node(1, 1, 10)).is_some());
            // Nothing is written for its own sake.
            assert!(!stats.has_news());
            stats.learn(&stamp(&node(3 + round, 1, 10)), Sha256::of(b"3"), at(99));
            stats = again(&stats);
        }
        assert!(stats.get(&node(1, 1, 10)).is_some());
        assert!(stats.get(&node(2, 2, 10)).is_none());
        assert!(stats.get(&node(3 + u64::from(MAX_AGE), 1, 10)).is_some());
    }

    #[test]
    fn other_bytes_say_nothing() {
        let known = stats(None);
        known.learn(&stamp(&node(1, 1, 10)), Sha256::of(b"1"), at(99));
        let mut bytes = Vec::new();
        known.write(&mut bytes).unwrap();
        let mut others = vec![
            bytes[..bytes.len() - 1].to_vec(),
            bytes[1..].to_vec(),
            Vec::new(),
        ];
        // Whichever byte is another one.
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            others.push(other);
        }
        for other in others {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&other).unwrap();
            assert_eq!(stats(Some(file)).get(&node(1, 1, 10)), None);
        }
    }

    #[test]
    fn many_are_found_again() {
        let first = stats(None);
        let count = 3 * MAX_LEARNED as u64 + 7;
        // Not in the order of their inodes.
        let inode = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let digest = |n: u64| Sha256::of(&n.to_le_bytes());
        for n in 0..count {
            first.learn(&stamp(&node(inode(n), n, 10)), digest(n), at(99));
        }
        // The same file once more: what was found out last counts.
        first.learn(&stamp(&node(inode(5), 999, 10)), digest(999), at(99));
        let second = again(&first);
        for n in (0..count).filter(|n| *n != 5) {
            assert_eq!(second.get(&node(inode(n), n, 10)), Some(digest(n)));
        }
        assert_eq!(second.get(&node(inode(5), 5, 10)), None);
        assert_eq!(second.get(&node(inode(5), 999, 10)), Some(digest(999)));
        second.learn(&stamp(&node(inode(9), 1, 10)), digest(1), at(99));
        let third = again(&second);
        for n in [0, 9, count / 2, count - 1] {
            let size = if n == 9 { 1 } else { n };
            assert_eq!(third.get(&node(inode(n), size, 10)), Some(digest(size)));
        }
    }
}
