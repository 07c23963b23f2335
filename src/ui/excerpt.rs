//! The lines of a file that a message is about, with carets under the place.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::escape;

/// Lines of source that are shown at most.
const MOST_LINES: usize = 12;

/// How grave it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The command fails.
    Error,
    /// Worth a look.
    Warning,
}

/// A message with a place in a file.
#[derive(Debug)]
pub(crate) struct Excerpt<'a> {
    /// The file's name as the user knows it.
    pub(crate) file: &'a str,
    /// The file's text, from the start of some line on.
    pub(crate) source: &'a str,
    /// How many lines of the file come before `source`.
    pub(crate) lines_before: usize,
    /// Bytes of `source` that the message is about; what lies outside of it is
    /// taken for its end.
    pub(crate) span: Range<usize>,
    /// How grave it is.
    pub(crate) severity: Severity,
    /// What is wrong.
    pub(crate) message: &'a str,
    /// What to write beside the carets; may be empty.
    pub(crate) label: &'a str,
    /// Facts to add.
    pub(crate) notes: &'a [String],
}

impl Excerpt<'_> {
    /// The one-based line and column, in characters, where the place begins.
    pub(crate) fn line_column(&self) -> (u32, u32) {
        let start = floor(self.source, self.span.start);
        let before = self.source.get(..start).unwrap_or_default();
        let line = self.lines_before + before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let column = before
            .get(line_start..)
            .map_or(0, |text| text.chars().count())
            + 1;
        (
            u32::try_from(line).unwrap_or(u32::MAX),
            u32::try_from(column).unwrap_or(u32::MAX),
        )
    }

    /// The message, the place and the lines, cut to `width` columns, with a
    /// line end.
    pub(crate) fn render(&self, width: usize, colors: bool) -> String {
        let (window, line_start, span) = self.window();
        let message = escape::lines(self.message);
        let label = escape::text(self.label);
        let file = escape::text(self.file);
        let annotation = AnnotationKind::Primary.span(span);
        let annotation = if label.is_empty() {
            annotation
        } else {
            annotation.label(label.as_ref())
        };
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let notes: Vec<String> = self.notes.iter().map(|n| escape::lines(n)).collect();
        let group = level
            .primary_title(message.as_str())
            .element(
                Snippet::source(window)
                    .line_start(line_start)
                    .path(file.as_ref())
                    .annotation(annotation),
            )
            .elements(notes.iter().map(|n| Level::NOTE.message(n.as_str())));
        let renderer = if colors {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut text = renderer.term_width(width.max(40)).render(&[group]);
        text.push('\n');
        text
    }

    /// The lines that the place covers, the number of the first one, and the
    /// place within them.
    fn window(&self) -> (&str, usize, Range<usize>) {
        let start = floor(self.source, self.span.start);
        let mut end = floor(self.source, self.span.end).max(start);
        let text = |range: Range<usize>| self.source.get(range).unwrap_or_default();
        // A line end at the end would draw the caret under the next line.
        end = start + text(start..end).trim_end_matches(['\n', '\r']).len();
        if let Some((last, _)) = text(start..end).match_indices('\n').nth(MOST_LINES - 1) {
            end = start + last;
        }
        let from = text(0..start).rfind('\n').map_or(0, |i| i + 1);
        let to = text(end..self.source.len())
            .find('\n')
            .map_or(self.source.len(), |i| end + i);
        let line = self.lines_before + text(0..from).matches('\n').count() + 1;
        let window = text(from..to);
        let window = window.strip_suffix('\r').unwrap_or(window);
        let end = (end - from).min(window.len());
        (window, line, (start - from).min(end)..end)
    }
}

/// The last boundary of a character at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, span: Range<usize>, label: &str) -> (String, (u32, u32)) {
        let excerpt = Excerpt {
            file: "Dockerfile",
            source,
            lines_before: 0,
            span,
            severity: Severity::Error,
            message: "unknown instruction: RUNN",
            label,
            notes: &["instructions are upper case by custom".into()],
        };
        (excerpt.render(80, false), excerpt.line_column())
    }

    #[test]
    fn shows_the_line_with_carets() {
        let (text, place) = render("FROM a\nRUNN make\n", 7..11, "did you mean RUN?");
        assert_eq!(place, (2, 1));
        insta::assert_snapshot!(text, @r"
        error: unknown instruction: RUNN
         --> Dockerfile:2:1
          |
        2 | RUNN make
          | ^^^^ did you mean RUN?
          |
          = note: instructions are upper case by custom
        ");
    }

    #[test]
    fn shows_several_lines_and_not_the_line_end() {
        let (text, place) = render("FROM a\r\nRUN a \\\r\n  b\r\nRUN c", 8..21, "");
        assert_eq!(place, (2, 1));
        insta::assert_snapshot!(text, @r"
        error: unknown instruction: RUNN
         --> Dockerfile:2:1
          |
        2 | / RUN a \
        3 | |   b
          | |___^
          |
          = note: instructions are upper case by custom
        ");
    }

    #[test]
    fn any_span_of_any_text_is_shown() {
        for source in ["", "\n", "é\u{1b}[2J\n\n日本\r\n", "x"] {
            for start in 0..source.len() + 3 {
                for end in 0..source.len() + 3 {
                    let (text, _) = render(source, start..end, "l");
                    assert!(!text.contains('\u{1b}'), "{text}");
                }
            }
        }
        let long = "RUN x\n".repeat(100_000);
        let (text, _) = render(&long, 0..long.len(), "");
        assert!(text.lines().count() < 30);
    }

    #[test]
    fn a_part_of_the_file_says_as_much_as_the_whole() {
        let whole = Excerpt {
            file: "D",
            source: "FROM a\nRUN é x\nCMD y\n",
            lines_before: 0,
            span: 14..15,
            severity: Severity::Warning,
            message: "m",
            label: "",
            notes: &[],
        };
        let part = Excerpt {
            file: "D",
            source: &whole.source[7..],
            lines_before: 1,
            span: 7..8,
            severity: Severity::Warning,
            message: "m",
            label: "",
            notes: &[],
        };
        assert_eq!(part.line_column(), (2, 7));
        assert_eq!(part.line_column(), whole.line_column());
        assert_eq!(part.render(80, false), whole.render(80, false));
    }
}
