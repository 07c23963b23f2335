//! What several targets share: slow, plain models to compare with, and ways
//! to make structured input from a fuzzer's bytes.

pub mod archive;
pub mod ignore;
pub mod word;

use shiplap::dockerfile::span::Span;

/// Splits a fuzzer's text at NUL characters, which no real input has.
pub fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split('\0')
}

/// Fails when `span` is not a piece of `text`.
pub fn check_span(span: Span, text: &str) {
    assert!(span.start <= span.end);
    assert!(text.get(span.start..span.end).is_some(), "{span:?}");
}
