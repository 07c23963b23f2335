//! Which part of an instruction went wrong.

use super::StepError;
use crate::context::select::SelectError;
use crate::dockerfile::span::Span;
use crate::graph::{Op, Step};

/// The part of a COPY that an error is about.
pub(super) fn place(step: &Step, error: &StepError) -> Option<Span> {
    let Op::Copy(op) = &step.op else {
        return None;
    };
    let error = match error {
        StepError::User(_) => return op.chown_span,
        StepError::Copy(_) => return op.dest_span,
        StepError::Exclude(e) => return op.exclude_spans.get(e.line.wrapping_sub(1)).copied(),
        StepError::Select(error) => error,
        _ => return None,
    };
    match error {
        SelectError::NotFound { path, .. } => step.source_span(path),
        SelectError::Pattern(pattern) => step.source_span(&pattern.0),
        SelectError::Dangling { path, .. } => step.source_span(&path.to_string_lossy()),
        SelectError::Exclude(_) | SelectError::TooDeep(_) | SelectError::Read { .. } => None,
    }
}
