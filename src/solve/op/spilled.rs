//! A map from paths to values that may have millions of entries: the ones that
//! came last are in memory, the others in sorted runs in a file.
//!
//! ```text
//! insert ─▶ recent ──when full──▶ run │ run │ … each sorted by path
//! get    ─▶ recent, then the runs, the newest first
//! all    ─▶ one pass through all of them at once; the newest of a path counts
//! ```
//! A run knows between which paths its own are, and has a filter of a few bits
//! for each, so that most lookups of what isn't there read nothing.

use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::layer::code::{Input, field};
use crate::layer::path_order;
use crate::layer::records::{Cursor, NewFile, Records};

/// Values that are kept in memory, and bytes that they may have when packed.
pub(super) const RECENT: usize = 16 << 10;
pub(super) const RECENT_BYTES: usize = 4 << 20;
/// Records of a run from one that can be gone to directly to the next.
const STRIDE: u64 = 32;
/// Bits of a run's filter for each of its paths.
const BITS: usize = 16;
/// Bytes that are read of a run at a time.
const CHUNK: usize = 8 << 10;

/// A value that can wait in a file.
pub(super) trait Packed: Sized {
    /// About how many bytes it has when packed, if that may be many.
    fn weight(&self) -> usize;
    /// Appends its bytes.
    fn pack(&self, out: &mut Vec<u8>);
    /// The value that was packed.
    fn unpack(input: &mut Input<'_>) -> Option<Self>;
}

/// The map.
pub(super) struct Spilled<V> {
    recent: BTreeMap<PathBuf, V>,
    weight: usize,
    /// Those of all runs.
    records: Records,
    runs: Vec<Run>,
    /// Below these paths nothing is left of so many runs.
    gone: HashMap<PathBuf, usize>,
    hasher: RandomState,
}

/// A sorted part of the map.
struct Run {
    count: u64,
    /// Where every so many records begin.
    places: Vec<u64>,
    filter: Vec<u64>,
    first: PathBuf,
    last: PathBuf,
}

/// Whether what a run has at `path` was removed later.
fn is_gone(gone: &HashMap<PathBuf, usize>, path: &Path, run: usize) -> bool {
    !gone.is_empty()
        && (path.ancestors().skip(1)).any(|above| gone.get(above).is_some_and(|n| run < *n))
}

/// The two bits of a filter of `words` that stand for a path.
fn bits(hash: u64, words: usize) -> [(usize, u64); 2] {
    let bit = |hash: u32| {
        let at = hash as usize % (words * 64).max(1);
        (at / 64, 1 << (at % 64))
    };
    [bit(hash as u32), bit((hash >> 32) as u32)]
}

impl Run {
    fn may_have(&self, path: &Path, hash: u64) -> bool {
        path_order(path, &self.first).is_ge()
            && path_order(path, &self.last).is_le()
            && bits(hash, self.filter.len())
                .iter()
                .all(|(word, bit)| self.filter.get(*word).is_some_and(|w| w & bit != 0))
    }

