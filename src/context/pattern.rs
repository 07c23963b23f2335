//! One pattern of an ignore file, compiled.
//!
//! Most patterns need no more than a comparison; the others become a small
//! automaton whose states are all followed at once, so that the time is
//! bounded by length of name times length of pattern, whatever the pattern.
//! Literal text at its two ends is compared first and decides most names.
//!
//! # Specification
//! The Dockerfile reference says that the rules are those of Go's
//! `filepath.Match` plus `**`. What that leaves open is decided as the
//! reference implementation does, which goes through a regular expression:
//! [`translate`] gives that expression, and a class such as `[^a]` matches a
//! slash because it does so there.

mod dfa;
mod parse;
mod program;

use self::program::{Program, ends_with, starts_with};
use super::glob::decode;

/// How a pattern is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// The path is the pattern.
    Exact,
    /// `text/**`: the path starts with the pattern without the `**`.
    Prefix,
    /// `**text`: the path ends with the rest, or is it without its slash.
    Suffix,
    /// The path matches this expression.
    Regexp(String),
}

/// The form of a cleaned pattern.
pub fn translate(pattern: &[u8]) -> Form {
    let mut out = String::from("^");
    let mut form = Form::Exact;
    let regexp = || Form::Regexp(String::new());
    let mut at = 0;
    let mut first = true;
    while at < pattern.len() {
        let (c, len) = decode(&pattern[at..]);
        at += len;
        match c {
            '*' if pattern.get(at) == Some(&b'*') => {
                at += 1;
                // `**/` is taken as `**`: it may stand for no directory at all.
                at += usize::from(pattern.get(at) == Some(&b'/'));
                if at < pattern.len() {
                    out.push_str("(.*/)?");
                    form = regexp();
                } else if form == Form::Exact {
                    form = Form::Prefix;
                } else {
                    out.push_str(".*");
                    form = regexp();
                }
                if first {
                    form = Form::Suffix;
                }
            }
            '*' => {
                out.push_str("[^/]*");
                form = regexp();
            }
            '?' => {
                out.push_str("[^/]");
                form = regexp();
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                out.push('\\');
                out.push(c);
            }
            '\\' => {
                out.push('\\');
                if at < pattern.len() {
                    let (next, len) = decode(&pattern[at..]);
                    at += len;
                    out.push(next);
                    form = regexp();
                }
            }
            '[' | ']' => {
                out.push(c);
                form = regexp();
            }
            c => out.push(c),
        }
        first = false;
    }
    if matches!(form, Form::Regexp(_)) {
        out.push('$');
        return Form::Regexp(out);
    }
    form
}

/// Sets of bytes, as sums of [`bit`]s, that decide most paths without a
/// comparison.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Needs {
    pub(super) anywhere: u64,
    pub(super) at_end: u64,
}

impl Needs {
    /// All of `text`, and the last byte of `end`.
    fn of(text: &[u8], end: &[u8]) -> Self {
        Self {
            anywhere: text.iter().fold(0, |set, b| set | bit(*b)),
            at_end: match end.last() {
                Some(b'/') | None => 0,
                Some(last) => bit(*last),
            },
        }
    }

    /// Whether all of this is in `path`.
    #[inline]
    pub(super) fn are_in(&self, path: &Self) -> bool {
        self.anywhere & !path.anywhere == 0 && self.at_end & !path.at_end == 0
    }
}

/// One of 64 bits for a byte. That several bytes share one only makes the sets
/// decide less.
#[inline]
pub(super) fn bit(b: u8) -> u64 {
    1 << (b & 63)
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) enum Pattern {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    Program(Box<Program>),
}

impl Pattern {
    /// `None` when the expression is none.
    pub(super) fn compile(pattern: &[u8]) -> Option<Self> {
        Some(match translate(pattern) {
            Form::Exact => Self::Exact(pattern.to_vec()),
            Form::Prefix => Self::Prefix(pattern[..pattern.len() - 2].to_vec()),
            Form::Suffix => Self::Suffix(pattern[2..].to_vec()),
            Form::Regexp(text) => Self::Program(Box::new(Program::parse(&text)?)),
        })
    }

    /// The bytes that must be in a path for this to match it or what is above
    /// it, and the one that a component of it must end in.
    pub(super) fn needs(&self) -> Needs {
        match self {
            // The text may end in the middle of a component.
            Self::Prefix(text) => Needs::of(text, &[]),
            Self::Exact(text) => Needs::of(text, text),
            // The slash in front may be missing.
            Self::Suffix(text) => Needs::of(text.strip_prefix(b"/").unwrap_or(text), text),
            Self::Program(program) => program.needs(),
        }
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(text) => starts_with(path, text),
            Self::Suffix(text) => {
                ends_with(path, text)
                    || text
                        .split_first()
                        .is_some_and(|(first, rest)| *first == b'/' && path == rest)
            }
            Self::Program(program) => program.matches(path),
        }
    }

    /// Whether it matches `path` or what is above it; `cuts` are the places of
    /// the slashes in `path`.
    pub(super) fn covers(&self, path: &[u8], cuts: &[usize]) -> bool {
        match self {
            Self::Exact(text) => match path.get(text.len()) {
                None => path == text,
                Some(b'/') => starts_with(path, text),
                Some(_) => false,
            },
            // What is above is a prefix of the path.
            Self::Prefix(text) => starts_with(path, text),
            Self::Suffix(_) => {
                self.matches(path) || cuts.iter().any(|cut| self.matches(&path[..*cut]))
            }
            Self::Program(program) => program.covers(path, cuts),
        }
    }

    /// Whether it can match a path that starts with `dir`, which ends in `/`.
    pub(super) fn reaches_below(&self, dir: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.len() > dir.len() && text.starts_with(dir),
            Self::Prefix(text) => text.starts_with(dir) || dir.starts_with(text),
            Self::Suffix(_) => true,
            Self::Program(program) => program.reaches_below(dir),
        }
    }
}
