//! Lists of small numbers in as few bits as they need.
//!
//! Numbers that a list has side by side are mostly near each other: places of
//! one array in order, the directory that things are in, sizes. Some of them
//! together, a frame, are kept as what they are above the smallest one, in as
//! many bits as the largest takes. A list of numbers that are far apart takes
//! no more than 4 bytes for each, and some hundredths for the frames.

/// Stands for no number.
pub(crate) const NONE: u32 = u32::MAX;
/// Numbers of a frame.
const FRAME: usize = 128;
/// What the bits say of [`NONE`], and of the number before it, which a list
/// may have a meaning for too; all else is above these.
const NONE_CODE: u32 = 0;
const OTHER_CODE: u32 = 1;
const CODES: u32 = 2;

/// [`FRAME`] numbers.
#[derive(Debug, Clone)]
struct Frame {
    /// The smallest one, but for the two that have codes of their own.
    base: u32,
    /// Bits of each.
    width: u8,
    words: Box<[u32]>,
}

/// What stands for `number` where `base` is the smallest; `None` where that is
/// not so, or it would need more than 32 bits.
fn code(number: u32, base: u32) -> Option<u32> {
    match number {
        NONE => Some(NONE_CODE),
        _ if number == NONE - 1 => Some(OTHER_CODE),
        _ => number.checked_sub(base)?.checked_add(CODES),
    }
}

impl Frame {
    fn new(numbers: &[u32; FRAME]) -> Self {
        let usual = numbers.iter().filter(|number| **number < NONE - 1);
        let base = usual.min().copied().unwrap_or_default();
        let codes = numbers.map(|number| code(number, base));
        let most = codes.iter().try_fold(0, |most, code| Some(most | (*code)?));
        // As they are, where codes need more bits than there are.
        let (base, codes, width) = match most {
            Some(most) if most < 1 << 31 => {
                let codes = codes.map(Option::unwrap_or_default);
                (base, codes, 32 - most.leading_zeros())
            }
            _ => (0, *numbers, 32),
        };
        let mut frame = Self {
            base,
            width: width as u8,
            words: vec![0; (width as usize * FRAME).div_ceil(32)].into(),
        };
        for (at, code) in codes.into_iter().enumerate() {
            frame.put(at, code);
        }
        frame
    }

    /// The word that the bits of a number begin in, and how many bits of other
    /// numbers are before them there.
    fn place(&self, at: usize) -> (usize, u32) {
        let bit = at * usize::from(self.width);
        (bit / 32, (bit % 32) as u32)
    }

    fn mask(&self) -> u64 {
        (1 << self.width) - 1
    }

    fn get(&self, at: usize) -> u32 {
        if self.width == 0 {
            return NONE;
        }
        let (word, before) = self.place(at);
        let low = u64::from(self.words[word]);
        let high = u64::from(self.words.get(word + 1).copied().unwrap_or_default());
        let code = ((high << 32 | low) >> before & self.mask()) as u32;
        match code {
            _ if self.width == 32 => code,
            NONE_CODE => NONE,
            OTHER_CODE => NONE - 1,
            code => code - CODES + self.base,
        }
    }

    /// Sets the bits of a number.
    fn put(&mut self, at: usize, code: u32) {
        let (word, before) = self.place(at);
        let (keep, bits) = (!(self.mask() << before), u64::from(code) << before);
        if let Some(low) = self.words.get_mut(word) {
            *low = *low & keep as u32 | bits as u32;
        }
        if let Some(high) = self.words.get_mut(word + 1) {
            *high = *high & (keep >> 32) as u32 | (bits >> 32) as u32;
        }
    }

    fn set(&mut self, at: usize, number: u32) {
        let code = match self.width {
            32 => Some(number),
            _ => code(number, self.base).filter(|code| u64::from(*code) <= self.mask()),
        };
        if let Some(code) = code {
            self.put(at, code);
            return;
        }
        let mut numbers = std::array::from_fn(|at| self.get(at));
        numbers[at] = number;
        *self = Self::new(&numbers);
    }
}

/// A list of numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frames {
    frames: Vec<Frame>,
    /// Those behind the last frame.
    open: Vec<u32>,
}

