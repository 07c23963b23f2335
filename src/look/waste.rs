//! Bytes that an image carries and nobody sees.
//!
//! A layer keeps what later layers overwrite or remove. The score is that of
//! dive: the smallest size that each path ever had (nothing, once it was
//! removed), summed, over all bytes that were written to it, summed; 1 when
//! nothing is wasted. The wasted bytes are those of files that the finished
//! image does not show; dive counts the last one too.

use std::cmp::Reverse;

use super::apply::MAX_NODES;
use super::inodes::InodeSet;
use super::tree::{NodeId, Tree};

/// A path at which bytes are wasted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wasted {
    /// The path.
    pub node: NodeId,
    /// How many files were written there and are not seen.
    pub files: u32,
    /// Their bytes.
    pub bytes: u64,
}

impl Wasted {
    /// Whether it was removed from `tree` in the end.
    pub fn is_removed(&self, tree: &Tree) -> bool {
        tree.now(self.node).is_none()
    }
}

/// What is wasted in an image.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Waste {
    /// Paths at which bytes are wasted, the most first; as many as are wanted.
    pub paths: Paths,
    /// How many such paths there are.
    pub count: usize,
    /// All of their bytes.
    pub bytes: u64,
    /// Bytes of all files of all layers.
    pub written: u64,
    /// Bytes of all files of all layers but the first.
    pub user_written: u64,
    /// From 0 to 1.
    pub efficiency: f64,
}

impl Waste {
    /// The part of the bytes written by all layers but the first that is
    /// wasted, from 0 to 1; 0 when they wrote nothing.
    pub fn user_share(&self) -> f64 {
        match self.user_written {
            0 => 0.0,
            written => self.bytes as f64 / written as f64,
        }
    }
}

/// A list of [`Wasted`].
///
/// An image may have millions of them: eight bytes are one, but for the few
/// that need more.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Paths {
    packed: Vec<u32>,
    /// Files and bytes of those that need more.
    large: Vec<(u32, u64)>,
}

/// Bits of a node's number; those above it have the number of files.
const NODE_BITS: u32 = 26;
const _: () = assert!(MAX_NODES < (1 << NODE_BITS) / 4 * 3);
/// So many files are in [`Paths::large`].
const LARGE: u32 = u32::MAX >> NODE_BITS;

impl Paths {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.packed.len() / 2
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// The one at this place.
    pub fn get(&self, at: usize) -> Option<Wasted> {
        let (pairs, _) = self.packed.as_chunks::<2>();
        pairs
            .get(at)
            .map(|[node, bytes]| self.unpack(*node, *bytes))
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Wasted> {
        let (pairs, _) = self.packed.as_chunks::<2>();
        pairs.iter().map(|[node, bytes]| self.unpack(*node, *bytes))
    }

    fn pack(&mut self, wasted: &Wasted) -> (u32, u32) {
        let (files, bytes) = match u32::try_from(wasted.bytes) {
            Ok(bytes) if wasted.files < LARGE => (wasted.files, bytes),
            _ => {
                self.large.push((wasted.files, wasted.bytes));
                (LARGE, self.large.len() as u32 - 1)
            }
        };
        (wasted.node.0 | files << NODE_BITS, bytes)
    }

    fn unpack(&self, node: u32, bytes: u32) -> Wasted {
        let (files, bytes) = match node >> NODE_BITS {
            LARGE => self.large[bytes as usize],
            files => (files, bytes.into()),
        };
        Wasted {
            node: NodeId(node & ((1 << NODE_BITS) - 1)),
            files,
            bytes,
        }
    }
}

/// Chooses the paths at which most is wasted.
///
/// They come in order. What decides between equal ones is kept beside them, so
/// that they are sorted where they are.
struct Choice {
    /// As in `paths`, with the place in order behind each.
    packed: Vec<u32>,
    paths: Paths,
    count: usize,
    most: usize,
}

/// Paths that are kept beside those that are wanted until there are too many.
const SPARE: usize = 4096;

impl Choice {
    fn add(&mut self, wasted: &Wasted) {
        let (node, bytes) = self.paths.pack(wasted);
        self.packed.extend([node, bytes, self.count as u32]);
        self.count += 1;
        if self.packed.len() / 3 >= self.most.saturating_add(SPARE) {
            self.cut();
        }
    }

