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
//! never more than [`MAX_ENTRIES`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Node;
use crate::digest::Sha256;
use crate::layer::{Kind, Mtime};

/// Begins every file of entries; changes with their form.
const MAGIC: &[u8; 16] = b"shiplap-stats-1\n";
/// Bytes of one entry.
const ENTRY: usize = 81;
/// Savings that an entry survives without being seen.
const MAX_AGE: u8 = 16;
/// Entries kept: about 80 MB.
const MAX_ENTRIES: usize = 1_000_000;
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

#[derive(Debug)]
struct Entry {
    stamp: Stamp,
    digest: Sha256,
    age: u8,
    seen: AtomicBool,
}

type Known = HashMap<(u64, u64), Entry>;
type Load = Box<dyn FnOnce() -> Option<Vec<u8>> + Send>;

/// Digests of files by their status.
pub struct Stats {
    known: OnceLock<Known>,
    load: Mutex<Option<Load>>,
    learned: Mutex<Vec<(Stamp, Sha256)>>,
}

impl std::fmt::Debug for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.known.get().map(HashMap::len);
        f.debug_struct("Stats").field("known", &known).finish()
    }
}

impl Stats {
    /// Reads what [`to_bytes`](Self::to_bytes) wrote, from what `load` gives
    /// when something is asked for; of anything else, nothing is known.
    pub fn new(load: impl FnOnce() -> Option<Vec<u8>> + Send + 'static) -> Self {
        Self {
            known: OnceLock::new(),
            load: Mutex::new(Some(Box::new(load))),
            learned: Mutex::default(),
        }
    }

    fn known(&self) -> &Known {
        self.known.get_or_init(|| {
            let load = lock(&self.load).take();
            let bytes = load.and_then(|load| load());
            bytes.map_or_else(Known::new, |bytes| parse(&bytes))
        })
    }

    /// The digest of the file's content, and that it has no extended
    /// attributes, if it has not changed since that was found out.
    pub fn get(&self, node: &Node) -> Option<Sha256> {
        let entry = self.known().get(&node.inode)?;
        if Some(entry.stamp) != Stamp::of(node) {
            return None;
        }
        entry.seen.store(true, Ordering::Relaxed);
        Some(entry.digest)
    }

    /// Takes note of the content of a file that has no extended attributes.
    /// Its status was the same before and after it was read; reading began at
    /// `read`.
    pub fn learn(&self, stamp: &Stamp, digest: Sha256, read: SystemTime) {
        if stamp.is_settled(read) {
            lock(&self.learned).push((*stamp, digest));
        }
    }

    /// What is worth keeping, as bytes; `None` when nothing new was learned.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut learned = std::mem::take(&mut *lock(&self.learned));
        if learned.is_empty() {
            return None;
        }
        learned.truncate(MAX_ENTRIES);
        let mut all: HashMap<(u64, u64), (Stamp, Sha256, u8)> = HashMap::new();
        for (stamp, digest) in learned {
            all.insert((stamp.device, stamp.inode), (stamp, digest, 0));
        }
        let mut old: Vec<&Entry> = self.known().values().collect();
        // The youngest first, should there be too many.
        let age = |e: &Entry| match e.seen.load(Ordering::Relaxed) {
            true => 0,
            false => e.age.saturating_add(1),
        };
        old.sort_unstable_by_key(|e| age(e));
        for entry in old {
            let key = (entry.stamp.device, entry.stamp.inode);
            if age(entry) <= MAX_AGE && all.len() < MAX_ENTRIES {
                all.entry(key)
                    .or_insert((entry.stamp, entry.digest, age(entry)));
            }
        }
        let mut all: Vec<_> = all.into_values().collect();
        all.sort_unstable_by_key(|(s, ..)| (s.device, s.inode));
        let mut out = Vec::with_capacity(MAGIC.len() + all.len() * ENTRY);
        out.extend_from_slice(MAGIC);
        for (stamp, digest, age) in &all {
            encode(stamp, digest, *age, &mut out);
        }
        Some(out)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parse(bytes: &[u8]) -> Known {
    let mut known = Known::new();
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return known;
    };
    let (entries, rest) = rest.as_chunks::<ENTRY>();
    if !rest.is_empty() || entries.len() > MAX_ENTRIES {
        return known;
    }
    known.reserve(entries.len());
    for bytes in entries {
        let entry = decode(bytes);
        known.insert((entry.stamp.device, entry.stamp.inode), entry);
    }
    known
}

