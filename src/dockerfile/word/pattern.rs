//! The patterns of `${name#pattern}` and its relatives: `*`, `?` and `\`.
//!
//! A pattern is matched by keeping the set of its places that the text read so
//! far can have led to, 64 of them in a word. That takes time in proportion to
//! the text, whatever it is, and nothing has to be compiled, which would cost
//! most where patterns are many and short.

use std::collections::HashMap;

use super::WordProblem;

/// Longer patterns are refused; matching takes time in proportion to the
/// value's length times this.
const MAX_PATTERN: usize = 4096;

/// Places of a pattern in one word of a set.
const PLACES: usize = u64::BITS as usize;

/// A pattern, ready to be matched.
#[derive(Debug)]
pub(super) struct Pattern {
    parts: Vec<Part>,
    /// Whether a `*` stands before each part, and behind the last.
    stars: Vec<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// `?`: any character but a newline, as `*` is any number of them.
    Any,
    Char(char),
}

impl Pattern {
    /// # Errors
    /// Where it is too long, or a `\` stands before something else than `*`,
    /// `?` and `\`.
    pub(super) fn parse(text: &str) -> Result<Self, WordProblem> {
        if text.len() > MAX_PATTERN {
            return Err(WordProblem::PatternSize { limit: MAX_PATTERN });
        }
        let mut parts = Vec::new();
        let mut stars = vec![false];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let part = match c {
                '*' => {
                    stars[parts.len()] = true;
                    continue;
                }
                '?' => Part::Any,
                '\\' => match chars.peek() {
                    // These end the pattern in the file, so their escape belongs
                    // to the file and not to the pattern.
                    Some('}' | '/') => continue,
                    Some(&next @ ('*' | '?' | '\\')) => {
                        chars.next();
                        Part::Char(next)
                    }
                    _ => return Err(WordProblem::Pattern(text.to_owned())),
                },
                c => Part::Char(c),
            };
            parts.push(part);
            stars.push(false);
        }
        Ok(Self { parts, stars })
    }

    /// About how many steps it takes to match `value`.
    pub(super) fn work(&self, value: &str) -> usize {
        // A match that comes to nothing may be tried on so many lines.
        let lines = self.parts.iter().filter(|p| **p == Part::Char('\n'));
        let words = self.parts.len() / PLACES + 1;
        value.len().saturating_mul(words * (1 + lines.count()))
    }

    /// `value` without the shortest or longest start that matches.
    pub(super) fn trim_prefix<'v>(&self, value: &'v str, longest: bool) -> &'v str {
        let chars = value.char_indices().map(|(at, c)| (at + c.len_utf8(), c));
        let end = Matcher::new(self).end(chars, 0, longest).unwrap_or(0);
        &value[end..]
    }

    /// `value` without the shortest or longest end that matches.
    pub(super) fn trim_suffix<'v>(&self, value: &'v str, longest: bool) -> &'v str {
        let chars = value.char_indices().rev();
        let start = Matcher::new(&self.reversed()).end(chars, value.len(), longest);
        &value[..start.unwrap_or(value.len())]
    }

    /// `value` with the first match or all of them replaced; each one begins as
    /// far left as it can and is as long as it can be.
    ///
    /// # Errors
    /// Where the result would take more than `room` bytes.
    pub(super) fn replace(
        &self,
        value: &str,
        replacement: &str,
        all: bool,
        room: usize,
    ) -> Result<String, WordProblem> {
        let starts = self.starts(value);
        let mut matcher = Matcher::new(self);
        let mut out = String::new();
        // What comes before this is written, and where the last match ended.
        let (mut written, mut last_end) = (0, None);
        let mut from = 0;
        while let Some(start) = starts
            .get(from..)
            .and_then(|rest| Some(from + rest.iter().position(|can| *can)?))
        {
            let rest = value[start..].char_indices();
            let rest = rest.map(|(at, c)| (start + at + c.len_utf8(), c));
            let end = matcher.end(rest, start, true).unwrap_or(start);
            if end == start && last_end == Some(end) {
                // Nothing is matched twice at one place.
                from = start + 1;
                continue;
            }
            out.push_str(&value[written..start]);
            out.push_str(replacement);
            (written, last_end, from) = (end, Some(end), end);
            if out.len() > room {
                return Err(WordProblem::Size);
            }
            if !all {
                break;
            }
        }
        if out.len() + value.len() - written > room {
            return Err(WordProblem::Size);
        }
        out.push_str(&value[written..]);
        Ok(out)
    }

    /// For each byte of `value`, and its end, whether a match begins there.
    fn starts(&self, value: &str) -> Vec<bool> {
        let mut starts = vec![false; value.len() + 1];
        let reversed = self.reversed();
        let mut matcher = Matcher::new(&reversed);
        matcher.begin();
        starts[value.len()] = matcher.is_match();
        for (at, c) in value.char_indices().rev() {
            matcher.step(c);
            matcher.add_begin();
            starts[at] = matcher.is_match();
        }
        starts
    }

    /// The pattern for a text that is read from its end.
    fn reversed(&self) -> Self {
        Self {
            parts: self.parts.iter().rev().copied().collect(),
            stars: self.stars.iter().rev().copied().collect(),
        }
    }
}

