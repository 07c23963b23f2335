//! Physical lines, and the logical lines that continuations make of them.
//!
//! A logical line remembers where each of its pieces stood, so that spans
//! always point into the file.

use super::error::ParseError;
use super::span::Span;

/// The longest physical line, in bytes and without its newline.
pub(super) const MAX_LINE: usize = 65_535;

const BYTE_ORDER_MARK: char = '\u{feff}';

/// One physical line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) start: usize,
    /// The text with its line ending.
    pub(super) full: &'a str,
}

impl<'a> Line<'a> {
    /// The text without its line ending.
    pub(super) fn text(self) -> &'a str {
        self.full.trim_end_matches(['\r', '\n'])
    }

    /// One past the last byte of [`Self::text`].
    pub(super) fn text_end(self) -> usize {
        self.start + self.text().len()
    }
}

/// The physical lines of a file.
#[derive(Debug, Clone)]
pub(super) struct Lines<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lines<'a> {
    /// A byte order mark at the start is left out.
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: if text.starts_with(BYTE_ORDER_MARK) {
                BYTE_ORDER_MARK.len_utf8()
            } else {
                0
            },
        }
    }

    /// The next line.
    ///
    /// # Errors
    /// Where it is longer than [`MAX_LINE`].
    pub(super) fn next(&mut self) -> Result<Option<Line<'a>>, ParseError> {
        let start = self.at;
        let rest = self.text.get(start..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let length = rest.find('\n').map_or(rest.len(), |i| i + 1);
        let full = &rest[..length];
        if full.trim_end_matches('\n').len() > MAX_LINE {
            return Err(ParseError::new(
                format!("the line is longer than {MAX_LINE} bytes"),
                Span::new(start, start + length),
            )
            .hint("break it with a continuation, or move the data into a file and COPY it"));
        }
        self.at += length;
        Ok(Some(Line { start, full }))
    }
}

/// A line that may have been joined from several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Logical {
    /// The joined text.
    pub(super) text: String,
    /// Offsets in the text and in the file at which a piece begins.
    pieces: Vec<(usize, usize)>,
}

impl Logical {
    /// Adds a piece that begins at `start` in the file.
    pub(super) fn push(&mut self, piece: &str, start: usize) {
        self.pieces.push((self.text.len(), start));
        self.text.push_str(piece);
    }

    /// Where the byte at `at` of the joined text stands in the file.
    pub(super) fn place(&self, at: usize) -> usize {
        let i = self.pieces.partition_point(|(offset, _)| *offset <= at);
        match i.checked_sub(1).and_then(|i| self.pieces.get(i)) {
            Some((offset, start)) => start + (at - offset),
            None => self.pieces.first().map_or(0, |(_, start)| *start),
        }
    }

    /// The span of `start..end` of the joined text.
    pub(super) fn span(&self, start: usize, end: usize) -> Span {
        let first = self.place(start);
        if end <= start {
            return Span::new(first, first);
        }
        Span::new(first, self.place(end - 1) + 1)
    }
}

/// The text before a continuation character at the end of `line`, or `None`
/// where the line is not continued. Two escape characters in a row are none.
pub(super) fn continued(line: &str, escape: char) -> Option<&str> {
    let before = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!before.ends_with(escape)).then_some(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continuations() {
        for (line, expected) in [
            ("a\\", Some("a")),
            ("a \\ \t", Some("a ")),
            ("\\", Some("")),
            (" \\", Some(" ")),
            ("a\\\\", None),
            ("a", None),
            ("", None),
            ("a\\b", None),
        ] {
            assert_eq!(continued(line, '\\'), expected, "{line:?}");
        }
        assert_eq!(continued("a\\", '`'), None);
        assert_eq!(continued("a`", '`'), Some("a"));
    }

    #[test]
    fn places_point_into_the_file() {
        let mut line = Logical::default();
        line.push("RUN a", 10);
        line.push("", 20);
        line.push("b", 30);
        assert_eq!(line.place(0), 10);
        assert_eq!(line.place(4), 14);
        assert_eq!(line.place(5), 30);
        assert_eq!(line.span(4, 6), Span::new(14, 31));
        assert_eq!(line.span(2, 2), Span::new(12, 12));
    }

    #[test]
    fn lines_end_and_begin() {
        let mut lines = Lines::new("\u{feff}a\r\nb");
        let first = lines.next().unwrap().unwrap();
        assert_eq!((first.start, first.text(), first.full), (3, "a", "a\r\n"));
        let second = lines.next().unwrap().unwrap();
        assert_eq!((second.start, second.text()), (6, "b"));
        assert_eq!(lines.next().unwrap(), None);
        assert!(Lines::new(&"x".repeat(MAX_LINE)).next().is_ok());
        assert!(Lines::new(&"x".repeat(MAX_LINE + 1)).next().is_err());
    }
}
