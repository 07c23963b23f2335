//! Maps of sparse files: which stretches of a file an archive stores.
//!
//! # Specification
//! The GNU tar manual, "Storing Sparse Files": the old format and PAX formats
//! 0.0, 0.1 and 1.0.

use std::io;

use crate::layer::pax;
use crate::layer::ustar::{self, BLOCK, Block};

/// Offset and length of a stretch that is stored.
pub(super) type Region = (u64, u64);

/// How an entry says that it is sparse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// In its header and blocks behind it.
    Old,
    /// In its extended header (0.0 and 0.1).
    Listed(Vec<Region>),
    /// In front of its data (1.0).
    Leading,
}

/// Why a map can't be read.
#[derive(Debug)]
pub(super) enum SparseError {
    Read(io::Error),
    Malformed(&'static str),
}

impl From<&'static str> for SparseError {
    fn from(reason: &'static str) -> Self {
        Self::Malformed(reason)
    }
}

/// Blocks of a map, as long as there may be more.
pub(super) struct Input<F> {
    budget: u64,
    read: F,
}

impl<F: FnMut(&mut Block) -> io::Result<()>> Input<F> {
    pub(super) fn new(budget: u64, read: F) -> Self {
        Self { budget, read }
    }

    fn block(&mut self) -> Result<Block, SparseError> {
        self.budget = self
            .budget
            .checked_sub(BLOCK as u64)
            .ok_or("the map of a sparse file is larger than 1 MiB")?;
        let mut block = [0; BLOCK];
        (self.read)(&mut block).map_err(SparseError::Read)?;
        Ok(block)
    }
}

impl Form {
    /// The stored stretches. `left` is the size of the stored data; what the
    /// map itself takes of it is subtracted.
    pub(super) fn read<F: FnMut(&mut Block) -> io::Result<()>>(
        self,
        header: &Block,
        input: &mut Input<F>,
        left: &mut u64,
    ) -> Result<Vec<Region>, SparseError> {
        match self {
            Self::Listed(regions) => Ok(regions),
            Self::Old => read_old(header, input),
            Self::Leading => read_leading(input, left),
        }
    }
}

fn read_old<F: FnMut(&mut Block) -> io::Result<()>>(
    header: &Block,
    input: &mut Input<F>,
) -> Result<Vec<Region>, SparseError> {
    const MORE: usize = 504;
    let mut regions = Vec::new();
    let mut open = push_old(ustar::SPARSE.of(header), &mut regions)?;
    let mut more = header[ustar::SPARSE_MORE] != 0;
    while more {
        if !open {
            return Err("the map of a sparse file goes on behind its end".into());
        }
        let block = input.block()?;
        open = push_old(&block[..MORE], &mut regions)?;
        more = block[MORE] != 0;
    }
    Ok(regions)
}

/// Takes pairs of numbers until an empty one; false when it saw that.
fn push_old(bytes: &[u8], regions: &mut Vec<Region>) -> Result<bool, &'static str> {
    for pair in bytes.chunks_exact(24) {
        if pair[12] == 0 {
            return Ok(false);
        }
        let number = |bytes| {
            ustar::number(bytes)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or("the map of a sparse file has a malformed number")
        };
        regions.push((number(&pair[..12])?, number(&pair[12..])?));
    }
    Ok(true)
}

fn read_leading<F: FnMut(&mut Block) -> io::Result<()>>(
    input: &mut Input<F>,
    left: &mut u64,
) -> Result<Vec<Region>, SparseError> {
    let mut buffer: Vec<u8> = Vec::new();
    let mut used = 0;
    let mut number = || -> Result<u64, SparseError> {
        loop {
            let line = &buffer[used..];
            if let Some(end) = line.iter().take(24).position(|b| *b == b'\n') {
                let value = pax::decimal(&line[..end]);
                used += end + 1;
                return Ok(value.ok_or("the map of a sparse file has a malformed number")?);
            }
            if line.len() > 24 {
                return Err("the map of a sparse file has an endless number".into());
            }
            *left = left
                .checked_sub(BLOCK as u64)
                .ok_or("the map of a sparse file is longer than its data")?;
            buffer.drain(..used);
            used = 0;
            buffer.extend_from_slice(&input.block()?);
        }
    };
    let count = number()?;
    let mut regions = Vec::new();
    for _ in 0..count {
        regions.push((number()?, number()?));
    }
    Ok(regions)
}

/// Pairs up the offsets and lengths of formats 0.0 and 0.1.
pub(super) fn pairs(numbers: &[u64]) -> Result<Vec<Region>, &'static str> {
    if numbers.len() % 2 != 0 {
        return Err("the map of a sparse file has an offset without a length");
    }
    Ok(numbers.chunks_exact(2).map(|p| (p[0], p[1])).collect())
}

/// Holds a map to what readers rely on: it ascends, does not overlap, stays
/// inside of the file's `size` and accounts for all `stored` bytes.
pub(super) fn check(regions: &[Region], stored: u64, size: u64) -> Result<(), &'static str> {
    let mut end = 0;
    let mut total: u64 = 0;
    for (offset, len) in regions {
        if *offset < end {
            return Err("the map of a sparse file does not ascend");
        }
        end = offset
            .checked_add(*len)
            .filter(|end| *end <= size)
            .ok_or("the map of a sparse file leaves the file")?;
        total = total.saturating_add(*len);
    }
    if total != stored {
        return Err("the map of a sparse file does not account for its data");
    }
    Ok(())
}
