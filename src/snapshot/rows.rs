//! The entries of one directory as a [table](super::copy::Table) has them,
//! and what a table that is to be kept says of each beside its status.
//!
//! ```text
//! row     flags u8, fingerprint u64 (little-endian), name [, detail], each
//!         behind its length
//! detail  kind, attributes
//! ```
//! Lengths, kinds and attributes are as in [`layer::code`](crate::layer::code).

use crate::layer::code::{self, Input, field};
use crate::layer::{Kind, Meta};

/// Flags of a row.
const IS_DIR: u8 = 1;
const HAS_DETAIL: u8 = 2;

/// The entries of one directory, sorted by name.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) bytes: Vec<u8>,
    /// Number of the first of its directories; the others follow.
    pub(super) first_child: usize,
    pub(super) count: usize,
}

/// One entry of [`Rows`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) name: &'a [u8],
    pub(super) is_dir: bool,
    pub(super) fingerprint: u64,
    /// Empty where the table is not to be kept.
    pub(super) detail: &'a [u8],
}

/// A place in [`Rows`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor {
    pub(super) at: usize,
    /// Directories before it.
    pub(super) dirs: usize,
}

impl Rows {
    pub(super) fn push(&mut self, row: Row<'_>) {
        let mut flags = if row.is_dir { IS_DIR } else { 0 };
        if !row.detail.is_empty() {
            flags |= HAS_DETAIL;
        }
        self.bytes.push(flags);
        self.bytes.extend_from_slice(&row.fingerprint.to_le_bytes());
        field(&mut self.bytes, row.name);
        if !row.detail.is_empty() {
            field(&mut self.bytes, row.detail);
        }
        self.count += 1;
    }

    /// The row at `at`, and the place behind it.
    pub(super) fn get(&self, at: Cursor) -> Option<(Row<'_>, Cursor)> {
        let mut input = Input(self.bytes.get(at.at..)?);
        let flags = input.byte()?;
        let fingerprint = u64::from_le_bytes(input.array()?);
        let name = input.field()?;
        let detail = match flags & HAS_DETAIL {
            0 => &[][..],
            _ => input.field()?,
        };
        let row = Row {
            name,
            is_dir: flags & IS_DIR != 0,
            fingerprint,
            detail,
        };
        let next = Cursor {
            at: self.bytes.len() - input.0.len(),
            dirs: at.dirs + usize::from(row.is_dir),
        };
        Some((row, next))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        let mut at = Cursor::default();
        std::iter::from_fn(move || {
            let (row, next) = self.get(at)?;
            at = next;
            Some(row)
        })
    }

    /// The places of every `step`th row, the first one's before them.
    pub(super) fn marks(&self, step: usize) -> Vec<Cursor> {
        let mut marks = Vec::new();
        let (mut at, mut number) = (Cursor::default(), 0);
        while let Some((_, next)) = self.get(at) {
            if number % step == 0 {
                marks.push(at);
            }
            number += 1;
            at = next;
        }
        marks
    }

    /// The row of `name`, and the number of its directory, if it is one. It is
    /// not before `from`.
    pub(super) fn find(&self, from: Cursor, name: &[u8]) -> Option<(Row<'_>, Option<usize>)> {
        let mut at = from;
        while let Some((row, next)) = self.get(at) {
            if row.name == name {
                let child = row.is_dir.then_some(self.first_child + at.dirs);
                return Some((row, child));
            }
            if row.name > name {
                break;
            }
            at = next;
        }
        None
    }
}

/// What a table that is kept says of an entry.
pub(super) fn detail(kind: &Kind, meta: &Meta) -> Vec<u8> {
    let mut out = Vec::new();
    match kind {
        // A tree on disk has none: every name is a file.
        Kind::Hardlink { .. } => code::kind(&mut out, &Kind::File { size: 0 }),
        kind => code::kind(&mut out, kind),
    }
    code::meta(&mut out, meta);
    out
}

/// Reads what [`detail`] wrote; `None` for anything else.
pub(super) fn parse_detail(bytes: &[u8]) -> Option<(Kind, Meta)> {
    let mut input = Input(bytes);
    let kind = input.kind()?;
    if matches!(kind, Kind::Hardlink { .. }) {
        return None;
    }
    let meta = input.meta()?;
    input.0.is_empty().then_some((kind, meta))
}
