//! The 512-byte header block and its numbers, for writer and reader.
//!
//! # Specification
//! POSIX.1-2017 `pax`, "ustar Interchange Format"; base-256 numbers as GNU tar
//! writes them.

/// Size of a block; headers and the padding of bodies are multiples of it.
pub(crate) const BLOCK: usize = 512;

/// A header or data block.
pub(crate) type Block = [u8; BLOCK];

/// Where a field is in a header block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    /// First byte.
    pub(crate) at: usize,
    /// Number of bytes.
    pub(crate) len: usize,
}

const fn field(at: usize, len: usize) -> Field {
    Field { at, len }
}

pub(crate) const NAME: Field = field(0, 100);
pub(crate) const MODE: Field = field(100, 8);
pub(crate) const UID: Field = field(108, 8);
pub(crate) const GID: Field = field(116, 8);
pub(crate) const SIZE: Field = field(124, 12);
pub(crate) const MTIME: Field = field(136, 12);
pub(crate) const CHECKSUM: Field = field(148, 8);
pub(crate) const TYPE: usize = 156;
pub(crate) const LINK: Field = field(157, 100);
pub(crate) const MAGIC: Field = field(257, 8);
pub(crate) const MAJOR: Field = field(329, 8);
pub(crate) const MINOR: Field = field(337, 8);
pub(crate) const PREFIX: Field = field(345, 155);
/// Old GNU sparse: four regions, then a flag and the real size.
pub(crate) const SPARSE: Field = field(386, 96);
pub(crate) const SPARSE_MORE: usize = 482;
pub(crate) const SPARSE_SIZE: Field = field(483, 12);

/// The magic and version of a POSIX archive.
pub(crate) const POSIX: &[u8; 8] = b"ustar\x0000";
/// The magic and version of a GNU archive.
pub(crate) const GNU: &[u8; 8] = b"ustar  \0";

impl Field {
    /// The field's bytes in `block`.
    pub(crate) fn of(self, block: &Block) -> &[u8] {
        &block[self.at..self.at + self.len]
    }

    /// The field's bytes up to the first NUL.
    pub(crate) fn text(self, block: &Block) -> &[u8] {
        let bytes = self.of(block);
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        &bytes[..end]
    }

    /// Puts `text` in, cut to the field's length.
    pub(crate) fn put(self, block: &mut Block, text: &[u8]) {
        let n = text.len().min(self.len);
        block[self.at..self.at + n].copy_from_slice(&text[..n]);
    }

    /// The largest number that its octal digits hold.
    pub(crate) const fn max(self) -> u64 {
        (1 << (3 * (self.len - 1))) - 1
    }

    /// Puts `value` in as octal digits and a NUL; the value must not be above
    /// [`max`](Self::max).
    pub(crate) fn put_octal(self, block: &mut Block, mut value: u64) {
        block[self.at + self.len - 1] = 0;
        for at in (self.at..self.at + self.len - 1).rev() {
            block[at] = b'0' + (value & 7) as u8;
            value >>= 3;
        }
    }

    /// The number in it, octal or base-256; empty is 0.
    pub(crate) fn number(self, block: &Block) -> Option<i64> {
        number(self.of(block))
    }
}

/// Reads an octal or base-256 number; `None` for anything else and for what
/// does not fit.
pub(crate) fn number(bytes: &[u8]) -> Option<i64> {
    let first = *bytes.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i64 = if negative { -1 } else { 0 };
        for (i, byte) in bytes.iter().enumerate() {
            let byte = if i == 0 && !negative {
                byte & 0x7f
            } else {
                *byte
            };
            value = value.checked_mul(256)?.checked_add(i64::from(byte))?;
        }
        return Some(value);
    }
    let is_pad = |b: &u8| matches!(b, b' ' | 0);
    let start = bytes.iter().position(|b| !is_pad(b)).unwrap_or(bytes.len());
    let digits = &bytes[start..];
    let end = digits.iter().position(is_pad).unwrap_or(digits.len());
    if !digits[end..].iter().all(|b| is_pad(b)) {
        return None;
    }
    let mut value: i64 = 0;
    for digit in &digits[..end] {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

/// The checksum of a header, the field itself taken as blanks: summed as
/// unsigned and, as some old writers did, as signed bytes.
pub(crate) fn checksums(block: &Block) -> (i64, i64) {
    let blanks = CHECKSUM.at..CHECKSUM.at + CHECKSUM.len;
    block.iter().enumerate().fold((0, 0), |(u, s), (i, byte)| {
        let byte = if blanks.contains(&i) { b' ' } else { *byte };
        (u + i64::from(byte), s + i64::from(byte as i8))
    })
}

/// Computes and stores the checksum.
pub(crate) fn seal(block: &mut Block) {
    let (sum, _) = checksums(block);
    let text = format!("{sum:06o}\0 ");
    CHECKSUM.put(block, text.as_bytes());
}

/// Whether the checksum is right.
pub(crate) fn is_sealed(block: &Block) -> bool {
    let (unsigned, signed) = checksums(block);
    CHECKSUM
        .number(block)
        .is_some_and(|n| n == unsigned || n == signed)
}

/// How many bytes of padding follow a body of `size` bytes.
pub(crate) fn padding(size: u64) -> usize {
    ((BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (bytes, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777", Some(0o7777_7777)),
            (b"644 5   ", None),
            (b"648\0\0\0\0\0", None),
            (b"-1\0\0\0\0\0\0", None),
            (b"+5\0\0\0\0\0\0", None),
            (b"0x10\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
            (b"\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0", None),
            (b"", None),
        ] {
            assert_eq!(number(bytes), value, "{bytes:?}");
        }
    }

    #[test]
    fn octal_round_trips() {
        let mut block = [0; BLOCK];
        for value in [0, 1, 0o777, SIZE.max()] {
            SIZE.put_octal(&mut block, value);
            assert_eq!(SIZE.number(&block), Some(value as i64));
        }
        assert_eq!(SIZE.max(), 8 * (1 << 30) - 1);
        assert!(!is_sealed(&block));
        seal(&mut block);
        assert!(is_sealed(&block));
        assert_eq!((padding(0), padding(1), padding(512)), (0, 511, 0));
    }
}
