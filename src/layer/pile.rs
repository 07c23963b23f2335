//! Bytes that grow at their end and are read from any place.

use std::sync::Arc;

use super::index::Spool;
use crate::sys::mapped::Mapped;

/// Bytes that are in memory before they go to the file.
pub(super) const HELD: usize = 1 << 20;

/// Makes places for bytes that may be too many for memory.
#[derive(Clone)]
pub struct Spools(Arc<dyn Fn() -> Spool + Send + Sync>);

impl Spools {
    /// Each is made by `make`.
    pub fn new(make: impl Fn() -> Spool + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }
}

impl Default for Spools {
    /// In memory.
    fn default() -> Self {
        Self::new(Spool::memory)
    }
}

impl PartialEq for Spools {
    /// What is kept is the same wherever it lies.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Spools {}

impl std::fmt::Debug for Spools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spools")
    }
}

/// Bytes; the newest of them are in memory, the others in a file.
#[derive(Debug, Default)]
pub(crate) struct Pile {
    file: Option<Mapped>,
    /// Makes the file when there is much for it.
    spools: Option<Spools>,
    /// The file can't take more.
    is_full: bool,
    held: Vec<u8>,
}

impl Pile {
    pub(crate) fn new(spools: Spools) -> Self {
        Self {
            spools: Some(spools),
            ..Self::default()
        }
    }

    /// Where those begin that are in memory.
    pub(super) fn begin(&self) -> u64 {
        self.file.as_ref().map_or(0, Mapped::len)
    }

    pub(crate) fn len(&self) -> u64 {
        self.begin() + self.held.len() as u64
    }

    /// What was written last; more is put behind it.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.held
    }

    /// Says that [`out`](Self::out) may go to the file: what is written from now
    /// on is not read together with it.
    pub(crate) fn settle(&mut self) {
        if self.held.len() < HELD {
            return;
        }
        if let Some(spools) = self.spools.take() {
            self.file = (spools.0)().into_file().map(Mapped::new);
        }
        if let Some(file) = self.file.as_mut().filter(|_| !self.is_full) {
            match file.add(&self.held) {
                Ok(()) => self.held.clear(),
                // The rest stays in memory.
                Err(_) => self.is_full = true,
            }
        }
    }

    /// Lets go of room that only more bytes would need.
    pub(crate) fn finish(&mut self) {
        self.held.shrink_to_fit();
    }

    /// The bytes from a place on, up to the end of what was settled together;
    /// none at the end of all.
    pub(crate) fn from(&self, place: u64) -> &[u8] {
        match (place.checked_sub(self.begin()), &self.file) {
            (Some(at), _) => self.held.get(at as usize..).unwrap_or_default(),
            (None, Some(file)) => file.from(place),
            (None, None) => &[],
        }
    }

    /// Puts `bytes` in the place of those from `place` on, which were settled
    /// together. Whether that could be done.
    pub(crate) fn set(&mut self, place: u64, bytes: &[u8]) -> bool {
        let at = place.checked_sub(self.begin()).map(|at| at as usize);
        let file = match (at, &mut self.file) {
            (None, Some(file)) => return file.set(place, bytes).is_ok(),
            (at, _) => at,
        };
        let old = file.and_then(|at| self.held.get_mut(at..at + bytes.len()));
        old.map(|old| old.copy_from_slice(bytes)).is_some()
    }

    /// All of it, piece by piece.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let piece = self.from(at);
            at += piece.len() as u64;
            (!piece.is_empty()).then_some(piece)
        })
    }
}

impl PartialEq for Pile {
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (self.pieces().flatten(), other.pieces().flatten());
        self.len() == other.len() && one.eq(two)
    }
}

impl Eq for Pile {}