fn encode(stamp: &Stamp, digest: &Sha256, age: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&stamp.device.to_le_bytes());
    out.extend_from_slice(&stamp.inode.to_le_bytes());
    out.extend_from_slice(&stamp.size.to_le_bytes());
    for time in [stamp.mtime, stamp.ctime] {
        out.extend_from_slice(&time.secs.to_le_bytes());
        out.extend_from_slice(&time.nanos.to_le_bytes());
    }
    out.extend_from_slice(&digest.0);
    out.push(age);
}

fn decode(bytes: &[u8; ENTRY]) -> Entry {
    let mut at = 0;
    let mut long = || {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[at..at + 8]);
        at += 8;
        number
    };
    let (device, inode, size) = (long(), long(), long());
    let time = |at: usize| {
        let (mut secs, mut nanos) = ([0; 8], [0; 4]);
        secs.copy_from_slice(&bytes[at..at + 8]);
        nanos.copy_from_slice(&bytes[at + 8..at + 12]);
        Mtime {
            secs: i64::from_le_bytes(secs),
            nanos: u32::from_le_bytes(nanos),
        }
    };
    let mut digest = [0; 32];
    digest.copy_from_slice(&bytes[48..80]);
    Entry {
        stamp: Stamp {
            device: u64::from_le_bytes(device),
            inode: u64::from_le_bytes(inode),
            size: u64::from_le_bytes(size),
            mtime: time(24),
            ctime: time(36),
        },
        digest: Sha256(digest),
        age: bytes[80],
        seen: AtomicBool::new(false),
    }
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

    fn again(stats: &Stats) -> Stats {
        let bytes = stats.to_bytes();
        Stats::new(move || bytes)
    }

    #[test]
    fn only_the_same_status_is_known() {
        let stats = Stats::new(|| None);
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
            let stats = Stats::new(|| None);
            let mut file = node(1, 5, 2_000);
            file.ctime.nanos = nanos;
            stats.learn(&stamp(&file), digest, at(read));
            assert_eq!(stats.to_bytes().is_some(), kept, "{read} {nanos}");
        }
        // A file from the future is young.
        let stats = Stats::new(|| None);
        stats.learn(&stamp(&node(1, 5, 9_000)), digest, at(3_000));
        assert_eq!(stats.to_bytes(), None);
    }

    #[test]
    fn entries_that_nobody_sees_go_in_time() {
        let mut stats = Stats::new(|| None);
        stats.learn(&stamp(&node(1, 1, 10)), Sha256::of(b"1"), at(99));
        stats.learn(&stamp(&node(2, 2, 10)), Sha256::of(b"2"), at(99));
        stats = again(&stats);
        for round in 0..=u64::from(MAX_AGE) {
            assert!(stats.get(&node(1, 1, 10)).is_some());
            // Nothing is written for its own sake.
            assert_eq!(stats.to_bytes(), None);
            stats.learn(&stamp(&node(3 + round, 1, 10)), Sha256::of(b"3"), at(99));
            stats = again(&stats);
        }
        assert!(stats.get(&node(1, 1, 10)).is_some());
        assert!(stats.get(&node(2, 2, 10)).is_none());
        assert!(stats.get(&node(3 + u64::from(MAX_AGE), 1, 10)).is_some());
    }

    #[test]
    fn other_bytes_say_nothing() {
        let stats = Stats::new(|| None);
        stats.learn(&stamp(&node(1, 1, 10)), Sha256::of(b"1"), at(99));
        let bytes = stats.to_bytes().unwrap();
        for other in [
            bytes[..bytes.len() - 1].to_vec(),
            bytes[1..].to_vec(),
            Vec::new(),
        ] {
            let stats = Stats::new(move || Some(other));
            assert_eq!(stats.get(&node(1, 1, 10)), None);
        }
    }
}
