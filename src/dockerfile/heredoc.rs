//! The `<<` words of a line, and the bodies that follow it.
//!
//! # Specification
//! Dockerfile reference, "Here-documents".

use super::ast::Heredoc;
use super::error::ParseError;
use super::line::Lines;
use super::span::Span;
use super::word;

/// What a `<<` word announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) name: String,
    pub(super) expand: bool,
    pub(super) strip_tabs: bool,
    pub(super) fd: u32,
}

/// The heredocs that `line` announces, in order.
///
/// # Errors
/// For a delimiter whose quotes don't match.
pub(super) fn openings(line: &str, span: Span) -> Result<Vec<Opening>, ParseError> {
    if !line.contains("<<") {
        return Ok(Vec::new());
    }
    // A line whose quotes don't match is the shell's business.
    let words = word::heredoc_words(line).unwrap_or_default();
    let mut found = Vec::new();
    for word in &words {
        found.extend(opening(word).map_err(|problem| {
            ParseError::new(
                format!("the delimiter of the heredoc `{word}` is malformed: {problem}"),
                span,
            )
        })?);
    }
    Ok(found)
}

/// The heredoc that one word announces, if any.
///
/// # Errors
/// For a delimiter whose quotes don't match.
pub(super) fn opening(word: &str) -> Result<Option<Opening>, word::WordProblem> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let Some(rest) = word[digits..].strip_prefix("<<") else {
        return Ok(None);
    };
    let strip_tabs = rest.starts_with('-');
    let delimiter = rest[usize::from(strip_tabs)..].trim_start_matches(is_blank);
    if delimiter.is_empty() || delimiter.contains('<') {
        return Ok(None);
    }
    let fd = word[..digits].parse().unwrap_or(0);
    if delimiter
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'_')
    {
        return Ok(Some(Opening {
            name: delimiter.to_owned(),
            expand: true,
            strip_tabs,
            fd,
        }));
    }
    let names = word::delimiter_words(delimiter, false).map_err(|e| e.problem)?;
    let [name] = names.as_slice() else {
        return Ok(None);
    };
    let quoted = word::delimiter_words(delimiter, true).map_err(|e| e.problem)?;
    let expand =
        quoted.len() == 1 && quotes(name) == quoted.iter().map(|w| quotes(w)).sum::<usize>();
    Ok(Some(Opening {
        name: name.clone(),
        expand,
        strip_tabs,
        fd,
    }))
}

/// Reads the body that `opening` announces.
///
/// # Errors
/// Where the file ends before the delimiter; `place` is the announcing line.
pub(super) fn body(
    opening: Opening,
    lines: &mut Lines<'_>,
    place: Span,
) -> Result<Heredoc, ParseError> {
    let mut raw = String::new();
    let mut span: Option<Span> = None;
    while let Some(line) = lines.next()? {
        let mut text = line.text();
        if opening.strip_tabs {
            text = text.trim_start_matches('\t');
        }
        if text == opening.name {
            let body = if opening.strip_tabs {
                strip_tabs(&raw)
            } else {
                raw.clone()
            };
            return Ok(Heredoc {
                name: opening.name,
                body,
                raw,
                expand: opening.expand,
                strip_tabs: opening.strip_tabs,
                fd: opening.fd,
                span: span.unwrap_or(Span::new(line.start, line.start)),
                end: Span::new(line.start, line.text_end()),
            });
        }
        let end = line.start + line.full.len();
        span = Some(
            span.unwrap_or(Span::new(line.start, end))
                .to(Span::new(line.start, end)),
        );
        raw.push_str(line.full);
    }
    let name = opening.name;
    Err(
        ParseError::new(format!("the heredoc `{name}` is never closed"), place).hint(format!(
            "put a line with only `{name}` after its body; where `<<` is no heredoc, quote it"
        )),
    )
}

/// `text` without the tabs at the starts of its lines.
fn strip_tabs(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| line.trim_start_matches('\t'))
        .collect()
}

fn quotes(text: &str) -> usize {
    text.matches(['\'', '"']).count()
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '\u{c}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_announce_heredocs() {
        let yes = |name: &str, expand, strip_tabs, fd| {
            Some(Opening {
                name: name.to_owned(),
                expand,
                strip_tabs,
                fd,
            })
        };
        for (word, expected) in [
            ("<<EOF", yes("EOF", true, false, 0)),
            ("<<-EOF", yes("EOF", true, true, 0)),
            ("3<<EOF", yes("EOF", true, false, 3)),
            ("<<'EOF'", yes("EOF", false, false, 0)),
            ("<<\"E F\"", yes("E F", false, false, 0)),
            ("<<E\"O\"F", yes("EOF", false, false, 0)),
            ("<<$X", yes("$X", true, false, 0)),
            ("<<-  EOF", yes("EOF", true, true, 0)),
            ("<<", None),
            ("<<-", None),
            ("<<<EOF", None),
            ("a<<EOF", None),
            ("EOF", None),
        ] {
            assert_eq!(opening(word), Ok(expected), "{word}");
        }
        assert!(opening("<<'EOF").is_err());
    }
}
