//! Which other stages a stage takes files from.

use std::collections::HashMap;

use super::super::ast::{Dockerfile, InstructionKind, Stage, Text};
use super::super::error::ParseError;
use super::super::instruction::check_copy_from;
use super::super::mount::{self, MountSpec};
use super::super::span::Span;
use super::super::suggest;
use super::froms::Node;
use super::names;

/// The stages that each stage's own instructions refer to.
pub(super) fn needs(
    file: &Dockerfile,
    by_name: &HashMap<String, usize>,
    nodes: &mut [Node],
) -> Result<(), ParseError> {
    let count = file.stages.len();
    for (i, (stage, node)) in file.stages.iter().zip(nodes).enumerate() {
        for instruction in &stage.instructions {
            match &instruction.kind {
                InstructionKind::Copy(copy) => {
                    let Some(from) = &copy.from else { continue };
                    check_copy_from(from, file.directives.escape)?;
                    let number = from.value.parse::<i64>().ok();
                    let at = match number {
                        Some(number) => Some(stage_number(number, count, from)?),
                        None => by_name.get(&from.value.to_lowercase()).copied(),
                    };
                    match at {
                        Some(at) if at == i => return Err(own_stage(stage, from.span)),
                        Some(at) => node.needs.push((at, from.span)),
                        None if !names::is_reference(&from.value) => {
                            return Err(no_image(file, &from.value, from.span));
                        }
                        None => {}
                    }
                }
                InstructionKind::Run(run) => {
                    for text in &run.mounts {
                        let from = match mount::parse_with(&text.value, &|v| Ok(v.to_owned())) {
                            Ok(MountSpec::Bind(bind)) => bind.from,
                            Ok(MountSpec::Cache(cache)) => cache.from,
                            _ => None,
                        };
                        let Some(from) = from else { continue };
                        match by_name.get(&from.to_lowercase()) {
                            Some(at) if *at == i => {
                                return Err(own_stage(stage, text.span));
                            }
                            Some(at) => node.needs.push((*at, text.span)),
                            None => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn stage_number(number: i64, count: usize, from: &Text) -> Result<usize, ParseError> {
    usize::try_from(number)
        .ok()
        .filter(|at| *at < count)
        .ok_or_else(|| {
            ParseError::new(format!("there is no stage number {number}"), from.span).hint(format!(
                "the file's stages have the numbers 0 to {}",
                count - 1
            ))
        })
}

fn own_stage(stage: &Stage, span: Span) -> ParseError {
    let name = stage.name.as_ref().map_or("", |n| n.value.as_str());
    ParseError::new(format!("the stage {name} takes files from itself"), span)
        .hint("a stage sees its own files without --from; take others from an earlier stage")
}

pub(super) fn no_image(file: &Dockerfile, name: &str, span: Span) -> ParseError {
    ParseError::new(
        format!("`{name}` is neither a stage nor an image's name"),
        span,
    )
    .hint("image names have small letters only, as in `example.org/name:tag`")
    .hint_option(suggest::stage(file, name))
}
