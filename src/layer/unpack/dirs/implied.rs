//! Directories that a layer has no entry for.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

use crate::layer::bits::Bits;
use crate::layer::chains::Chains;
use crate::layer::frames::Frames;
use crate::layer::listing::Paths;

/// So many may be gone before the others are put together.
const FEW: usize = 1024;

/// Directories by their inodes, and the paths that they were made at. There may
/// be as many as entries.
#[derive(Debug, Default)]
pub(super) struct Implied {
    paths: Paths,
    /// Their inodes' numbers, the upper halves apart.
    upper: Frames,
    lower: Frames,
    table: Chains,
    hasher: RandomState,
    /// Those that an entry came for later, or another one with the number.
    gone: Bits,
    gone_count: usize,
}

impl Implied {
    fn ino(&self, number: u32) -> u64 {
        let half = |frames: &Frames| u64::from(frames.get(number as usize));
        half(&self.upper) << 32 | half(&self.lower)
    }

    fn hash(&self, ino: u64) -> u32 {
        self.hasher.hash_one(ino) as u32
    }

    /// Adds one. `None` when there are too many.
    pub(super) fn add(&mut self, ino: u64, path: &Path) -> Option<()> {
        // The number of one that was removed may come again.
        self.remove(ino);
        self.tidy()?;
        self.push(ino, path)
    }

    fn push(&mut self, ino: u64, path: &Path) -> Option<()> {
        let number = u32::try_from(self.lower.len()).ok()?;
        self.paths.push(path)?;
        self.upper.push((ino >> 32) as u32);
        self.lower.push(ino as u32);
        self.table.insert(number, self.hash(ino));
        Some(())
    }

    /// There is an entry for it.
    pub(super) fn remove(&mut self, ino: u64) {
        let is_it = |number| self.ino(number) == ino;
        if let Some(number) = self.table.find(self.hash(ino), is_it) {
            self.table.remove(number);
            self.gone.insert(number);
            self.gone_count += 1;
        }
    }

    /// Lets go of those that are gone, if they are many.
    fn tidy(&mut self) -> Option<()> {
        if self.gone_count < FEW.max(self.lower.len() / 2) {
            return Some(());
        }
        let mut left = Self {
            hasher: self.hasher.clone(),
            ..Self::default()
        };
        for (ino, path) in self.iter() {
            left.push(ino, &path)?;
        }
        *self = left;
        Some(())
    }

    /// All that are left.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, PathBuf)> {
        let all = (0..).zip(&self.paths);
        let left = all.filter(|(number, _)| !self.gone.has(*number));
        left.map(|(number, path)| (self.ino(number), path))
    }
}
