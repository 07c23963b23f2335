//! The first pass: a file's instructions as keyword, flags, text and heredocs,
//! before anything is known of what each of them means.

use super::ast::{Directives, Heredoc};
use super::directive;
use super::error::ParseError;
use super::heredoc;
use super::json;
use super::line::{Line, Lines, Logical, continued};
use super::span::Span;
use super::words;

/// A piece of a logical line: `start..end` of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) value: String,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// One instruction.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) line: Logical,
    /// From the keyword to the last heredoc's delimiter.
    pub(super) span: Span,
    pub(super) keyword: Piece,
    /// The words that begin with `--`, quotes removed.
    pub(super) flags: Vec<Piece>,
    /// What follows the flags.
    pub(super) args: Piece,
    pub(super) heredocs: Vec<Heredoc>,
    pub(super) comments: Vec<String>,
    /// Whether no blank line parts it from its comments.
    pub(super) comments_adjacent: bool,
    /// The last line, where one among the continuations is empty.
    pub(super) empty_continuation: Option<Span>,
}

/// Reads a file's instructions one after the other.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    lines: Lines<'a>,
    directives: directive::Reader,
    length: usize,
    any: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            lines: Lines::new(text),
            directives: directive::Reader::new(),
            length: text.len(),
            any: false,
        }
    }

    /// The escape character; right from the first instruction on.
    pub(super) fn escape(&self) -> char {
        self.directives.escape()
    }

    /// The directives; all of them from the first instruction on.
    pub(super) fn directives(self) -> Directives {
        self.directives.finish()
    }

    /// The next instruction.
    ///
    /// # Errors
    /// For lines that are too long, bad directives, heredocs that don't end
    /// and a file without instructions.
    pub(super) fn next(&mut self) -> Result<Option<Raw>, ParseError> {
        let mut comments: Vec<String> = Vec::new();
        let mut adjacent = true;
        while let Some(line) = self.lines.next()? {
            if self.directives.take(line)? {
                continue;
            }
            let text = line.text().trim_start();
            if let Some(comment) = text.strip_prefix('#') {
                match comment.trim() {
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
                adjacent = true;
            } else if text.is_empty() {
                adjacent = false;
            } else {
                self.any = true;
                let escape = self.escape();
                let joined = join(line, &mut self.lines, escape)?;
                let mut raw = instruction(joined, &mut self.lines)?;
                raw.comments_adjacent = adjacent || comments.is_empty();
                raw.comments = comments;
                return Ok(Some(raw));
            }
        }
        if self.any {
            return Ok(None);
        }
        let whole = Span::new(0, self.length);
        Err(ParseError::new("the file has no instructions", whole)
            .hint("a Dockerfile begins with a FROM, for instance `FROM scratch`"))
    }
}

struct Joined {
    line: Logical,
    span: Span,
    empty: Option<Span>,
}

/// `first` and the lines that continue it.
fn join(first: Line<'_>, lines: &mut Lines<'_>, escape: char) -> Result<Joined, ParseError> {
    let indent = first.text().len() - first.text().trim_start().len();
    let start = first.start + indent;
    let text = &first.text()[indent..];
    let mut joined = Joined {
        line: Logical::default(),
        span: Span::new(start, first.text_end()),
        empty: None,
    };
    let Some(before) = continued(text, escape) else {
        joined.line.push(text, start);
        return Ok(joined);
    };
    joined.line.push(before, start);
    let mut has_empty = false;
    let mut last = joined.span;
    while let Some(line) = lines.next()? {
        joined.span.end = line.text_end();
        last = Span::new(line.start, line.text_end());
        let text = line.text();
        let trimmed = text.trim_start();
        if trimmed.starts_with('#') {
            continue;
        }
        if trimmed.is_empty() {
            has_empty = true;
            continue;
        }
        match continued(text, escape) {
            Some(before) => joined.line.push(before, line.start),
            None => {
                joined.line.push(text, line.start);
                break;
            }
        }
    }
    joined.empty = has_empty.then_some(last);
    Ok(joined)
}

fn instruction(joined: Joined, lines: &mut Lines<'_>) -> Result<Raw, ParseError> {
    let end = joined.line.text.len();
    let mut raw = split(&joined.line, 0, end);
    raw.span = joined.span;
    raw.empty_continuation = joined.empty;
    if may_have_heredocs(&raw) {
        for opening in heredoc::openings(&joined.line.text, joined.span)? {
            let heredoc = heredoc::body(opening, lines, joined.span)?;
            raw.span.end = heredoc.end.end;
            raw.heredocs.push(heredoc);
        }
    }
    raw.line = joined.line;
    Ok(raw)
}

/// Splits `start..end` of a line into keyword, flags and the rest. The result
/// has no line of its own yet.
pub(super) fn split(line: &Logical, start: usize, end: usize) -> Raw {
    let text = line.text.get(start..end).unwrap_or_default();
    let trimmed = text.trim_start();
    let from = start + (text.len() - trimmed.len());
    let trimmed = trimmed.trim_end();
    let length = trimmed.find(words::is_blank).unwrap_or(trimmed.len());
    let keyword = Piece {
        value: trimmed[..length].to_owned(),
        start: from,
        end: from + length,
    };
    let (flags, args) = words::flags(&trimmed[length..], from + length);
    Raw {
        span: line.span(from, from + trimmed.len()),
        line: Logical::default(),
        keyword,
        flags,
        args,
        heredocs: Vec::new(),
        comments: Vec::new(),
        comments_adjacent: true,
        empty_continuation: None,
    }
}

fn may_have_heredocs(raw: &Raw) -> bool {
    let mut keyword = raw.keyword.value.as_str();
    let mut args = raw.args.value.as_str();
    if keyword.eq_ignore_ascii_case("ONBUILD") {
        let length = args.find(words::is_blank).unwrap_or(args.len());
        (keyword, args) = args.split_at(length);
        args = args.trim_start();
    }
    ["RUN", "COPY", "ADD"]
        .iter()
        .any(|k| keyword.eq_ignore_ascii_case(k))
        && args.contains("<<")
        && !matches!(
            json::list(words::flags(args, 0).1.value.as_str()),
            json::List::Strings(_)
        )
}
