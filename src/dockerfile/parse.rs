//! Both passes over a file, and what holds between its instructions.

use super::args::Keyword;
use super::ast::{Dockerfile, Instruction, Stage};
use super::error::ParseError;
use super::instruction::{self, Context};
use super::raw::{Raw, Reader};
use super::span::Span;

/// The most instructions that a file may have. No image can be built of so
/// many, and each costs far more memory than its text.
const MAX_INSTRUCTIONS: usize = 100_000;

/// Reads a Dockerfile.
///
/// # Errors
/// The first [`ParseError`]; its span lies in `text`.
pub fn parse(text: &str) -> Result<Dockerfile, ParseError> {
    let mut reader = Reader::new(text);
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut empty_continuations = Vec::new();
    let mut count = 0;
    while let Some(mut raw) = reader.next()? {
        count += 1;
        if count > MAX_INSTRUCTIONS {
            let message = format!("the file has more than {MAX_INSTRUCTIONS} instructions");
            return Err(ParseError::new(message, raw.span)
                .hint("a generated file can put several variables, labels or commands into one"));
        }
        empty_continuations.extend(raw.empty_continuation);
        let line = std::mem::take(&mut raw.line);
        let context = Context {
            line: &line,
            escape: reader.escape(),
        };
        let Some(keyword) = Keyword::of(&raw.keyword.value) else {
            return Err(instruction::unknown(&raw, &context));
        };
        if keyword == Keyword::From {
            stages.push(instruction::from(raw, &context)?);
            continue;
        }
        let place = raw.span;
        let instruction = instruction::read(raw, keyword, &context)?;
        match stages.last_mut() {
            Some(stage) => stage.instructions.push(instruction),
            None if keyword == Keyword::Arg => global_args.push(instruction),
            None => {
                return Err(ParseError::new(
                    format!("{} stands before the first FROM", keyword.name()),
                    place,
                )
                .hint("only ARG may come before the first FROM"));
            }
        }
    }
    if stages.is_empty() {
        return Err(
            ParseError::new("the file has no FROM", Span::new(0, text.len()))
                .hint("a build needs an image to start from; `FROM scratch` is an empty one"),
        );
    }
    Ok(Dockerfile {
        directives: reader.directives(),
        global_args,
        stages,
        empty_continuations,
    })
}

/// Reads an ONBUILD trigger as an image's config holds it: one instruction,
/// heredocs included. Its spans count from the trigger's start.
///
/// # Errors
/// [`ParseError`] where it is no single instruction, or one that can't be a
/// trigger.
pub fn parse_trigger(text: &str) -> Result<Instruction, ParseError> {
    let mut reader = Reader::new(text);
    let whole = Span::new(0, text.len());
    match (reader.next()?, reader.next()?) {
        (Some(raw), None) => trigger(raw, whole),
        _ => Err(ParseError::new(
            "the trigger isn't a single instruction",
            whole,
        )),
    }
}

fn trigger(mut raw: Raw, whole: Span) -> Result<Instruction, ParseError> {
    let line = std::mem::take(&mut raw.line);
    let context = Context {
        line: &line,
        escape: '\\',
    };
    match Keyword::of(&raw.keyword.value) {
        None => Err(instruction::unknown(&raw, &context)),
        Some(keyword @ (Keyword::From | Keyword::OnBuild)) => Err(ParseError::new(
            format!("{} can't be a trigger", keyword.name()),
            whole,
        )),
        Some(keyword) => instruction::read(raw, keyword, &context),
    }
}
