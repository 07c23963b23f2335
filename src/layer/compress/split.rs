//! Telling what is worth compressing.
//!
//! Pictures, archives and keys look random to deflate, which then works hardest
//! and gains nothing. They are found by their content alone, so that the same
//! bytes are always cut the same way.
//!
//! A page counts as random when its bytes are spread as evenly as chance has
//! it: the sum of the squares of their counts then is near its smallest. What
//! is rejected could not have shrunk by more than some 3 %. Evenly spread bytes
//! may still repeat what came before; a long random piece is only left as it is
//! when few of its anchors (positions chosen by the bytes there) have been seen
//! within deflate's window.

use std::ops::Range;

/// Bytes that are judged at once.
const PAGE: usize = 512;
/// Bytes of a page that tell that it is text.
const BEGINNING: usize = 64;
/// With less than this in a row, cutting costs more than it saves.
const SHORTEST: usize = 3072;
/// A tenth more than the sum of squares that random bytes have on average.
const MOST_SQUARES: u32 = (PAGE + PAGE * PAGE / 256) as u32 * 11 / 10;
/// One position in so many is an anchor.
const ANCHORS: usize = 16;
/// As far as deflate looks back.
const WINDOW: usize = 32 << 10;

/// A part of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it is.
    pub(super) range: Range<usize>,
    /// Whether compressing it is in vain.
    pub(super) random: bool,
}

/// Cuts a block into pieces that are worth compressing and pieces that are not.
/// Together they are the block; there is at least one.
pub(super) fn pieces(block: &[u8]) -> Vec<Piece> {
    let push = |pieces: &mut Vec<Piece>, range: Range<usize>, random| match pieces.last_mut() {
        Some(last) if last.random == random => last.range.end = range.end,
        _ => pieces.push(Piece { range, random }),
    };
    let mut runs = Vec::new();
    for (n, page) in block.chunks(PAGE).enumerate() {
        let begin = n * PAGE;
        push(&mut runs, begin..begin + page.len(), is_random(page));
    }
    let mut pieces = Vec::new();
    let mut anchors = Anchors::default();
    for Piece { range, random } in runs {
        let random = random && range.len() >= SHORTEST && !anchors.repeats(block, range.clone());
        push(&mut pieces, range, random);
    }
    if pieces.is_empty() {
        push(&mut pieces, 0..0, false);
    }
    pieces
}

fn is_random(page: &[u8]) -> bool {
    if page.len() < PAGE || is_text(&page[..BEGINNING]) {
        return false;
    }
    // Four tables: equal neighbours don't wait for each other.
    let mut counts = [[0u16; 256]; 4];
    for four in page.chunks_exact(4) {
        for (table, byte) in counts.iter_mut().zip(four) {
            table[usize::from(*byte)] += 1;
        }
    }
    let [a, b, c, d] = &counts;
    let squares: u32 = (0..256)
        .map(|n| u32::from(a[n] + b[n] + c[n] + d[n]).pow(2))
        .sum();
    squares <= MOST_SQUARES
}

/// Whether chance would never make these bytes: most of text is below 128, half
/// of random bytes. Counting all bytes of a page takes much longer.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().filter(|b| **b >= 128).count() < bytes.len() / 8
}

/// Where anchors of random pieces were seen last.
#[derive(Default)]
struct Anchors {
    /// Positions plus one, by hash; empty until needed.
    seen: Vec<u32>,
}

impl Anchors {
    const SLOTS: usize = 1 << 13;

    /// Whether a good part of `range` was within the window before.
    fn repeats(&mut self, block: &[u8], range: Range<usize>) -> bool {
        if self.seen.is_empty() {
            self.seen = vec![0; Self::SLOTS];
        }
        let mut again = 0;
        for (n, bytes) in block[range.clone()].windows(8).enumerate() {
            let at = range.start + n;
            let mut word = [0; 8];
            word.copy_from_slice(bytes);
            let hash = u64::from_le_bytes(word).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let hash = hash as usize;
            if !hash.is_multiple_of(ANCHORS) {
                continue;
            }
            let slot = &mut self.seen[hash / ANCHORS % Self::SLOTS];
            let before = *slot as usize;
            *slot = at as u32 + 1;
            let near = before > 0 && at + 1 - before <= WINDOW;
            if near && block[before - 1..].starts_with(bytes) {
                again += 1;
            }
        }
        again * ANCHORS > range.len() / 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that no one can compress.
    fn noise(len: usize, mut seed: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    fn random_bytes(block: &[u8]) -> usize {
        let pieces = pieces(block);
        let mut at = 0;
        for piece in &pieces {
            assert_eq!(piece.range.start, at);
            at = piece.range.end;
        }
        assert_eq!(at, block.len());
        let random = pieces.iter().filter(|p| p.random);
        random.map(|p| p.range.len()).sum()
    }

    #[test]
    fn noise_is_found_and_nothing_else() {
        assert_eq!(random_bytes(&[]), 0);
        assert_eq!(random_bytes(&noise(511, 1)), 0);
        assert_eq!(random_bytes(&noise(2560, 1)), 0);
        assert!(random_bytes(&noise(1 << 20, 1)) > (1 << 20) * 99 / 100);
        let text: Vec<u8> = (0..100_000)
            .flat_map(|n| format!("{n}\n").into_bytes())
            .collect();
        assert_eq!(random_bytes(&text), 0);
        // 6 and 7 bits of 8 are worth the work.
        for mask in [0x3f, 0x7f] {
            let bytes: Vec<u8> = noise(1 << 17, 2).iter().map(|b| b & mask).collect();
            assert_eq!(random_bytes(&bytes), 0);
        }
        let floats: Vec<u8> = (noise(1 << 17, 3).chunks_exact(4))
            .flat_map(|b| [b[0], b[1], b[2], 0x3f])
            .collect();
        assert_eq!(random_bytes(&floats), 0);
    }

    #[test]
    fn text_between_noise_is_cut_out() {
        let mut block = Vec::new();
        for seed in 0..10 {
            block.extend(noise(8000, seed));
            block.extend(b"once upon a time ".repeat(500));
        }
        let random = random_bytes(&block);
        assert!((70_000..=80_000).contains(&random), "{random}");
    }

    #[test]
    fn noise_that_repeats_is_compressed() {
        let once = noise(5000, 7);
        let block = once.repeat(20);
        // The first may be taken for random; the rest may not.
        assert!(random_bytes(&block) <= 10_000);
        // Too far back for deflate.
        let block = noise(40_000, 8).repeat(4);
        assert!(random_bytes(&block) > 150_000);
    }
}
