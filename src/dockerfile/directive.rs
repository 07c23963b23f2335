//! `# syntax=`, `# escape=` and `# check=` at the top of a file.
//!
//! They count only before anything else: the first line that is none ends
//! them, be it blank, a comment or an instruction. A `#!` line may come first;
//! `// syntax=` is read as well.
//!
//! # Specification
//! Dockerfile reference, "Parser directives".

use super::ast::{Directives, Text};
use super::error::ParseError;
use super::line::Line;
use super::span::Span;

/// Takes lines from the top until one is no directive.
#[derive(Debug)]
pub(super) struct Reader {
    found: Directives,
    seen_escape: bool,
    first: bool,
    /// After a `#!` line, `escape` has no meaning.
    after_shebang: bool,
    done: bool,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            found: Directives {
                syntax: None,
                escape: '\\',
                check: None,
            },
            seen_escape: false,
            first: true,
            after_shebang: false,
            done: false,
        }
    }

    pub(super) fn escape(&self) -> char {
        self.found.escape
    }

    pub(super) fn finish(self) -> Directives {
        self.found
    }

    /// Whether the line was a directive and is done with.
    ///
    /// # Errors
    /// For a directive given twice and for an escape character that is none.
    pub(super) fn take(&mut self, line: Line<'_>) -> Result<bool, ParseError> {
        if self.done {
            return Ok(false);
        }
        let first = std::mem::replace(&mut self.first, false);
        if first && line.full.starts_with("#!") {
            self.after_shebang = true;
            return Ok(true);
        }
        let Some((name, value)) = split(line.text(), line.start) else {
            self.done = true;
            return Ok(false);
        };
        let slashes = line.text().trim_start().starts_with("//");
        match name.to_ascii_lowercase().as_str() {
            "syntax" => set("syntax", &mut self.found.syntax, value)?,
            "check" if !slashes => set("check", &mut self.found.check, value)?,
            "escape" if !slashes && !self.after_shebang => self.set_escape(&value)?,
            "escape" if self.after_shebang => {}
            _ => {
                self.done = true;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn set_escape(&mut self, value: &Text) -> Result<(), ParseError> {
        if std::mem::replace(&mut self.seen_escape, true) {
            return Err(twice("escape", value.span));
        }
        self.found.escape = match value.value.as_str() {
            "\\" => '\\',
            "`" => '`',
            other => {
                return Err(ParseError::new(
                    format!("`{other}` can't be the escape character"),
                    value.span,
                )
                .hint("write `# escape=\\` or `# escape=``"));
            }
        };
        Ok(())
    }
}

/// The name and value of a comment that has a directive's form, for `# check=`
/// above an instruction.
pub(super) fn in_comment(comment: &str) -> Option<(&str, &str)> {
    let (name, value, _) = pair(comment)?;
    Some((name, value))
}

fn split(line: &str, start: usize) -> Option<(&str, Text)> {
    let trimmed = line.trim_start();
    let rest = trimmed
        .strip_prefix("//")
        .or_else(|| trimmed.strip_prefix('#'))?
        .trim_start();
    let (name, value, offset) = pair(rest)?;
    let at = start + (line.len() - rest.len()) + offset;
    Some((
        name,
        Text {
            value: value.to_owned(),
            span: Span::new(at, at + value.len()),
        },
    ))
}

/// `name = value`, with the value's offset.
fn pair(text: &str) -> Option<(&str, &str, usize)> {
    let (name, value) = text.split_once('=')?;
    let name = name.trim_end_matches(is_blank);
    let mut chars = name.chars();
    if !chars.next()?.is_ascii_alphabetic() || !chars.all(|c| c.is_ascii_alphanumeric()) {
        return None;
    }
    let shown = value.trim_start_matches(is_blank);
    let offset = text.len() - shown.len();
    let shown = shown.trim_end_matches(is_blank);
    (!shown.is_empty()).then_some((name, shown, offset))
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '\u{c}')
}

fn set(name: &str, place: &mut Option<Text>, value: Text) -> Result<(), ParseError> {
    if place.is_some() {
        return Err(twice(name, value.span));
    }
    *place = Some(value);
    Ok(())
}

fn twice(name: &str, span: Span) -> ParseError {
    ParseError::new(format!("the directive `{name}` is given twice"), span)
        .hint("remove one of them")
}
