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

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) enum Pattern {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    Program(Program),
}

impl Pattern {
    /// `None` when the expression is none.
    pub(super) fn compile(pattern: &[u8]) -> Option<Self> {
        Some(match translate(pattern) {
            Form::Exact => Self::Exact(pattern.to_vec()),
            Form::Prefix => Self::Prefix(pattern[..pattern.len() - 2].to_vec()),
            Form::Suffix => Self::Suffix(pattern[2..].to_vec()),
            Form::Regexp(text) => Self::Program(Program::parse(&text)?),
        })
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(text) => path.starts_with(text),
            Self::Suffix(text) => {
                path.ends_with(text)
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
                Some(b'/') => path.starts_with(text),
                Some(_) => false,
            },
            // What is above is a prefix of the path.
            Self::Prefix(text) => path.starts_with(text),
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

#[derive(Debug, Clone, PartialEq)]
enum Set {
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
    fn has(&self, c: char) -> bool {
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
enum Step {
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
pub(super) struct Program {
    steps: Vec<Step>,
    prefix: Vec<u8>,
    suffix: Vec<u8>,
    middle: Middle,
    /// Whether a step asks what comes next.
    looks_ahead: bool,
}

/// When a run through a path has found what it looks for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Goal {
    /// At the end of the path.
    End,
    /// There, or before one of its slashes.
    EndOrSlash,
    /// When, at the end, it could go on.
    GoOn,
}

impl Program {
    fn parse(text: &str) -> Option<Self> {
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
            steps,
        })
    }

    fn covers(&self, path: &[u8], cuts: &[usize]) -> bool {
        let mut ends = cuts.iter().copied().chain([path.len()]);
        if self.middle != Middle::Other || self.looks_ahead {
            return ends.any(|end| self.matches(&path[..end]));
        }
        path.starts_with(&self.prefix)
            && ends.any(|end| path[..end].ends_with(&self.suffix))
            && self.run(path, Goal::EndOrSlash)
    }

    fn matches(&self, path: &[u8]) -> bool {
        let ends = self.prefix.len() + self.suffix.len();
        if path.len() < ends || !path.ends_with(&self.suffix) || !path.starts_with(&self.prefix) {
            return false;
        }
        let middle = &path[self.prefix.len()..path.len() - self.suffix.len()];
        match self.middle {
            Middle::NotSlash => !middle.contains(&b'/'),
            Middle::Anything if !middle.contains(&b'\n') => true,
            Middle::Anything | Middle::Other => self.run(path, Goal::End),
        }
    }

    fn reaches_below(&self, dir: &[u8]) -> bool {
        let common = self.prefix.len().min(dir.len());
        self.prefix[..common] == dir[..common] && self.run(dir, Goal::GoOn)
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
    fn enter(&self, states: &mut [u64], i: usize, before: Option<char>, after: Option<char>) {
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

fn set(states: &mut [u64], i: usize) {
    states[i / 64] |= 1 << (i % 64);
}

/// Reads the expressions that [`translate`] writes.
struct Parser<'a> {
    rest: &'a str,
    steps: Vec<Step>,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn run(&mut self) -> Option<()> {
        while let Some(c) = self.next() {
            let set = match c {
                '(' => {
                    self.rest = self.rest.strip_prefix(".*/)?")?;
                    if !self.steps.ends_with(&[Step::Dirs, Step::InDirs]) {
                        self.steps.extend([Step::Dirs, Step::InDirs]);
                    }
                    continue;
                }
                '^' => {
                    self.steps.push(Step::Start);
                    continue;
                }
                '.' => Set::Dot,
                '[' => self.class()?,
                '\\' => match self.escape()? {
                    Escape::Set(set) => set,
                    Escape::Step(step) => {
                        self.steps.push(step);
                        continue;
                    }
                },
                c => Set::Char(c),
            };
            if let Some(rest) = self.rest.strip_prefix('*') {
                self.rest = rest;
                // Nothing can repeat a repetition.
                if rest.starts_with('*') {
                    return None;
                }
                let star = Step::Star(set);
                if self.steps.last() != Some(&star) {
                    self.steps.push(star);
                }
            } else {
                self.steps.push(Step::One(set));
            }
        }
        Some(())
    }

    fn class(&mut self) -> Option<Set> {
        let negated = self.rest.starts_with('^');
        if negated {
            self.next();
        }
        let mut ranges = Vec::new();
        let mut first = true;
        loop {
            if self.rest.starts_with(']') && !first {
                self.next();
                break;
            }
            // A hyphen stands for itself only at the two ends.
            if self.rest.starts_with('-') && !first && !self.rest.starts_with("-]") {
                return None;
            }
            first = false;
            if let Some(rest) = self.rest.strip_prefix("[:")
                && let Some((name, rest)) = rest.split_once(":]")
            {
                ranges.extend(posix(name)?);
                self.rest = rest;
                continue;
            }
            let lo = match self.class_item()? {
                Escape::Set(Set::Char(c)) => c,
                Escape::Set(Set::Class { negated, ranges: r }) => {
                    ranges.extend(if negated { complement(&r) } else { r });
                    continue;
                }
                _ => return None,
            };
            let mut hi = lo;
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.next();
                let Escape::Set(Set::Char(c)) = self.class_item()? else {
                    return None;
                };
                hi = c;
                if hi < lo {
                    return None;
                }
            }
            ranges.push((lo, hi));
        }
        if negated && ranges == [('/', '/')] {
            return Some(Set::NotSlash);
        }
        Some(Set::Class { negated, ranges })
    }

    fn class_item(&mut self) -> Option<Escape> {
        match self.next()? {
            '\\' => self.escape(),
            c => Some(Escape::Set(Set::Char(c))),
        }
    }

    /// What comes after a backslash.
    fn escape(&mut self) -> Option<Escape> {
        let class = |negated, ranges: &[(char, char)]| {
            Escape::Set(Set::Class {
                negated,
                ranges: ranges.to_vec(),
            })
        };
        let c = self.next()?;
        Some(match c {
            'd' | 'D' => class(c == 'D', DIGIT),
            'w' | 'W' => class(c == 'W', WORD),
            's' | 'S' => class(c == 'S', &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')]),
            'a' => Escape::Set(Set::Char('\x07')),
            'f' => Escape::Set(Set::Char('\x0c')),
            't' => Escape::Set(Set::Char('\t')),
            'n' => Escape::Set(Set::Char('\n')),
            'r' => Escape::Set(Set::Char('\r')),
            'v' => Escape::Set(Set::Char('\x0b')),
            'A' => Escape::Step(Step::Start),
            'z' => Escape::Step(Step::End),
            'b' | 'B' => Escape::Step(Step::Boundary(c == 'b')),
            c if c.is_ascii_alphanumeric() => return None,
            c if c.is_ascii() => Escape::Set(Set::Char(c)),
            _ => return None,
        })
    }
}

enum Escape {
    Set(Set),
    Step(Step),
}

const DIGIT: &[(char, char)] = &[('0', '9')];
const WORD: &[(char, char)] = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];

fn posix(name: &str) -> Option<Vec<(char, char)>> {
    let (negated, name) = match name.strip_prefix('^') {
        Some(name) => (true, name),
        None => (false, name),
    };
    let ranges: &[(char, char)] = match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => DIGIT,
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => WORD,
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    };
    Some(if negated {
        complement(ranges)
    } else {
        ranges.to_vec()
    })
}

/// All characters that are in none of `ranges`, which are in order.
fn complement(ranges: &[(char, char)]) -> Vec<(char, char)> {
    let mut out = Vec::new();
    let mut from = '\0';
    for (lo, hi) in ranges {
        if let Some(last) = char::from_u32((*lo as u32).wrapping_sub(1))
            && from <= last
        {
            out.push((from, last));
        }
        from = char::from_u32(*hi as u32 + 1).unwrap_or(char::MAX);
    }
    out.push((from, char::MAX));
    out
}
