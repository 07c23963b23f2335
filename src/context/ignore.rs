//! `.dockerignore`: which paths of a context are not there.
//!
//! The last pattern that matches a path decides; a pattern also covers all
//! that is below what it matches; `!` takes back. Patterns are compiled when
//! the file is parsed, so a malformed one is an error even if no path ever
//! meets it.
//!
//! Paths are relative to the context, without `.`, `..` or a slash at either
//! end, and are bytes.
//!
//! # Specification
//! Dockerfile reference, ".dockerignore file"; [`super::pattern`] for what it
//! leaves open.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::glob::Glob;
use super::pattern::{Needs, Pattern, bit};

/// The longest line of an ignore file, in bytes.
pub const MAX_LINE: usize = 65_535;

/// Why an ignore file is refused. Numbers are those of lines, from one; in a
/// list of patterns that of the pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct IgnoreError {
    /// Where.
    pub line: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A `!` without a pattern.
    #[error("a `!` takes nothing back by itself; name what to take back, as in !README.md")]
    Negation,
    /// The pattern has an open class, a bad range or a `\` at its end.
    #[error(
        "the pattern {0:?} has an open or empty `[…]`, or ends with a `\\`; put a `\\` before what is meant as it is"
    )]
    Syntax(String),
    /// The line is longer than [`MAX_LINE`].
    #[error("the line is longer than {MAX_LINE} bytes")]
    LineTooLong,
}

#[derive(Debug, Clone)]
struct Rule {
    takes_back: bool,
    needs: Needs,
    pattern: Pattern,
}

/// What is known of a path before any pattern is tried.
struct Known<'a> {
    path: &'a [u8],
    /// Places of the slashes.
    cuts: &'a [usize],
    has: Needs,
}

impl Rule {
    /// Whether the pattern matches the path or what is above it.
    #[inline]
    fn covers(&self, known: &Known<'_>) -> bool {
        self.needs.are_in(&known.has) && self.pattern.covers(known.path, known.cuts)
    }
}

/// The rules of an ignore file.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

impl Ignore {
    /// Reads an ignore file.
    pub fn parse(file: &[u8]) -> Result<Self, IgnoreError> {
        Self::compile(read_patterns(file)?)
    }

    /// Takes patterns one by one, as the `--exclude` flags of COPY have them.
    pub fn from_patterns<P: AsRef<[u8]>>(
        patterns: impl IntoIterator<Item = P>,
    ) -> Result<Self, IgnoreError> {
        let numbered = patterns.into_iter().enumerate();
        Self::compile(numbered.map(|(i, p)| (i + 1, p.as_ref().to_vec())))
    }

    fn compile(patterns: impl IntoIterator<Item = (usize, Vec<u8>)>) -> Result<Self, IgnoreError> {
        let mut rules = Vec::new();
        for (line, text) in patterns {
            let text = trim(&text);
            if text.is_empty() {
                continue;
            }
            let cleaned = clean(text);
            let (takes_back, body) = match cleaned.strip_prefix(b"!") {
                Some([]) => {
                    let fault = Fault::Negation;
                    return Err(IgnoreError { line, fault });
                }
                Some(body) => (true, body),
                None => (false, &cleaned[..]),
            };
            let bad = || IgnoreError {
                line,
                fault: Fault::Syntax(String::from_utf8_lossy(&cleaned).into_owned()),
            };
            Glob::parse(body).map_err(|_| bad())?;
            let pattern = Pattern::compile(body).ok_or_else(bad)?;
            rules.push(Rule {
                takes_back,
                needs: pattern.needs(),
                pattern,
            });
        }
        Ok(Self { rules })
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a `!` pattern takes something back.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|r| r.takes_back)
    }

    /// Whether `path` is ignored.
    pub fn ignored(&self, path: &Path) -> bool {
        self.ignored_bytes(path.as_os_str().as_bytes())
    }

    /// [`ignored`](Self::ignored) for a path as bytes.
    pub fn ignored_bytes(&self, path: &[u8]) -> bool {
        let mut buffer = [0; 32];
        let mut more = Vec::new();
        let known = look(path, &mut buffer, &mut more);
        let mut ignored = false;
        for rule in &self.rules {
            // A rule that would change nothing need not be looked at.
            if rule.takes_back == ignored && rule.covers(&known) {
                ignored = !rule.takes_back;
            }
        }
        ignored
    }

    /// Whether a `!` pattern can bring back something below the directory
    /// `dir`. Where not, and `dir` is ignored, nothing in it needs a look.
    pub fn may_reinclude_below(&self, dir: &Path) -> bool {
        if !self.rules.iter().any(|r| r.takes_back) {
            return false;
        }
        let path = dir.as_os_str().as_bytes();
        let mut buffer = [0; 32];
        let mut more = Vec::new();
        let known = look(path, &mut buffer, &mut more);
        let below = [path, b"/"].concat();
        // From the end: a rule that ignores the directory as a whole also
        // settles all that earlier rules say about what is below.
        for rule in self.rules.iter().rev() {
            let covers = rule.covers(&known);
            match (rule.takes_back, covers) {
                (true, true) => return true,
                (false, true) => return false,
                (true, false) if rule.pattern.reaches_below(&below) => return true,
                _ => {}
            }
        }
        false
    }

    /// Whether a pattern without `!` can match something below the directory
    /// `dir`, when the patterns say what to take and not what to leave.
    pub fn may_match_below(&self, dir: &Path) -> bool {
        let path = dir.as_os_str().as_bytes();
        let below = if path.is_empty() {
            Vec::new()
        } else {
            [path, b"/"].concat()
        };
        let mut rules = self.rules.iter().filter(|r| !r.takes_back);
        rules.any(|r| r.pattern.reaches_below(&below)) || self.ignored(dir)
    }
}

