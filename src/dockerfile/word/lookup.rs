//! Variables, and how often they may be looked at.

use std::cell::Cell;

/// Where the values of variables come from.
pub trait Lookup {
    /// The value of a variable.
    fn value(&self, name: &str) -> Option<String>;

    /// Whether `work` more may be done, counted in bytes of values that are
    /// looked at. A short word can look at a long value, so the words of a file
    /// together are not bounded by what each of them may take.
    fn afford(&self, work: usize) -> bool {
        let _ = work;
        true
    }
}

impl<F: Fn(&str) -> Option<String>> Lookup for F {
    fn value(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// How much [work](Lookup::afford) the words of a file may make.
#[derive(Debug)]
pub struct Meter(Cell<usize>);

impl Meter {
    /// Bytes of values that may be looked at.
    pub(super) const WORK: usize = 64 << 20;

    /// A [`Lookup`] that counts.
    pub fn count<F: Fn(&str) -> Option<String>>(&self, get: F) -> Metered<'_, F> {
        Metered { meter: self, get }
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self(Cell::new(Self::WORK))
    }
}

/// A [`Lookup`] that counts.
#[derive(Debug)]
pub struct Metered<'m, F> {
    meter: &'m Meter,
    get: F,
}

impl<F: Fn(&str) -> Option<String>> Lookup for Metered<'_, F> {
    fn value(&self, name: &str) -> Option<String> {
        (self.get)(name)
    }

    fn afford(&self, work: usize) -> bool {
        let left = self.meter.0.get().checked_sub(work);
        self.meter.0.set(left.unwrap_or(0));
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::word::{WordProblem, expand};

    #[test]
    fn short_words_do_not_look_at_long_values_for_ever() {
        let meter = Meter::default();
        let long = "a".repeat(1 << 20);
        let lookup = meter.count(|_: &str| Some(long.clone()));
        for text in ["${a:+b}", "${a##*}", "${a%b*c}"] {
            let problem = (0..100).find_map(|_| expand(text, '\\', &lookup).err());
            assert_eq!(
                problem.map(|e| e.problem),
                Some(WordProblem::Work),
                "{text}"
            );
        }
    }
}
