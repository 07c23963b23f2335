//! The entries of one directory as a [table](super::copy::Table) has them,
//! and what a table that is to be kept says of each beside its status.
//!
//! ```text
//! row     length of the name u16, flags u8, fingerprint u64, name
//!         [length u32, detail]
//! detail  kind u8, mode u16, uid u32, gid u32, seconds i64, nanoseconds u32,
//!         of the kind: size u64 | target | major u32, minor u32
//!         count u16 of extended attributes: name, value
//! text    length u32, bytes
//! ```
//! Numbers are little-endian.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::layer::{Kind, Meta, Mtime};

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
        let len = u16::try_from(row.name.len()).unwrap_or(u16::MAX);
        let mut flags = if row.is_dir { IS_DIR } else { 0 };
        if !row.detail.is_empty() {
            flags |= HAS_DETAIL;
        }
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.push(flags);
        self.bytes.extend_from_slice(&row.fingerprint.to_le_bytes());
        self.bytes.extend_from_slice(row.name);
        if !row.detail.is_empty() {
            text(&mut self.bytes, row.detail);
        }
        self.count += 1;
    }

    /// The row at `at`, and the place behind it.
    pub(super) fn get(&self, at: Cursor) -> Option<(Row<'_>, Cursor)> {
        let mut input = Input(self.bytes.get(at.at..)?);
        let len = u16::from_le_bytes(input.array()?);
        let [flags] = input.array()?;
        let fingerprint = u64::from_le_bytes(input.array()?);
        let name = input.take(len.into())?;
        let detail = match flags & HAS_DETAIL {
            0 => &[][..],
            _ => input.text()?,
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

/// Appends `bytes` behind their length.
pub(super) fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// What is left to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?)
    }
}

/// What a table that is kept says of an entry.
pub(super) fn detail(kind: &Kind, meta: &Meta) -> Vec<u8> {
    let tag = match kind {
        Kind::File { .. } | Kind::Hardlink { .. } => b'f',
        Kind::Dir => b'd',
        Kind::Symlink { .. } => b'l',
        Kind::Char { .. } => b'c',
        Kind::Block { .. } => b'b',
        Kind::Fifo => b'p',
    };
    let mut out = vec![tag];
    out.extend_from_slice(&(meta.mode as u16).to_le_bytes());
    out.extend_from_slice(&meta.uid.to_le_bytes());
    out.extend_from_slice(&meta.gid.to_le_bytes());
    out.extend_from_slice(&meta.mtime.secs.to_le_bytes());
    out.extend_from_slice(&meta.mtime.nanos.to_le_bytes());
    match kind {
        Kind::File { size } => out.extend_from_slice(&size.to_le_bytes()),
        // A tree on disk has none: every name is a file.
        Kind::Hardlink { .. } => out.extend_from_slice(&0_u64.to_le_bytes()),
        Kind::Symlink { target } => text(&mut out, target.as_os_str().as_bytes()),
        Kind::Char { major, minor } | Kind::Block { major, minor } => {
            out.extend_from_slice(&major.to_le_bytes());
            out.extend_from_slice(&minor.to_le_bytes());
        }
        Kind::Dir | Kind::Fifo => {}
    }
    let count = u16::try_from(meta.xattrs.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    for (name, value) in meta.xattrs.iter().take(count.into()) {
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

/// Reads what [`detail`] wrote; `None` for anything else.
pub(super) fn parse_detail(bytes: &[u8]) -> Option<(Kind, Meta)> {
    let mut input = Input(bytes);
    let [tag] = input.array()?;
    let mode = u16::from_le_bytes(input.array()?).into();
    let (uid, gid) = (input.u32()?, input.u32()?);
    let mtime = Mtime {
        secs: i64::from_le_bytes(input.array()?),
        nanos: input.u32()?,
    };
    let kind = match tag {
        b'f' => Kind::File { size: input.u64()? },
        b'd' => Kind::Dir,
        b'l' => Kind::Symlink {
            target: PathBuf::from(OsStr::from_bytes(input.text()?)),
        },
        b'c' => Kind::Char {
            major: input.u32()?,
            minor: input.u32()?,
        },
        b'b' => Kind::Block {
            major: input.u32()?,
            minor: input.u32()?,
        },
        b'p' => Kind::Fifo,
        _ => return None,
    };
    let mut xattrs = BTreeMap::new();
    for _ in 0..u16::from_le_bytes(input.array()?) {
        let name = input.text()?.to_vec();
        xattrs.insert(name, input.text()?.to_vec());
    }
    let meta = Meta {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    };
    input.0.is_empty().then_some((kind, meta))
}
