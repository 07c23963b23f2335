//! Telling what is worth compressing.
//!
//! Pictures, archives and keys look random to deflate, which then works hardest
//! and gains nothing. They are found by their content alone, so that the same
//! bytes are always cut the same way.
//!
//! A page counts as random when its bytes are spread as evenly as chance has
//! it: the sum of the squares of their counts then is near its smallest. What
//! is rejected could not have shrunk by more than some 3 %. Counting takes long,
//! so what follows a random page is counted in samples, and otherwise only told
//! from text by its ends. Evenly spread bytes may still repeat what came before;
//! a long random piece is only left as it is when few of its anchors (positions
//! chosen by the byte there) have been seen within deflate's window.

use std::ops::Range;

/// Bytes that are judged at once.
const PAGE: usize = 512;
/// Bytes at a page's ends that tell that it is text, or nothing but zeros.
const END: usize = 64;
/// In a row of random pages one in so many is counted.
const SAMPLE: usize = 4;
/// With less than this in a row, cutting costs more than it saves.
const SHORTEST: usize = 3072;
/// A tenth more than the sum of squares that random bytes have on average.
const MOST_SQUARES: u32 = (PAGE + PAGE * PAGE / 256) as u32 * 11 / 10;
/// One position in so many is an anchor, by chance.
const ANCHORS: usize = 256;
/// The byte that makes a position one.
const ANCHOR: u8 = 0xa7;
/// Bytes that are searched for anchors at once.
const LANES: usize = 32;
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
    let mut runs: Vec<Piece> = Vec::new();
    for (n, page) in block.chunks(PAGE).enumerate() {
        let begin = n * PAGE;
        let sampled = n.is_multiple_of(SAMPLE) || !runs.last().is_some_and(|run| run.random);
        push(
            &mut runs,
            begin..begin + page.len(),
            is_random(page, sampled),
        );
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

/// Whether a page is random; one that is not `sampled` is as the one before it,
/// unless it looks otherwise.
fn is_random(page: &[u8], sampled: bool) -> bool {
    if page.len() < PAGE || is_text(&page[..END]) {
        return false;
    }
    if !sampled && !is_text(&page[PAGE - END..]) {
        return true;
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
        for begin in range.clone().step_by(LANES) {
            let lanes = &block[begin..range.end.min(begin + LANES)];
            // Without an early end, so that all are compared at once.
            if !lanes.iter().fold(false, |any, b| any | (*b == ANCHOR)) {
                continue;
            }
            for n in (0..lanes.len()).filter(|n| lanes[*n] == ANCHOR) {
                let at = begin + n;
                let Some(bytes) = block[..range.end].get(at..at + 8) else {
                    break;
                };
                let mut word = [0; 8];
                word.copy_from_slice(bytes);
                let hash = u64::from_le_bytes(word).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                let slot = &mut self.seen[hash as usize % Self::SLOTS];
                let before = *slot as usize;
                *slot = at as u32 + 1;
                let near = before > 0 && at + 1 - before <= WINDOW;
                again += usize::from(near && block[before - 1..].starts_with(bytes));
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
    fn what_is_between_samples_is_not_missed_for_long() {
        // Zeros that end a file, as a tar has them, and machine code's kind of bytes.
        let code: Vec<u8> = noise(20_000, 4).iter().map(|b| b & 0xb3).collect();
        for (other, most) in [(vec![0; 1500], END), (code, SAMPLE * PAGE)] {
            for offset in (0..SAMPLE * PAGE).step_by(100) {
                let block = [&noise(8192 + offset, 5)[..], &other, &noise(8192, 6)].concat();
                let taken: usize = (pieces(&block).iter().filter(|p| p.random))
                    .map(|p| {
                        let end = p.range.end.min(8192 + offset + other.len());
                        end.saturating_sub(p.range.start.max(8192 + offset))
                    })
                    .sum();
                assert!(
                    taken <= most,
                    "{taken} of {} bytes at {offset}",
                    other.len()
                );
            }
        }
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
