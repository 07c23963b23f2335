//! Dockerfile text → typed instructions. Pure: no I/O, no imports from the rest of the crate.

pub mod ast;
pub mod span;