/// Sets of places as rows of words. Place `n` is the one behind `n` parts.
struct Matcher {
    /// Words in a row.
    width: usize,
    /// The last place, where all is matched.
    last: usize,
    /// The places that are reached.
    now: Vec<u64>,
    /// Places with a `*`.
    stars: Vec<u64>,
    /// For each kind of character the places from which it leads on; the first
    /// row is for characters that the pattern does not name.
    rows: Vec<u64>,
    /// The rows of ASCII characters, and of others.
    ascii: [u16; 128],
    others: HashMap<char, u16>,
}

impl Matcher {
    fn new(pattern: &Pattern) -> Self {
        let last = pattern.parts.len();
        let width = last / PLACES + 1;
        let set = |row: &mut [u64], place: usize| row[place / PLACES] |= 1 << (place % PLACES);
        let mut stars = vec![0; width];
        for (place, _) in pattern.stars.iter().enumerate().filter(|(_, star)| **star) {
            set(&mut stars, place);
        }
        let mut any = vec![0; width];
        for (place, part) in pattern.parts.iter().enumerate() {
            if *part == Part::Any {
                set(&mut any, place);
            }
        }
        let mut matcher = Self {
            width,
            last,
            now: vec![0; width],
            stars,
            rows: any.clone(),
            ascii: [0; 128],
            others: HashMap::new(),
        };
        let newline = matcher.add_row('\n', &vec![0; width]);
        for (place, part) in pattern.parts.iter().enumerate() {
            let Part::Char(c) = *part else { continue };
            let row = match matcher.row(c) {
                0 => matcher.add_row(c, &any),
                row => row,
            };
            debug_assert!(c != '\n' || row == newline, "it has a row");
            set(&mut matcher.rows[row * width..][..width], place);
        }
        matcher
    }

    fn row(&self, c: char) -> usize {
        let row = match self.ascii.get(c as usize) {
            Some(row) => *row,
            None => self.others.get(&c).copied().unwrap_or(0),
        };
        usize::from(row)
    }

    fn add_row(&mut self, c: char, content: &[u64]) -> usize {
        // A pattern has fewer characters than this has numbers.
        let row = u16::try_from(self.rows.len() / self.width).unwrap_or(u16::MAX);
        self.rows.extend_from_slice(content);
        match self.ascii.get_mut(c as usize) {
            Some(place) => *place = row,
            None => {
                self.others.insert(c, row);
            }
        }
        usize::from(row)
    }

    fn begin(&mut self) {
        self.now.fill(0);
        self.add_begin();
    }

    fn add_begin(&mut self) {
        self.now[0] |= 1;
    }

    fn is_match(&self) -> bool {
        self.now[self.last / PLACES] >> (self.last % PLACES) & 1 == 1
    }

