//! The patterns of `${name#pattern}` and its relatives: `*`, `?` and `\`.

use regex::{NoExpand, Regex};

use super::WordProblem;

/// Longer patterns are refused; matching takes time in proportion to the
/// value's length times this.
const MAX_PATTERN: usize = 4096;

/// `Err` where `pattern` is none.
pub(super) fn check(pattern: &str) -> Result<(), WordProblem> {
    regex(pattern, true, false).map(|_| ())
}

/// `value` without the shortest or longest start that matches.
pub(super) fn trim_prefix(
    value: &str,
    pattern: &str,
    longest: bool,
) -> Result<String, WordProblem> {
    let found = regex(pattern, longest, true)?.find(value).map(|m| m.end());
    Ok(value
        .get(found.unwrap_or(0)..)
        .unwrap_or_default()
        .to_owned())
}

/// `value` without the shortest or longest end that matches.
pub(super) fn trim_suffix(
    value: &str,
    pattern: &str,
    longest: bool,
) -> Result<String, WordProblem> {
    // A search runs from the left, so both sides are turned around.
    let turned = trim_prefix(&reverse(value), &reverse_pattern(pattern), longest)?;
    Ok(reverse(&turned))
}

/// `value` with the first match or all of them replaced, refused where the
/// result would take more than `room` bytes.
pub(super) fn replace(
    value: &str,
    pattern: &str,
    replacement: &str,
    all: bool,
    room: usize,
) -> Result<String, WordProblem> {
    let regex = regex(pattern, true, false)?;
    let matches = if all { value.chars().count() + 1 } else { 1 };
    let most = replacement
        .len()
        .saturating_mul(matches)
        .saturating_add(value.len());
    if most > room {
        let matches = regex.find_iter(value).take(matches).count();
        let size = replacement.len().saturating_mul(matches);
        if size.saturating_add(value.len()) > room {
            return Err(WordProblem::Size);
        }
    }
    let limit = usize::from(!all);
    Ok(regex
        .replacen(value, limit, NoExpand(replacement))
        .into_owned())
}

fn regex(pattern: &str, longest: bool, anchored: bool) -> Result<Regex, WordProblem> {
    if pattern.len() > MAX_PATTERN {
        return Err(WordProblem::PatternSize { limit: MAX_PATTERN });
    }
    let bad = || WordProblem::Pattern(pattern.to_owned());
    let mut source = String::with_capacity(pattern.len() + 8);
    if anchored {
        source.push('^');
    }
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => source.push_str(if longest { ".*" } else { ".*?" }),
            '?' => source.push('.'),
            '\\' => match chars.peek() {
                // These end the pattern in the file, so their escape belongs to
                // the file and not to the pattern.
                Some('}' | '/') => {}
                Some(&next @ ('*' | '?' | '\\')) => {
                    chars.next();
                    source.push('\\');
                    source.push(next);
                }
                _ => return Err(bad()),
            },
            _ => push_literal(&mut source, c),
        }
    }
    Regex::new(&source).map_err(|_| bad())
}

fn push_literal(source: &mut String, c: char) {
    if regex_syntax_char(c) {
        source.push('\\');
    }
    source.push(c);
}

fn regex_syntax_char(c: char) -> bool {
    matches!(
        c,
        '[' | ']' | '{' | '}' | '.' | '+' | '(' | ')' | '|' | '^' | '$' | '#' | '&' | '-' | '~'
    )
}

fn reverse(text: &str) -> String {
    text.chars().rev().collect()
}

/// Turned around, an escape stays before what it escapes.
fn reverse_pattern(pattern: &str) -> String {
    let mut parts = Vec::new();
    let mut rest = pattern.char_indices().peekable();
    while let Some((start, c)) = rest.next() {
        if c == '\\' {
            rest.next();
        }
        let end = rest.peek().map_or(pattern.len(), |(i, _)| *i);
        parts.push(&pattern[start..end]);
    }
    parts.into_iter().rev().collect()
}
