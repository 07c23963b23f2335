//! Wildcards of COPY and ADD: one path segment against one pattern.
//!
//! `*` and `?` don't match `/`, `[a-z]` and `[^a]` are classes, `\` takes the
//! next character as it is. A pattern is a value that can't fail any more once
//! it is parsed, and matching is linear in the name for each `*`.
//!
//! # Specification
//! Dockerfile reference, COPY: the rules are those of Go's `filepath.Match`.

/// A pattern that means nothing: an open class, a bad range, a `\` at the end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pattern {0:?} has an open or empty `[…]`, or ends with a `\\`; put a `\\` before what is meant as it is"
)]
pub struct BadPattern(pub String);

#[derive(Debug, Clone)]
enum Token {
    Byte(u8),
    Any,
    Star,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A parsed pattern.
#[derive(Debug, Clone)]
pub struct Glob(Vec<Token>);

impl Glob {
    /// Parses `pattern`.
    pub fn parse(pattern: &[u8]) -> Result<Self, BadPattern> {
        parse(pattern)
            .map(Self)
            .ok_or_else(|| BadPattern(String::from_utf8_lossy(pattern).into_owned()))
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &[u8]) -> bool {
        let tokens = &self.0;
        let (mut t, mut n) = (0, 0);
        // Where the last star stands and how far it reaches.
        let mut star: Option<(usize, usize)> = None;
        loop {
            let step = match tokens.get(t) {
                Some(Token::Star) => {
                    star = Some((t, n));
                    t += 1;
                    continue;
                }
                Some(token) => single(token, &name[n..]),
                None if n == name.len() => return true,
                None => None,
            };
            if let Some(len) = step {
                t += 1;
                n += len;
                continue;
            }
            // The last star takes one byte more; it never passes a slash.
            match star {
                Some((at, end)) if end < name.len() && name[end] != b'/' => {
                    star = Some((at, end + 1));
                    t = at + 1;
                    n = end + 1;
                }
                _ => return false,
            }
        }
    }
}

/// Whether `pattern` has a wildcard that is not escaped.
pub fn has_wildcard(pattern: &[u8]) -> bool {
    let mut bytes = pattern.iter();
    while let Some(b) = bytes.next() {
        match b {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// How many bytes of `name` the token takes, `None` when it doesn't match.
fn single(token: &Token, name: &[u8]) -> Option<usize> {
    let first = *name.first()?;
    match token {
        Token::Byte(b) => (*b == first).then_some(1),
        Token::Any => (first != b'/').then(|| decode(name).1),
        Token::Class { negated, ranges } => {
            let (c, len) = decode(name);
            let inside = ranges.iter().any(|(lo, hi)| *lo <= c && c <= *hi);
            (inside != *negated).then_some(len)
        }
        Token::Star => None,
    }
}

fn parse(pattern: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut at = 0;
    while let Some(b) = pattern.get(at) {
        at += 1;
        match b {
            b'*' => {
                if !matches!(tokens.last(), Some(Token::Star)) {
                    tokens.push(Token::Star);
                }
            }
            b'?' => tokens.push(Token::Any),
            b'\\' => {
                tokens.push(Token::Byte(*pattern.get(at)?));
                at += 1;
            }
            b'[' => {
                let negated = pattern.get(at) == Some(&b'^');
                at += usize::from(negated);
                let mut ranges = Vec::new();
                while ranges.is_empty() || pattern.get(at) != Some(&b']') {
                    let lo = class_char(pattern, &mut at)?;
                    let mut hi = lo;
                    if pattern.get(at) == Some(&b'-') {
                        at += 1;
                        hi = class_char(pattern, &mut at)?;
                    }
                    ranges.push((lo, hi));
                }
                at += 1;
                tokens.push(Token::Class { negated, ranges });
            }
            b => tokens.push(Token::Byte(*b)),
        }
    }
    Some(tokens)
}

/// One character of a class; something must come after it.
fn class_char(pattern: &[u8], at: &mut usize) -> Option<char> {
    match pattern.get(*at)? {
        b'-' | b']' => return None,
        b'\\' => *at += 1,
        _ => {}
    }
    let rest = pattern.get(*at..)?;
    if rest.is_empty() {
        return None;
    }
    let (c, len) = decode(rest);
    if c == char::REPLACEMENT_CHARACTER && len == 1 {
        return None;
    }
    *at += len;
    (*at < pattern.len()).then_some(c)
}

/// The first character of `bytes`, which is not empty, and its length. A byte
/// that is no UTF-8 counts as U+FFFD.
pub(crate) fn decode(bytes: &[u8]) -> (char, usize) {
    let Some(first) = bytes.first() else {
        return (char::REPLACEMENT_CHARACTER, 0);
    };
    if first.is_ascii() {
        return (char::from(*first), 1);
    }
    let len = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return (char::REPLACEMENT_CHARACTER, 1),
    };
    bytes
        .get(..len)
        .and_then(|b| std::str::from_utf8(b).ok())
        .and_then(|s| s.chars().next())
        .map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("abc", "abc", true),
            ("*", "", true),
            ("*", "a/b", false),
            ("a*", "ab/c", false),
            ("*.go", "main.go", true),
            ("*.go", ".go", true),
            ("a*b*c", "axxbxxbxxc", true),
            ("a*b*c", "axxbxxbxx", false),
            ("a?c", "aßc", true),
            ("a?c", "a/c", false),
            ("[^a]", "é", true),
            ("[b-d]x", "cx", true),
            ("[\\]]", "]", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*a", "aaa", true),
        ] {
            let glob = Glob::parse(pattern.as_bytes()).unwrap();
            assert_eq!(glob.matches(name.as_bytes()), expected, "{pattern} {name}");
        }
        assert!(Glob::parse(b"a?b").unwrap().matches(b"a\xffb"));
    }

    #[test]
    fn malformed() {
        for bad in [
            "[", "[^", "[]a]", "[a", "[a-", "[a-]", "[-a]", "\\", "x[a-b-c]", "[\\",
        ] {
            assert!(Glob::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Glob::parse(b"[\xff]").is_err());
    }

    #[test]
    fn many_stars_are_no_trap() {
        let pattern = "*a".repeat(2000) + "b";
        let glob = Glob::parse(pattern.as_bytes()).unwrap();
        assert!(!glob.matches("a".repeat(4000).as_bytes()));
    }

    #[test]
    fn wildcards_seen() {
        assert!(has_wildcard(b"a*") && has_wildcard(b"[a]") && has_wildcard(b"\\a?"));
        assert!(!has_wildcard(b"a\\*b") && !has_wildcard(b"abc"));
    }
}
