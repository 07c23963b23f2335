//! The automaton of one pattern.

use std::sync::OnceLock;

use super::Needs;
use super::dfa::Dfa;
use super::parse::Parser;
use crate::context::glob::decode;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Set {
    Char(char),
    NotSlash,
    /// Anything but a line feed.
    Dot,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Set {
    pub(super) fn has(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::NotSlash => c != '/',
            Self::Dot => c != '\n',
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(lo, hi)| *lo <= c && c <= *hi) != *negated
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    One(Set),
    Star(Set),
    /// `(.*/)?`: may be left out.
    Dirs,
    /// Inside of it: only a slash leads out. Always comes after [`Step::Dirs`].
    InDirs,
    Start,
    End,
    /// Between a word's character and another one, or not.
    Boundary(bool),
}

/// What stands between the literal ends.
#[derive(Debug, Clone, PartialEq)]
enum Middle {
    /// `[^/]*`
    NotSlash,
    /// `(.*/)?[^/]*`
    Anything,
    Other,
}

#[derive(Debug, Clone)]
pub(in crate::context) struct Program {
    steps: Vec<Step>,
    prefix: Vec<u8>,
    suffix: Vec<u8>,
    middle: Middle,
    /// Whether a step asks what comes next.
    looks_ahead: bool,
    /// The same automaton as a table, made when it is first needed.
    dfa: OnceLock<Option<Dfa>>,
}

/// When a run through a path has found what it looks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Goal {
    /// At the end of the path.
    End,
    /// There, or before one of its slashes.
    EndOrSlash,
    /// When, at the end, it could go on.
    GoOn,
}