/// Looks at `path` once.
fn look<'a>(path: &'a [u8], buffer: &'a mut [usize; 32], more: &'a mut Vec<usize>) -> Known<'a> {
    let mut has = Needs::default();
    let mut n = 0;
    let mut before = 0;
    for (i, b) in path.iter().enumerate() {
        let own = bit(*b);
        has.anywhere |= own;
        if *b == b'/' {
            has.at_end |= before;
            match buffer.get_mut(n) {
                Some(place) => *place = i,
                None => more.push(i),
            }
            n += 1;
        }
        before = own;
    }
    has.at_end |= before;
    let cuts: &[usize] = if more.is_empty() {
        &buffer[..n]
    } else {
        more.splice(..0, *buffer);
        more
    };
    Known { path, cuts, has }
}

/// The patterns of an ignore file with the numbers of their lines: comments and
/// blank lines dropped, blanks trimmed, paths cleaned, a leading slash taken
/// away; a `!` stays in front.
pub fn read_patterns(file: &[u8]) -> Result<Vec<(usize, Vec<u8>)>, IgnoreError> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut out = Vec::new();
    for (i, line) in file.split(|b| *b == b'\n').enumerate() {
        if line.len() > MAX_LINE {
            return Err(IgnoreError {
                line: i + 1,
                fault: Fault::LineTooLong,
            });
        }
        // A comment starts in the first column and nowhere else.
        if line.first() == Some(&b'#') {
            continue;
        }
        let line = trim(line);
        if line.is_empty() {
            continue;
        }
        let (takes_back, body) = match line.strip_prefix(b"!") {
            Some(body) => (true, trim(body)),
            None => (false, line),
        };
        let mut pattern = if takes_back { vec![b'!'] } else { Vec::new() };
        if !body.is_empty() {
            let cleaned = clean(body);
            pattern.extend_from_slice(match cleaned.strip_prefix(b"/") {
                Some(rest) if !rest.is_empty() => rest,
                _ => &cleaned,
            });
        }
        out.push((i + 1, pattern));
    }
    Ok(out)
}

