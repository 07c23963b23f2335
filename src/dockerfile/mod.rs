//! Dockerfile text → typed instructions, and what can be said about them
//! without running anything. Pure: no I/O, and nothing from the rest of the
//! crate.
//!
//! ```text
//! text ──line, directive, heredoc──▶ raw ──args, instruction──▶ ast
//!        physical → logical lines    keyword, flags, text       typed, checked
//! ```
//!
//! [`parse`] does both passes. Nothing is expanded in it: [`word`] and
//! [`mount`] expand one text at a time over a lookup function, and who calls
//! them decides on the scope.
//!
//! Invariants: no input makes anything here panic; every [`span::Span`] lies
//! in the text, on character boundaries; time and memory are linear in the
//! text's length.
//!
//! # Specification
//! The Dockerfile reference.

pub mod ast;
pub mod chmod;
pub mod lint;
pub mod mount;
pub mod ports;
pub mod span;
pub mod suggest;
pub mod word;

mod args;
mod directive;
mod dump;
mod error;
mod heredoc;
mod instruction;
mod json;
mod line;
mod parse;
mod print;
mod raw;
mod words;

pub use dump::dump;
pub use error::ParseError;
pub use instruction::check_copy_from;
pub use parse::{parse, parse_trigger};
pub use print::{print, same_but_spans};
