//! The bytes of lists of entries that are kept: numbers of variable length,
//! fields behind their length, paths as the difference from the one before.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

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