impl Program {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let inner = text.strip_prefix('^')?.strip_suffix('$')?;
        let mut parser = Parser {
            rest: inner,
            steps: Vec::new(),
        };
        parser.run()?;
        let steps = parser.steps;
        let literal = |step: &Step| match step {
            Step::One(Set::Char(c)) if *c != char::REPLACEMENT_CHARACTER => Some(*c),
            _ => None,
        };
        let head = steps.iter().map_while(literal).count();
        let tail = steps[head..].iter().rev().map_while(literal).count();
        let middle = &steps[head..steps.len() - tail];
        let collect = |part: &[Step]| -> Vec<u8> {
            let text: String = part.iter().filter_map(literal).collect();
            text.into_bytes()
        };
        Some(Self {
            prefix: collect(&steps[..head]),
            suffix: collect(&steps[steps.len() - tail..]),
            middle: match middle {
                [Step::Star(Set::NotSlash)] => Middle::NotSlash,
                [Step::Dirs, Step::InDirs, Step::Star(Set::NotSlash)] => Middle::Anything,
                _ => Middle::Other,
            },
            looks_ahead: (steps.iter()).any(|s| matches!(s, Step::End | Step::Boundary(_))),
            dfa: OnceLock::new(),
            steps,
        })
    }

    pub(super) fn covers(&self, path: &[u8], cuts: &[usize]) -> bool {
        let mut ends = cuts.iter().copied().chain([path.len()]);
        if self.middle != Middle::Other || self.looks_ahead {
            return ends.any(|end| self.matches(&path[..end]));
        }
        starts_with(path, &self.prefix)
            && ends.any(|end| ends_with(&path[..end], &self.suffix))
            && self.finds(path, Goal::EndOrSlash)
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        let ends = self.prefix.len() + self.suffix.len();
        if path.len() < ends || !ends_with(path, &self.suffix) || !starts_with(path, &self.prefix) {
            return false;
        }
        let middle = &path[self.prefix.len()..path.len() - self.suffix.len()];
        match self.middle {
            Middle::NotSlash => !middle.contains(&b'/'),
            Middle::Anything if !middle.contains(&b'\n') => true,
            Middle::Anything | Middle::Other => self.finds(path, Goal::End),
        }
    }

    pub(super) fn reaches_below(&self, dir: &[u8]) -> bool {
        let common = self.prefix.len().min(dir.len());
        self.prefix[..common] == dir[..common] && self.run(dir, Goal::GoOn)
    }

    pub(super) fn needs(&self) -> Needs {
        let mut text = String::new();
        for step in &self.steps {
            match step {
                Step::One(Set::Char(c)) if *c != char::REPLACEMENT_CHARACTER => text.push(*c),
                _ => {}
            }
        }
        Needs::of(text.as_bytes(), &self.suffix)
    }

    /// Whether `goal`, which is not [`Goal::GoOn`], is reached in `path`.
    fn finds(&self, path: &[u8], goal: Goal) -> bool {
        let dfa = self.dfa.get_or_init(|| Dfa::build(self));
        match dfa.as_ref().and_then(|dfa| dfa.run(path, goal)) {
            Some(found) => found,
            None => self.run(path, goal),
        }
    }

    /// The steps, from the first state to the last one, which has none.
    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Follows all states through `path` until `goal` is reached.
    fn run(&self, path: &[u8], goal: Goal) -> bool {
        let last = self.steps.len();
        let done = |states: &[u64]| states[last / 64] & (1 << (last % 64)) != 0;
        let words = self.steps.len() / 64 + 1;
        let mut space = [0_u64; 8];
        let mut more = Vec::new();
        let space = if words * 2 <= space.len() {
            &mut space[..words * 2]
        } else {
            more.resize(words * 2, 0);
            &mut more[..]
        };
        let (mut now, mut next) = space.split_at_mut(words);
        let mut at = 0;
        let peek = |at: usize| (at < path.len()).then(|| decode(&path[at..]).0);
        self.enter(now, 0, None, peek(0));
        while at < path.len() {
            let (c, len) = decode(&path[at..]);
            if c == '/' && goal == Goal::EndOrSlash && done(now) {
                return true;
            }
            at += len;
            let after = peek(at);
            next.fill(0);
            for (w, bits) in now.iter().enumerate() {
                let mut bits = *bits;
                while bits != 0 {
                    let i = w * 64 + bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    match self.steps.get(i) {
                        Some(Step::One(set)) if set.has(c) => {
                            self.enter(next, i + 1, Some(c), after);
                        }
                        Some(Step::Star(set)) if set.has(c) => {
                            self.enter(next, i, Some(c), after);
                        }
                        Some(Step::InDirs) if c != '\n' => {
                            set(next, i);
                            if c == '/' {
                                self.enter(next, i + 1, Some(c), after);
                            }
                        }
                        _ => {}
                    }
                }
            }
            std::mem::swap(&mut now, &mut next);
            if now.iter().all(|w| *w == 0) {
                return false;
            }
        }
        if goal != Goal::GoOn {
            return done(now);
        }
        now[last / 64] &= !(1 << (last % 64));
        now.iter().any(|w| *w != 0)
    }

    /// Adds state `i` and all that is reached from it without a character.
    pub(super) fn enter(
        &self,
        states: &mut [u64],
        i: usize,
        before: Option<char>,
        after: Option<char>,
    ) {
        let mut i = i;
        loop {
            if states[i / 64] & (1 << (i % 64)) != 0 {
                return;
            }
            set(states, i);
            let word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
            i += match self.steps.get(i) {
                Some(Step::Star(_)) => 1,
                Some(Step::Dirs) => {
                    set(states, i + 1);
                    2
                }
                Some(Step::Start) if before.is_none() => 1,
                Some(Step::End) if after.is_none() => 1,
                Some(Step::Boundary(wanted)) if (word(before) != word(after)) == *wanted => 1,
                _ => return,
            };
        }
    }
}

pub(super) fn set(states: &mut [u64], i: usize) {
    states[i / 64] |= 1 << (i % 64);
}

/// `starts_with` in the same way.
#[inline]
pub(super) fn starts_with(path: &[u8], start: &[u8]) -> bool {
    match start.first() {
        None => true,
        first => path.first() == first && path.starts_with(start),
    }
}

/// `ends_with` that looks at one byte before it compares, since most often
/// that decides.
#[inline]
pub(super) fn ends_with(path: &[u8], end: &[u8]) -> bool {
    match end.last() {
        None => true,
        last => path.last() == last && path.ends_with(end),
    }
}