impl Frames {
    pub(crate) fn len(&self) -> usize {
        self.frames.len() * FRAME + self.open.len()
    }

    /// Panics where there is none, as an array does.
    pub(crate) fn get(&self, at: usize) -> u32 {
        match self.frames.get(at / FRAME) {
            Some(frame) => frame.get(at % FRAME),
            None => self.open[at - self.frames.len() * FRAME],
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len()).map(|at| self.get(at))
    }

    pub(crate) fn push(&mut self, number: u32) {
        // What was pushed last is often changed at once.
        if let Ok(numbers) = <&[u32; FRAME]>::try_from(self.open.as_slice()) {
            self.frames.push(Frame::new(numbers));
            self.open.clear();
        }
        self.open.push(number);
    }

    /// Panics where there is none, as an array does.
    pub(crate) fn set(&mut self, at: usize, number: u32) {
        match self.frames.get_mut(at / FRAME) {
            Some(frame) => frame.set(at % FRAME, number),
            None => self.open[at - self.frames.len() * FRAME] = number,
        }
    }

    /// How many `is_before` takes, which takes none behind one that it does not.
    pub(crate) fn partition_point(&self, is_before: impl Fn(u32) -> bool) -> usize {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from + (to - from) / 2;
            match is_before(self.get(middle)) {
                true => from = middle + 1,
                false => to = middle,
            }
        }
        from
    }

    /// Puts another one there; the one before.
    pub(crate) fn replace(&mut self, at: usize, number: u32) -> u32 {
        let before = self.get(at);
        self.set(at, number);
        before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{FRAME, Frames, NONE};

    #[derive(Debug, Clone)]
    enum Step {
        /// So many that begin here and are so far apart.
        Run(u32, u32, usize),
        Push(u32),
        Set(prop::sample::Index, u32),
    }

    fn number() -> impl Strategy<Value = u32> {
        prop_oneof![
            any::<u32>(),
            0..300_u32,
            1_000_000..1_000_200_u32,
            NONE - 3..=NONE,
            (0..32_u32).prop_map(|bit| 1 << bit),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (number(), 0..3_u32, 0..300_usize).prop_map(|(from, by, n)| Step::Run(from, by, n)),
            number().prop_map(Step::Push),
            (any::<prop::sample::Index>(), number()).prop_map(|(at, n)| Step::Set(at, n)),
            (any::<prop::sample::Index>(), number()).prop_map(|(at, n)| Step::Set(at, n)),
        ]
    }

    proptest! {
        #[test]
        fn numbers_are_as_in_a_vector(steps in prop::collection::vec(step(), 0..60)) {
            let (mut frames, mut list) = (Frames::default(), Vec::new());
            for step in steps {
                match step {
                    Step::Run(from, by, count) => {
                        let run = (0..count as u32).map(|n| from.wrapping_add(n * by));
                        list.extend(run.clone());
                        run.for_each(|number| frames.push(number));
                    }
                    Step::Push(number) => {
                        list.push(number);
                        frames.push(number);
                    }
                    Step::Set(at, number) if !list.is_empty() => {
                        let at = at.index(list.len());
                        let before = std::mem::replace(&mut list[at], number);
                        prop_assert_eq!(frames.replace(at, number), before);
                    }
                    Step::Set(..) => {}
                }
                prop_assert_eq!(frames.len(), list.len());
            }
            prop_assert_eq!(frames.iter().collect::<Vec<_>>(), list);
        }
    }

    #[test]
    fn what_is_near_takes_few_bits() {
        let bytes = |numbers: &dyn Fn(u32) -> u32| {
            let mut frames = Frames::default();
            (0..100 * FRAME as u32).for_each(|n| frames.push(numbers(n)));
            frames
                .frames
                .iter()
                .map(|f| f.words.len() * 4)
                .sum::<usize>()
        };
        let count = 100 * FRAME;
        assert_eq!(bytes(&|_| NONE), 0);
        assert!(bytes(&|n| 3_000_000_000 + n) <= count * 9 / 8);
        assert!(bytes(&|n| if n % 3 == 0 { NONE } else { n }) <= count * 9 / 8);
        assert!(bytes(&|n| n.wrapping_mul(0x9e37_79b9)) <= count * 4);
    }
}