    /// Reads a character; whether any place is left.
    fn step(&mut self, c: char) -> bool {
        let row = self.row(c) * self.width;
        let row = &self.rows[row..row + self.width];
        let stays = if c == '\n' { 0 } else { u64::MAX };
        let (mut carry, mut left) = (0, 0);
        for ((now, row), star) in self.now.iter_mut().zip(row).zip(&self.stars) {
            let moved = *now & row;
            *now = (moved << 1) | carry | (*now & star & stays);
            carry = moved >> (PLACES - 1);
            left |= *now;
        }
        left != 0
    }

    /// Where the shortest or longest match ends that begins with the first of
    /// `chars`, each of which has the place behind it; `start` is the place
    /// before them.
    fn end(
        &mut self,
        chars: impl Iterator<Item = (usize, char)>,
        start: usize,
        longest: bool,
    ) -> Option<usize> {
        self.begin();
        let mut found = self.is_match().then_some(start);
        for (at, c) in chars {
            if (found.is_some() && !longest) || !self.step(c) {
                break;
            }
            if self.is_match() {
                found = Some(at);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn replaces_as_far_left_and_as_long_as_it_can() {
        for (value, text, all, expected) in [
            ("aXbXc", "X", false, "a-bXc"),
            ("aXbXc", "X", true, "a-b-c"),
            ("aXbXc", "a*X", true, "-c"),
            ("abc", "*", true, "-"),
            ("ab\ncd", "*", true, "-\n-"),
            ("abc", "", true, "-a-b-c-"),
            ("äö", "?", true, "--"),
            ("a\nb", "a?b", true, "a\nb"),
        ] {
            let got = pattern(text).replace(value, "-", all, 100);
            assert_eq!(got.as_deref(), Ok(expected), "{value:?} {text:?}");
        }
        let full = pattern("a").replace("aaaa", "bbbb", true, 15);
        assert_eq!(full, Err(WordProblem::Size));
    }

    #[test]
    fn long_patterns_take_several_words() {
        let long = format!("{}*{}", "a".repeat(100), "b?".repeat(60));
        let value = format!("{}xyz{}", "a".repeat(100), "bc".repeat(61));
        let p = pattern(&long);
        assert_eq!(p.trim_prefix(&value, false), "bc");
        assert_eq!(p.trim_prefix(&value, true), "");
        assert_eq!(p.trim_suffix(&value, false), "");
        assert_eq!(p.replace(&value, "", true, 1000).as_deref(), Ok(""));
        assert!(Pattern::parse(&"a".repeat(MAX_PATTERN + 1)).is_err());
    }

    /// The same pattern for another engine.
    fn regex(text: &str, longest: bool, start: &str, end: &str) -> regex::Regex {
        let mut source = start.to_owned();
        for c in text.chars() {
            match c {
                '*' if longest => source.push_str(".*"),
                '*' => source.push_str(".*?"),
                '?' => source.push('.'),
                c => source.push_str(&regex::escape(&c.to_string())),
            }
        }
        source.push_str(end);
        regex::Regex::new(&source).unwrap()
    }

    proptest! {
        #[test]
        fn matches_what_a_regular_expression_does(
            value in "[ab\nä]{0,12}",
            text in "[ab*?\nä]{0,6}",
            longest: bool,
        ) {
            let p = pattern(&text);
            let end = regex(&text, longest, "^", "").find(&value).map_or(0, |m| m.end());
            prop_assert_eq!(p.trim_prefix(&value, longest), &value[end..]);
            let starts: Vec<usize> = (0..=value.len())
                .filter(|at| value.is_char_boundary(*at))
                .filter(|at| regex(&text, true, r"\A", r"\z").is_match(&value[*at..]))
                .collect();
            let start = if longest { starts.first() } else { starts.last() };
            let start = start.copied().unwrap_or(value.len());
            prop_assert_eq!(p.trim_suffix(&value, longest), &value[..start]);
            let replaced = regex(&text, true, "", "").replace_all(&value, "-");
            prop_assert_eq!(p.replace(&value, "-", true, 1000).unwrap(), replaced);
        }
    }
}
