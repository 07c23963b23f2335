//! Reads the expressions that [`super::translate`] writes.

use super::program::{Set, Step};

/// Where in an expression reading is.
pub(super) struct Parser<'a> {
    pub(super) rest: &'a str,
    pub(super) steps: Vec<Step>,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    pub(super) fn run(&mut self) -> Option<()> {
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
