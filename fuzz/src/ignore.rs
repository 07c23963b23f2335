//! Ignore patterns once more, by trying everything.

/// Whether `path` is ignored by `patterns`, which are cleaned and may begin
/// with `!`; `None` where one of them is not modelled.
pub fn ignored(patterns: &[String], path: &str) -> Option<bool> {
    let mut ignored = false;
    for pattern in patterns {
        let (takes_back, body) = match pattern.strip_prefix('!') {
            Some(body) => (true, body),
            None => (false, pattern.as_str()),
        };
        let rule = Rule::of(body)?;
        let mut parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        if parents.any(|parent| rule.matches(parent)) || rule.matches(path) {
            ignored = !takes_back;
        }
    }
    Some(ignored)
}

#[derive(Debug)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Star,
    /// `**` in the middle, with the slash behind it: nothing, or anything up
    /// to a slash.
    Dirs,
    /// `**` at the end.
    Rest,
    Class(bool, Vec<(char, char)>),
}

enum Rule {
    /// `**text`
    EndsWith(String),
    /// `text/**`
    StartsWith(String),
    Tokens(Vec<Token>),
}

impl Rule {
    fn of(pattern: &str) -> Option<Self> {
        let odd = |c: char| c.is_control() || "^]".contains(c) || !c.is_ascii();
        let outside_of_classes: String = without_classes(pattern)?;
        if outside_of_classes.contains(odd) || pattern.len() > 60 {
            return None;
        }
        let special = |text: &str| text.contains(['*', '?', '[', '\\']);
        if let Some(rest) = pattern.strip_prefix("**")
            && !special(rest)
        {
            return Some(Self::EndsWith(rest.into()));
        }
        if let Some(start) = pattern.strip_suffix("**")
            && !special(start)
        {
            return Some(Self::StartsWith(start.into()));
        }
        tokens(pattern).map(Self::Tokens)
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::EndsWith(text) => {
                path.ends_with(text.as_str()) || text.strip_prefix('/') == Some(path)
            }
            Self::StartsWith(text) => path.starts_with(text.as_str()),
            Self::Tokens(tokens) => {
                let path: Vec<char> = path.chars().collect();
                matches(tokens, &path)
            }
        }
    }
}

/// The pattern with its classes taken out; `None` for one that is not a list
/// of letters, digits and ranges of them.
fn without_classes(pattern: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        if c == '\\' {
            let escaped = rest[1..].chars().next()?;
            if !escaped.is_ascii_punctuation() || escaped == '/' {
                return None;
            }
            rest = &rest[2..];
            continue;
        }
        if c == '[' {
            let (class, after) = rest[1..].split_once(']')?;
            let class = class.strip_prefix('^').unwrap_or(class);
            if class.is_empty() || !class.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                return None;
            }
            rest = after;
            continue;
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

fn tokens(pattern: &str) -> Option<Vec<Token>> {
    let mut out = Vec::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = &rest[1..];
        out.push(match c {
            '*' => match rest.strip_prefix('*') {
                Some(after) => {
                    rest = after.strip_prefix('/').unwrap_or(after);
                    if rest.is_empty() {
                        Token::Rest
                    } else {
                        Token::Dirs
                    }
                }
                None => Token::Star,
            },
            '?' => Token::One,
            '\\' => {
                let escaped = rest.chars().next()?;
                rest = &rest[1..];
                Token::Char(escaped)
            }
            '[' => {
                let (class, after) = rest.split_once(']')?;
                rest = after;
                let (negated, class) = match class.strip_prefix('^') {
                    Some(class) => (true, class),
                    None => (false, class),
                };
                let chars: Vec<char> = class.chars().collect();
                let mut ranges = Vec::new();
                let mut at = 0;
                while let Some(low) = chars.get(at) {
                    if *low == '-' {
                        return None;
                    }
                    match (chars.get(at + 1), chars.get(at + 2)) {
                        (Some('-'), Some(high)) => {
                            ranges.push((*low, *high));
                            at += 3;
                        }
                        _ => {
                            ranges.push((*low, *low));
                            at += 1;
                        }
                    }
                }
                Token::Class(negated, ranges)
            }
            c => Token::Char(c),
        });
    }
    Some(out)
}

/// Whether the whole of `path` matches, by the table of all pairs of prefixes.
fn matches(tokens: &[Token], path: &[char]) -> bool {
    let mut row = vec![false; path.len() + 1];
    row[0] = true;
    for token in tokens {
        let mut next = vec![false; path.len() + 1];
        for n in 0..=path.len() {
            let last = n.checked_sub(1).map(|i| path[i]);
            let one = |fits: &dyn Fn(char) -> bool| last.is_some_and(|c| row[n - 1] && fits(c));
            next[n] = match token {
                Token::Char(own) => one(&|c| c == *own),
                Token::One => one(&|c| c != '/'),
                Token::Class(negated, ranges) => {
                    one(&|c| ranges.iter().any(|(lo, hi)| *lo <= c && c <= *hi) != *negated)
                }
                Token::Star => row[n] || (last.is_some_and(|c| c != '/') && next[n - 1]),
                Token::Rest => row[n] || (last.is_some_and(|c| c != '\n') && next[n - 1]),
                Token::Dirs => {
                    row[n]
                        || (last == Some('/')
                            && (0..n).any(|m| row[m] && !path[m..n].contains(&'\n')))
                }
            };
        }
        row = next;
    }
    row[path.len()]
}