    fn get<V: Packed>(&self, records: &Records, path: &Path) -> io::Result<Option<V>> {
        let mut cursor = Cursor::new(records).by(CHUNK / 4);
        let (mut low, mut high) = (0, self.places.len());
        while high - low > 1 {
            let middle = low.midpoint(high);
            cursor.seek(self.places.get(middle).copied().unwrap_or(0));
            let Some(record) = cursor.next_record()? else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            match path_order(path_of(record)?.0, path).is_le() {
                true => low = middle,
                false => high = middle,
            }
        }
        cursor.seek(self.places.get(low).copied().unwrap_or(0));
        for _ in 0..STRIDE.min(self.count - low as u64 * STRIDE) {
            let Some(record) = cursor.next_record()? else {
                break;
            };
            let (here, mut rest) = path_of(record)?;
            match path_order(here, path) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return value(&mut rest).map(Some),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
    }
}

/// Adds the record of a value; says where it is.
pub(super) fn push<V: Packed>(
    records: &mut Records,
    path: &Path,
    value: &V,
    new_file: NewFile<'_>,
) -> io::Result<u64> {
    records.push(new_file, |out| {
        field(out, path.as_os_str().as_bytes());
        value.pack(out);
    })
}

/// The path that a record begins with, and what is behind it.
fn path_of(record: &[u8]) -> io::Result<(&Path, Input<'_>)> {
    let mut input = Input(record);
    let path = input.field().ok_or(io::ErrorKind::InvalidData)?;
    Ok((Path::new(std::ffi::OsStr::from_bytes(path)), input))
}

fn value<V: Packed>(input: &mut Input<'_>) -> io::Result<V> {
    V::unpack(input).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

impl<V: Packed + Clone + Send + 'static> Spilled<V> {
    pub(super) fn new() -> Self {
        Self {
            recent: BTreeMap::new(),
            weight: 0,
            records: Records::default(),
            runs: Vec::new(),
            gone: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// Sets the value of `path`.
    pub(super) fn insert(
        &mut self,
        path: PathBuf,
        value: V,
        new_file: NewFile<'_>,
    ) -> io::Result<()> {
        self.weight += path.as_os_str().len() + value.weight();
        self.recent.insert(path, value);
        if self.recent.len() >= RECENT || self.weight >= RECENT_BYTES {
            self.spill(new_file)?;
        }
        Ok(())
    }

    fn spill(&mut self, new_file: NewFile<'_>) -> io::Result<()> {
        let recent = std::mem::take(&mut self.recent);
        self.weight = 0;
        let (Some((first, _)), Some((last, _))) =
            (recent.first_key_value(), recent.last_key_value())
        else {
            return Ok(());
        };
        let (first, last) = (first.clone(), last.clone());
        let count = recent.len() as u64;
        let mut places = Vec::with_capacity(recent.len() / STRIDE as usize + 1);
        let mut filter = vec![0_u64; (recent.len() * BITS).div_ceil(64)];
        for ((path, value), number) in recent.into_iter().zip(0_u64..) {
            for (word, bit) in bits(self.hash(&path), filter.len()) {
                if let Some(word) = filter.get_mut(word) {
                    *word |= bit;
                }
            }
            let at = push(&mut self.records, &path, &value, new_file)?;
            if number.is_multiple_of(STRIDE) {
                places.push(at);
            }
        }
        self.runs.push(Run {
            count,
            places,
            filter,
            first,
            last,
        });
        Ok(())
    }

    fn hash(&self, path: &Path) -> u64 {
        self.hasher.hash_one(path.as_os_str().as_bytes())
    }

    /// The value of `path`.
    pub(super) fn get(&self, path: &Path) -> io::Result<Option<V>> {
        if let Some(value) = self.recent.get(path) {
            return Ok(Some(value.clone()));
        }
        if self.runs.is_empty() {
            return Ok(None);
        }
        let hash = self.hash(path);
        for (number, run) in self.runs.iter().enumerate().rev() {
            if run.may_have(path, hash)
                && let Some(value) = run.get(&self.records, path)?
            {
                return Ok((!is_gone(&self.gone, path, number)).then_some(value));
            }
        }
        Ok(None)
    }

    /// Removes all that is below `path`, but not what is there itself.
    pub(super) fn remove_below(&mut self, path: &Path) {
        let from = (Bound::Excluded(path), Bound::Unbounded);
        let below = self.recent.range::<Path, _>(from).map(|(below, _)| below);
        let below: Vec<PathBuf> = below.take_while(|b| b.starts_with(path)).cloned().collect();
        for below in below {
            self.recent.remove(&below);
        }
        if !self.runs.is_empty() {
            self.gone.insert(path.to_owned(), self.runs.len());
        }
    }

    /// All of it, in path order.
    pub(super) fn into_values(self) -> Values<V> {
        let extent = |run: Run| (run.places.first().copied().unwrap_or(0), run.count);
        let runs = self.runs.into_iter().map(extent).collect();
        let mut values = Values::of_all(self.records, runs, self.recent.into_iter());
        (values.gone, values.all) = (self.gone, false);
        values
    }
}

/// What is in memory, in path order.
type Recent<V> = Box<dyn Iterator<Item = (PathBuf, V)> + Send>;

/// Values on their way out, in path order: those of a map, or all that a
/// [`Sorter`](super::sorted::Sorter) has taken.
pub(super) struct Values<V> {
    recent: Recent<V>,
    /// What is left of the runs, and how many records that is.
    runs: Vec<(Cursor<Arc<Records>>, u64)>,
    gone: HashMap<PathBuf, usize>,
    /// Whether all of one path are wanted, the oldest first, or the newest.
    all: bool,
    heads: BinaryHeap<Head<V>>,
    begun: bool,
}

/// What comes next of a run, or of what is in memory.
struct Head<V> {
    path: PathBuf,
    /// The higher, the newer.
    run: usize,
    /// The same, or the other way round.
    rank: usize,
    value: V,
}

impl<V> Ord for Head<V> {
    /// The first in path order is the greatest; of one path, the one that is
    /// wanted first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let order = path_order(&other.path, &self.path);
        order.then(self.rank.cmp(&other.rank))
    }
}

impl<V> PartialOrd for Head<V> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<V> PartialEq for Head<V> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<V> Eq for Head<V> {}

impl<V: Packed> Values<V> {
    /// All of some runs, of which each has so many records from a place on, and
    /// of what came after them.
    pub(super) fn of_all(
        records: Records,
        runs: Vec<(u64, u64)>,
        recent: impl Iterator<Item = (PathBuf, V)> + Send + 'static,
    ) -> Self {
        let records = Arc::new(records);
        let open = |(place, count)| {
            let mut cursor = Cursor::new(Arc::clone(&records)).by(CHUNK);
            cursor.seek(place);
            (cursor, count)
        };
        Self {
            recent: Box::new(recent),
            runs: runs.into_iter().map(open).collect(),
            gone: HashMap::new(),
            all: true,
            heads: BinaryHeap::new(),
            begun: false,
        }
    }

    fn fetch(&mut self, run: usize) -> io::Result<()> {
        let next = match self.runs.get_mut(run) {
            Some((_, 0)) => None,
            Some((cursor, left)) => {
                *left -= 1;
                let record = cursor.next_record()?.ok_or(io::ErrorKind::InvalidData)?;
                let (path, mut rest) = path_of(record)?;
                Some((path.to_owned(), value(&mut rest)?))
            }
            None => self.recent.next(),
        };
        if let Some((path, value)) = next {
            self.heads.push(Head {
                path,
                run,
                rank: if self.all { !run } else { run },
                value,
            });
        }
        Ok(())
    }

    fn take(&mut self) -> io::Result<Option<(PathBuf, V)>> {
        if self.runs.is_empty() {
            return Ok(self.recent.next());
        }
        if !self.begun {
            self.begun = true;
            for run in 0..=self.runs.len() {
                self.fetch(run)?;
            }
        }
        while let Some(head) = self.heads.pop() {
            self.fetch(head.run)?;
            while !self.all && (self.heads.peek()).is_some_and(|older| older.path == head.path) {
                if let Some(older) = self.heads.pop() {
                    self.fetch(older.run)?;
                }
            }
            if !is_gone(&self.gone, &head.path, head.run) {
                return Ok(Some((head.path, head.value)));
            }
        }
        Ok(None)
    }
}

impl<V: Packed> Iterator for Values<V> {
    type Item = io::Result<(PathBuf, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take().transpose()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::layer::code::number;

    impl Packed for u64 {
        fn weight(&self) -> usize {
            8
        }
        fn pack(&self, out: &mut Vec<u8>) {
            number(out, *self);
        }
        fn unpack(input: &mut Input<'_>) -> Option<Self> {
            input.number()
        }
    }

    /// So many paths and numbers, up and down, and some of the paths again.
    pub(in super::super) fn mixed(count: u64) -> impl Iterator<Item = (PathBuf, u64)> {
        (0..count).map(move |n| {
            let name = n.wrapping_mul(7_919) % (count / 2 + 1);
            (PathBuf::from(format!("d{}/n-{name}", name % 7)), n)
        })
    }

    #[test]
    fn what_is_spilled_is_found_and_comes_in_order() {
        for count in [0_u64, 10, 3 * RECENT as u64 + 5] {
            let mut map = Spilled::new();
            let mut known = BTreeMap::new();
            for (path, n) in mixed(count) {
                map.insert(path.clone(), n, &tempfile::tempfile).unwrap();
                known.insert(path, n);
            }
            assert_eq!(map.runs.is_empty(), count < RECENT as u64);
            for (path, n) in known.iter().step_by(17) {
                assert_eq!(map.get(path).unwrap(), Some(*n));
                assert_eq!(map.get(&path.join("below")).unwrap(), None);
            }
            assert_eq!(map.get(Path::new("d3")).unwrap(), None);
            let all: Vec<(PathBuf, u64)> = map.into_values().map(Result::unwrap).collect();
            assert!(all.is_sorted_by(|a, b| path_order(&a.0, &b.0).is_lt()));
            assert_eq!(all.into_iter().collect::<BTreeMap<_, _>>(), known);
        }
    }
}