fn trim(text: &[u8]) -> &[u8] {
    match std::str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

/// The shortest path that means the same, by its text alone.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(last) if *last != b".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", &joined[..]].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

/// `path` below a root: no leading slash, no `.`, and `..` applied to the text
/// and never above the root.
pub(crate) fn tidy(path: &Path) -> PathBuf {
    let rooted = clean(&[b"/", path.as_os_str().as_bytes()].concat());
    OsStr::from_bytes(rooted.get(1..).unwrap_or_default()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignore(lines: &[&str]) -> Ignore {
        Ignore::parse(lines.join("\n").as_bytes()).unwrap()
    }

    #[test]
    fn decides() {
        let table: &[(&[&str], &str, bool)] = &[
            (&["*"], "a/b", true),
            (&["*.md", "!README.md"], "README.md", false),
            (&["*.md", "!README.md"], "doc/x.md", false),
            (&["**/*.md"], "doc/x.md", true),
            (&["**/*.md"], "x.md", true),
            (&["node_modules"], "node_modules/a/b.js", true),
            (&["**/node_modules"], "a/node_modules/x", true),
            (&["**/node_modules"], "a/not_node_modules/x", false),
            (&["docs", "!docs/keep"], "docs/keep/x", false),
            (&["docs", "!docs/keep", "docs/keep/x"], "docs/keep/x", true),
            (&["abc/**"], "abc", false),
            (&["abc/**"], "abc/d", true),
            (&["/a/b/"], "a/b/c", true),
            (&["a[^b]c"], "a/c", true),
            (&["a?c"], "a/c", false),
            (&["[[:digit:]]x"], "1x", true),
            (&["a\\*b"], "a*b", true),
            (&["a\\*b"], "axb", false),
            (&["*^b"], "a^b", false),
            (&["*/*/x"], "a/b/x", true),
            (&["b*/**/c"], "b1/c", true),
            (&["b*/**/c"], "b1/x/y/c", true),
            (&["b*/**/c"], "b1/xc", false),
            (&["#a"], "#a", false),
            (&[" #a"], "#a", true),
            (&[], "a", false),
        ];
        for (lines, path, expected) in table {
            assert_eq!(
                ignore(lines).ignored(Path::new(path)),
                *expected,
                "{lines:?} {path}"
            );
        }
        let any = Ignore::parse(b"a\xff*").unwrap();
        assert!(any.ignored_bytes(b"a\xffb") && !any.ignored_bytes(b"ab"));
    }

    #[test]
    fn pruning() {
        let table: &[(&[&str], &str, bool)] = &[
            (&["*"], "a", false),
            (&["*", "!b"], "a", false),
            (&["*", "!a/b"], "a", true),
            (&["*", "!a/b"], "ab", false),
            (&["*", "!a/b/c"], "a/b", true),
            (&["*", "!**/x"], "a", true),
            (&["*", "!a*/x/*.c"], "abc", true),
            (&["*", "!a*/x/*.c"], "abc/y", false),
            (&["*", "!a/b", "a"], "a", false),
            (&["**", "!src", "node_modules"], "node_modules", false),
            (&["*", "!a/**"], "a", true),
            (&["*", "!a/**"], "b", false),
            (&["*", "!x"], "x/y", true),
        ];
        for (lines, dir, expected) in table {
            assert_eq!(
                ignore(lines).may_reinclude_below(Path::new(dir)),
                *expected,
                "{lines:?} {dir}"
            );
        }
        let take = Ignore::from_patterns(["a/b*/c"]).unwrap();
        for (dir, expected) in [
            ("", true),
            ("a", true),
            ("a/bx", true),
            ("a/x", false),
            ("c", false),
        ] {
            assert_eq!(take.may_match_below(Path::new(dir)), expected, "{dir}");
        }
    }

    #[test]
    fn refuses() {
        for (text, error) in [
            ("a\n!\n", "line 2"),
            ("[", "line 1"),
            ("!/", "line 1"),
            ("[z-a]", "line 1"),
            ("a\\", "line 1"),
            ("[*]x[", "line 1"),
        ] {
            let e = Ignore::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(e.starts_with(error), "{text:?}: {e}");
        }
        assert_eq!(
            Ignore::parse("x".repeat(MAX_LINE + 1).as_bytes()).unwrap_err(),
            IgnoreError {
                line: 1,
                fault: Fault::LineTooLong
            }
        );
    }

    #[test]
    fn no_pattern_is_a_trap() {
        let began = std::time::Instant::now();
        let stars = Ignore::parse("*".repeat(60_000).as_bytes()).unwrap();
        assert!(stars.ignored(Path::new("aaaa")));
        let mixed = Ignore::parse("*a".repeat(2_000).as_bytes()).unwrap();
        assert!(!mixed.ignored_bytes(&[&b"a".repeat(1_999)[..], b"b"].concat()));
        let deep = Ignore::parse(("**/a".repeat(500) + "[bc]").as_bytes()).unwrap();
        assert!(!deep.ignored_bytes(&b"a/".repeat(2_000)));
        assert!(began.elapsed().as_secs() < 5);
    }
}
