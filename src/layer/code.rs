//! The bytes of lists of entries that are kept: numbers of variable length,
//! fields behind their length, paths as the difference from the one before.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::{Kind, Meta, Mtime};

/// Writes a number in groups of seven bits, the low ones first.
pub(crate) fn number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The same for a number that may be negative.
pub(crate) fn signed(out: &mut Vec<u8>, n: i64) {
    number(out, ((n << 1) ^ (n >> 63)) as u64);
}

pub(crate) fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes `path` as what it has in common with `last`, and the rest; `last`
/// becomes `path`.
pub(crate) fn path(out: &mut Vec<u8>, last: &mut Vec<u8>, path: &Path) {
    let bytes = path.as_os_str().as_bytes();
    let common = std::iter::zip(&*last, bytes).take_while(|(a, b)| a == b);
    let common = common.count();
    number(out, common as u64);
    field(out, &bytes[common..]);
    last.truncate(common);
    last.extend_from_slice(&bytes[common..]);
}

/// Writes what an entry is.
pub(crate) fn kind(out: &mut Vec<u8>, kind: &Kind) {
    let mut numbers = |tag, values: &[u64]| {
        out.push(tag);
        values.iter().for_each(|value| number(out, *value));
    };
    match kind {
        Kind::File { size } => numbers(b'f', &[*size]),
        Kind::Dir => numbers(b'd', &[]),
        Kind::Symlink { target } | Kind::Hardlink { target } => {
            let is_link = matches!(kind, Kind::Symlink { .. });
            numbers(if is_link { b'l' } else { b'h' }, &[]);
            field(out, target.as_os_str().as_bytes());
        }
        Kind::Char { major, minor } => numbers(b'c', &[(*major).into(), (*minor).into()]),
        Kind::Block { major, minor } => numbers(b'b', &[(*major).into(), (*minor).into()]),
        Kind::Fifo => numbers(b'p', &[]),
    }
}

/// Writes an entry's attributes.
pub(crate) fn meta(out: &mut Vec<u8>, meta: &Meta) {
    for value in [meta.mode, meta.uid, meta.gid, meta.mtime.nanos] {
        number(out, value.into());
    }
    signed(out, meta.mtime.secs);
    number(out, meta.xattrs.len() as u64);
    for (name, value) in &meta.xattrs {
        field(out, name);
        field(out, value);
    }
}

/// What is still to be read. `None` from its functions means that the bytes
/// are not what was written.
#[derive(Debug, Clone)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut n = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            n |= bits.checked_shl(shift).filter(|s| s >> shift == bits)?;
            if byte < 0x80 {
                return Some(n);
            }
        }
        None
    }

    pub(crate) fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    pub(crate) fn signed(&mut self) -> Option<i64> {
        let n = self.number()?;
        Some((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    pub(crate) fn field(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?.try_into().ok()?;
        self.take(len)
    }

    /// Turns `last` into the next path.
    pub(crate) fn path(&mut self, last: &mut Vec<u8>) -> Option<()> {
        let common = usize::try_from(self.number()?).ok()?;
        if common > last.len() {
            return None;
        }
        last.truncate(common);
        last.extend_from_slice(self.field()?);
        Some(())
    }

    pub(crate) fn kind(&mut self) -> Option<Kind> {
        Some(match self.byte()? {
            b'f' => Kind::File {
                size: self.number()?,
            },
            b'd' => Kind::Dir,
            b'l' => Kind::Symlink {
                target: self.path_field()?,
            },
            b'h' => Kind::Hardlink {
                target: self.path_field()?,
            },
            b'c' => Kind::Char {
                major: self.small()?,
                minor: self.small()?,
            },
            b'b' => Kind::Block {
                major: self.small()?,
                minor: self.small()?,
            },
            b'p' => Kind::Fifo,
            _ => return None,
        })
    }

    pub(crate) fn meta(&mut self) -> Option<Meta> {
        let (mode, uid, gid) = (self.small()?, self.small()?, self.small()?);
        let nanos = self.small()?;
        let secs = self.signed()?;
        let mut xattrs = BTreeMap::new();
        for _ in 0..self.number()? {
            let name = self.field()?.to_vec();
            xattrs.insert(name, self.field()?.to_vec());
        }
        Some(Meta {
            mode,
            uid,
            gid,
            mtime: Mtime { secs, nanos },
            xattrs,
        })
    }

    pub(crate) fn path_field(&mut self) -> Option<PathBuf> {
        Some(to_path(self.field()?.to_vec()))
    }
}

pub(crate) fn to_path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back() {
        let kinds = [
            Kind::File { size: u64::MAX },
            Kind::Dir,
            Kind::Symlink {
                target: "../t".into(),
            },
            Kind::Hardlink { target: "t".into() },
            Kind::Char {
                major: 5,
                minor: 1_000,
            },
            Kind::Block { major: 8, minor: 0 },
            Kind::Fifo,
        ];
        let attributes = Meta {
            mode: 0o4755,
            uid: u32::MAX,
            gid: 7,
            mtime: Mtime {
                secs: -3,
                nanos: 999_999_999,
            },
            xattrs: BTreeMap::from([(b"user.x".to_vec(), vec![0; 300])]),
        };
        let mut out = Vec::new();
        for one in &kinds {
            kind(&mut out, one);
            meta(&mut out, &attributes);
        }
        let mut input = Input(&out);
        for one in kinds {
            assert_eq!(input.kind(), Some(one));
            assert_eq!(input.meta().as_ref(), Some(&attributes));
        }
        assert_eq!(input.kind(), None);
    }

    #[test]
    fn numbers_come_back() {
        let mut out = Vec::new();
        let numbers = [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            u64::MAX - 1,
            u64::MAX,
        ];
        let negative = [0, -1, 1, i64::MIN, i64::MAX, -64, 63];
        numbers.iter().for_each(|n| number(&mut out, *n));
        negative.iter().for_each(|n| signed(&mut out, *n));
        let mut input = Input(&out);
        numbers
            .iter()
            .for_each(|n| assert_eq!(input.number(), Some(*n)));
        negative
            .iter()
            .for_each(|n| assert_eq!(input.signed(), Some(*n)));
        assert_eq!(input.number(), None);
        for bad in [
            &[0x80][..],
            &[0xff; 11],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert_eq!(Input(bad).number(), None, "{bad:?}");
        }
    }
}