    /// Leaves the best, in order.
    fn cut(&mut self) {
        let paths = &self.paths;
        let (all, _) = self.packed.as_chunks_mut::<3>();
        all.sort_unstable_by_key(|[node, bytes, place]| {
            (Reverse(paths.unpack(*node, *bytes).bytes), *place)
        });
        self.packed.truncate(self.most.saturating_mul(3));
    }

    fn finish(mut self) -> (Paths, usize) {
        self.cut();
        let count = self.packed.len() / 3;
        for at in 0..count {
            self.packed.copy_within(at * 3..at * 3 + 2, at * 2);
        }
        self.packed.truncate(count * 2);
        self.packed.shrink_to_fit();
        self.paths.packed = self.packed;
        (self.paths, self.count)
    }
}

/// Finds what is wasted, with the `most` paths at which most is.
pub fn waste(tree: &Tree, most: usize) -> Waste {
    let mut waste = Waste::default();
    let mut choice = Choice {
        packed: Vec::new(),
        paths: Paths::default(),
        count: 0,
        most,
    };
    let (mut smallest_sum, mut written_sum) = (0_u64, 0_u64);
    // A file with several names has its bytes once, and they are wasted when
    // none of them is left.
    let mut seen = InodeSet::default();
    for inode in tree.nodes().filter_map(|n| tree.now(n)) {
        seen.insert(inode);
    }
    let mut counted = InodeSet::default();
    for (node, _) in tree.walk() {
        let (mut smallest, mut written) = (u64::MAX, 0_u64);
        let mut wasted = Wasted {
            node,
            files: 0,
            bytes: 0,
        };
        for (layer, found) in tree.versions(node) {
            let Some(id) = found else {
                smallest = 0;
                continue;
            };
            let size = tree.size(id);
            smallest = smallest.min(size);
            if size == 0 || tree.layer(id) != layer || !counted.insert(id) {
                continue;
            }
            written = written.saturating_add(size);
            waste.written = waste.written.saturating_add(size);
            if layer > 0 {
                waste.user_written = waste.user_written.saturating_add(size);
            }
            if !seen.has(id) {
                wasted.files = wasted.files.saturating_add(1);
                wasted.bytes = wasted.bytes.saturating_add(size);
            }
        }
        smallest_sum = smallest_sum.saturating_add(smallest.min(written));
        written_sum = written_sum.saturating_add(written);
        if wasted.bytes > 0 {
            waste.bytes = waste.bytes.saturating_add(wasted.bytes);
            choice.add(&wasted);
        }
    }
    waste.efficiency = match written_sum {
        0 => 1.0,
        written => smallest_sum as f64 / written as f64,
    };
    (waste.paths, waste.count) = choice.finish();
    waste
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_come_first_and_equal_ones_in_order() {
        let given = |n: u64| Wasted {
            node: NodeId(n as u32 * 3),
            files: if n.is_multiple_of(50) {
                1000
            } else {
                1 + n as u32 % 3
            },
            bytes: 1 + (n * 7919) % 100 + if n.is_multiple_of(70) { 1 << 40 } else { 0 },
        };
        let all = 0..3 * SPARE as u64;
        let mut sorted: Vec<Wasted> = all.clone().map(given).collect();
        sorted.sort_by_key(|wasted| Reverse(wasted.bytes));
        for most in [0, 1, 100, 2 * SPARE, usize::MAX] {
            let mut choice = Choice {
                packed: Vec::new(),
                paths: Paths::default(),
                count: 0,
                most,
            };
            all.clone().for_each(|n| choice.add(&given(n)));
            let (paths, count) = choice.finish();
            assert_eq!(count, sorted.len());
            let wanted = &sorted[..most.min(count)];
            assert_eq!(paths.iter().collect::<Vec<_>>(), wanted);
            assert_eq!(paths.get(0), wanted.first().copied());
            assert_eq!((paths.len(), paths.is_empty()), (wanted.len(), most == 0));
            assert_eq!(paths.get(wanted.len()), None);
        }
    }
}
