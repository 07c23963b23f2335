//! What is wrong with a Dockerfile, and where.

use thiserror::Error;

use super::span::Span;

/// A Dockerfile that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ParseError {
    /// What is wrong.
    pub message: String,
    /// Where, in bytes of the file's text.
    pub span: Span,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ParseError {
    /// An error about `span`.
    pub fn new(message: impl Into<String>, span: Span) -> Self {
        Self {
            message: message.into(),
            span,
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a hint, where there is one.
    #[must_use]
    pub fn hint_option(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }
}
