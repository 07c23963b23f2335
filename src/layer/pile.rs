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

impl std::fmt::Debug for Spools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Spools")
    }
}

/// Bytes; the newest of them are in memory, the others in a file.
#[derive(Debug, Default)]
pub(crate) struct Pile {
    /// Makes the file when there is much for it.
    spools: Spools,
    file: Option<Mapped>,
    /// There is no file, or it can't take more: the rest stays in memory.
    is_full: bool,
    held: Vec<u8>,
}

impl Pile {
    pub(crate) fn new(spools: Spools) -> Self {
        Self {
            spools,
            ..Self::default()
        }
    }

    pub(crate) fn spools(&self) -> Spools {
        self.spools.clone()
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
        if self.held.len() < HELD || self.is_full {
            return;
        }
        if self.file.is_none() {
            self.file = (self.spools.0)().into_file().map(Mapped::new);
        }
        match self.file.as_mut().map(|file| file.add(&self.held)) {
            Some(Ok(())) => self.held.clear(),
            Some(Err(_)) | None => self.is_full = true,
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
        let held = place.checked_sub(self.begin()).map(|at| at as usize);
        match (held, &mut self.file) {
            (Some(at), _) => {
                let old = self.held.get_mut(at..at + bytes.len());
                old.map(|old| old.copy_from_slice(bytes)).is_some()
            }
            (None, Some(file)) => file.set(place, bytes).is_ok(),
            (None, None) => false,
        }
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
    /// Whether they have the same bytes, wherever those lie.
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (self.pieces().flatten(), other.pieces().flatten());
        self.len() == other.len() && one.eq(two)
    }
}

impl Eq for Pile {}
